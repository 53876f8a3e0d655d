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
SHORT_ROW = 512  # tokens up to which plain products beat the CPU's flash attention
CACHED_WEIGHTS = 1 << 21  # attention weights that exist at one time
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


def keep_mask(
    shape: torch.Size, p: float, generator: torch.Generator | None = None
) -> tuple[torch.Tensor, float]:
    """A random bool mask, False with probability p, by default of torch's generator; and 1 / share
    kept."""
    level = min(round(p * 65536), 65535)
    n = math.prod(shape)
    words = torch.empty(-(-n // 4), dtype=torch.int64)
    words.random_(-(2**63), None, generator=generator)
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
    """`sdpa_attention_forward` of transformers, for training: torch's CPU kernels are slow there.

    query `(B, H, T, D)`, key and value `(B, H or fewer, T, D)`; returns `(B, T, H, D)`.
    """
    length = query.shape[2]
    slow = length <= SHORT_ROW or dropout > 0
    causal = kwargs.get("is_causal", getattr(module, "is_causal", True)) in (True, None)
    others = any(kwargs.get(name) is not None for name in ("softcap", "position_bias", "s_aux"))
    if not (slow and causal and torch.is_grad_enabled() and key.shape[2] == length) or others:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    out: torch.Tensor = _Attention.apply(query * scale, key, value, attention_mask, dropout)
    return out.transpose(1, 2), None


class _Attention(torch.autograd.Function):
    """Some heads at a time, so that their weights `(B, h, T, T)` stay in the CPU's caches.

    None are kept: the backward pass makes them again, and draws the same dropout from a seed.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        p: float,
    ) -> torch.Tensor:
        added = _added(mask, query)
        seed = int(torch.empty((), dtype=torch.int64).random_()) if p else 0
        out = torch.empty_like(query)
        for heads in _some_heads(query):
            weights = _weights(query[:, heads], key[:, heads], added)
            if p:
                weights *= _kept(weights, p, seed + heads.start)
            out[:, heads] = weights @ value[:, heads]
        ctx.save_for_backward(query, key, value, added)
        ctx.dropout = p, seed
        return out

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, added = ctx.saved_tensors
        p, seed = ctx.dropout
        d_query, d_key, d_value = (torch.empty_like(x) for x in (query, key, value))
        for heads in _some_heads(query):
            weights = _weights(query[:, heads], key[:, heads], added)
            dropped = weights
            if p:
                dropped = weights * _kept(weights, p, seed + heads.start)
            d_value[:, heads] = dropped.mT @ grad[:, heads]
            # The softmax's: with w its output, w * (d - sum(w * d)).
            d_scores = dropped * (grad[:, heads] @ value[:, heads].mT)
            total = d_scores.sum(-1, keepdim=True, dtype=torch.float32).to(weights.dtype)
            d_scores = d_scores.sub_(weights * total)
            d_query[:, heads] = d_scores @ key[:, heads]
            d_key[:, heads] = d_scores.mT @ query[:, heads]
        return d_query, d_key, d_value, None, None


def _some_heads(query: torch.Tensor) -> list[slice]:
    batch, n_heads, length, _ = query.shape
    n = max(1, CACHED_WEIGHTS // (batch * length * length))
    return [slice(start, min(start + n, n_heads)) for start in range(0, n_heads, n)]


def _added(mask: torch.Tensor | None, query: torch.Tensor) -> torch.Tensor:
    """What to add to the scores: nothing where a token is seen, else as much as there is."""
    length = query.shape[2]
    if mask is None:
        mask = torch.ones(length, length, dtype=torch.bool).tril_()
    if mask.dtype != torch.bool:
        return mask.to(query.dtype)
    least = torch.finfo(query.dtype).min
    return torch.zeros(mask.shape, dtype=query.dtype).masked_fill_(~mask, least)


def _weights(query: torch.Tensor, key: torch.Tensor, added: torch.Tensor) -> torch.Tensor:
    scores = (query @ key.mT).add_(added)
    return scores.softmax(-1, dtype=torch.float32).to(query.dtype)


def _kept(weights: torch.Tensor, p: float, seed: int) -> torch.Tensor:
    """What dropout multiplies weights by: 0, or 1 / share kept."""
    kept, scale = keep_mask(weights.shape, p, torch.Generator().manual_seed(seed))
    return kept.to(weights.dtype).mul_(scale)
