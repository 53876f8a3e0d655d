"""The parts of a step that the libraries compute slowly on a CPU, computed faster: same results.

Each names what it stands for, and is tested against that.
"""

from __future__ import annotations

import ctypes
import math
import sys
from typing import Any

import torch
import transformers
from torch import nn
from transformers.activations import NewGELUActivation
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

ATTENTION = "gpt2ft"
SHORT_ROW = 128  # tokens up to which plain products beat the CPU's flash attention
LOSS_ROWS = 512  # rows of logits that exist at one time


def accelerate(model: nn.Module) -> None:
    """Let a model on a CPU use what is here, where it has the usual parts; else it stays as it is.

    GPT-2's activation as one kernel; attention of short rows and with dropout; dropout; and the
    gradient of an embedding that is tied to the head. Also keeps memory that is freed: the same
    tensors are needed in the next step. What is saved of the model does not change.
    """
    if next(model.parameters()).device.type != "cpu":
        return
    keep_freed_memory()
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, NewGELUActivation):
                setattr(module, name, nn.GELU(approximate="tanh"))
            elif type(child) is nn.Dropout:
                setattr(module, name, Dropout(child.p))
    if getattr(getattr(model, "config", None), "_attn_implementation", None) == "sdpa":
        transformers.AttentionInterface.register(ATTENTION, attention)
        transformers.AttentionMaskInterface.register(ATTENTION, sdpa_mask)
        model.set_attn_implementation(ATTENTION)  # type: ignore[operator]
    if isinstance(model, transformers.PreTrainedModel):
        embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
        if type(embedding) is nn.Embedding and head is not None:
            embedding.sparse = head.weight is embedding.weight


def keep_freed_memory() -> None:
    """Have glibc keep what is freed, in this process: it gives large tensors back to the system,
    which then fills each page with zeros again. Elsewhere this does nothing."""
    if sys.platform != "linux":
        return
    trim_threshold, top_pad, mmap_max = -1, -2, -4
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(top_pad, 256 << 20)


def linear_cross_entropy(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    """Summed cross-entropy of `hidden (N, D) @ weight (V, D).T` with targets `(N,)`, in nats.

    As `F.cross_entropy` of `F.linear`, in autocast's dtype, but some rows at a time: the logits
    (N, V) never exist whole, and their gradient is made at once where they are.
    """
    loss: torch.Tensor = _LinearCrossEntropy.apply(hidden, weight, targets)
    return loss


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor
    ) -> torch.Tensor:
        device = hidden.device.type
        dtype = hidden.dtype
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
        with torch.autocast(device, enabled=False):
            return _LinearCrossEntropy._forward(ctx, hidden.to(dtype), weight.to(dtype), targets)

    @staticmethod
    def _forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor
    ) -> torch.Tensor:
        wants_hidden, wants_weight, _ = ctx.needs_input_grad
        loss = torch.zeros((), device=hidden.device)
        d_hidden = torch.empty_like(hidden) if wants_hidden else None
        d_weight = None
        for start in range(0, len(hidden), LOSS_ROWS):
            rows = slice(start, start + LOSS_ROWS)
            logits = (hidden[rows] @ weight.T).float()
            target = targets[rows, None]
            norm = logits.logsumexp(-1, keepdim=True)
            loss += (norm - logits.gather(-1, target)).sum()
            if d_hidden is None and not wants_weight:
                continue
            # The softmax, less one at the target.
            gradient = logits.sub_(norm).exp_()
            gradient.scatter_add_(-1, target, gradient.new_full(target.shape, -1.0))
            gradient = gradient.to(hidden.dtype)
            if d_hidden is not None:
                torch.mm(gradient, weight, out=d_hidden[rows])
            if wants_weight:
                part = gradient.T @ hidden[rows]
                d_weight = part if d_weight is None else d_weight.float().add_(part)
        if wants_weight and d_weight is None:  # there were no rows
            d_weight = torch.zeros_like(weight)
        ctx.save_for_backward(d_hidden, d_weight)
        return loss

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        d_hidden, d_weight = ctx.saved_tensors
        return (
            None if d_hidden is None else d_hidden.float().mul_(grad),
            None if d_weight is None else d_weight.float().mul_(grad),
            None,
        )


class Dropout(nn.Module):
    """`nn.Dropout`, its mask drawn from 16 random bits an element.

    torch draws one double an element here. The probability is the nearest multiple of 1/65536, and
    what stays is scaled by exactly that.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return dropout(x, self.p) if self.training and self.p else x

    def extra_repr(self) -> str:
        return f"p={self.p}"


def dropout(x: torch.Tensor, p: float) -> torch.Tensor:
    """x with a share p of its elements set to 0 and the others scaled up; see `Dropout`."""
    kept, scale = keep_mask(x.shape, p)
    out: torch.Tensor = _Masked.apply(x, kept, scale)
    return out


def keep_mask(shape: torch.Size, p: float) -> tuple[torch.Tensor, float]:
    """A random bool mask, False with probability p, from torch's generator; and 1 / share kept."""
    level = min(round(p * 65536), 65535)
    n = math.prod(shape)
    words = torch.empty(-(-n // 4), dtype=torch.int64).random_(-(2**63), None)
    kept = words.view(torch.int16)[:n] >= level - 32768
    return kept.view(shape), 65536 / (65536 - level)


class _Masked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, kept: torch.Tensor, scale: float) -> torch.Tensor:
        ctx.save_for_backward(kept)
        ctx.scale = scale
        return (x * kept).mul_(scale)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (kept,) = ctx.saved_tensors
        return (grad * kept).mul_(ctx.scale), None, None


def attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """`sdpa_attention_forward` of transformers, whose CPU kernel is slow in two cases.

    Those are training on short rows, and dropout. query `(B, H, T, D)`, key and value
    `(B, H or fewer, T, D)`; returns `(B, T, H, D)`.
    """
    length = query.shape[2]
    slow = length <= SHORT_ROW or dropout > 0
    usual = key.shape[2] == length > 1 and query.shape[1] == key.shape[1]
    others = any(kwargs.get(name) is not None for name in ("softcap", "position_bias", "s_aux"))
    causal = kwargs.get("is_causal", getattr(module, "is_causal", True)) in (True, None)
    if not (slow and usual and causal and torch.is_grad_enabled()) or others:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = (query * scale) @ key.transpose(-1, -2)
    if attention_mask is None:
        seen = torch.ones(length, length, dtype=torch.bool).tril_()
        scores = scores.masked_fill(~seen, -torch.inf)
    elif attention_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    else:
        scores = scores + attention_mask
    weights = scores.softmax(-1, dtype=torch.float32).to(value.dtype)
    if dropout:
        weights = _Masked.apply(weights, *keep_mask(weights.shape, dropout))
    return (weights @ value).transpose(1, 2), None
