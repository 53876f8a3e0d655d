"""The parts of a step that the libraries compute slowly on a CPU, computed faster: same results.

Each names what it stands for, and is tested against that.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import nn
from transformers.activations import NewGELUActivation
from transformers.masking_utils import sdpa_mask
from transformers.pytorch_utils import Conv1D

from .attention import attention
from .dropout import Dropout

ATTENTION = "gpt2ft"
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
    _swap(model, NewGELUActivation, lambda _: nn.GELU(approximate="tanh"))
    _swap(model, nn.Dropout, lambda child: Dropout(child.p))
    if getattr(getattr(model, "config", None), "_attn_implementation", None) == "sdpa":
        transformers.AttentionInterface.register(ATTENTION, attention)
        transformers.AttentionMaskInterface.register(ATTENTION, sdpa_mask)
        model.set_attn_implementation(ATTENTION)  # type: ignore[operator]
    if isinstance(model, transformers.PreTrainedModel):
        embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
        if type(embedding) is nn.Embedding and head is not None:
            embedding.sparse = head.weight is embedding.weight


def unfold_linear(model: nn.Module) -> None:
    """GPT-2's `Conv1D` as `nn.Linear`, the layout that is read faster for a few rows.

    For a model that only writes: its tensors have other shapes then.
    """

    def linear(child: Conv1D) -> nn.Module:
        layer = nn.Linear(1, 1)
        layer.weight, layer.bias = nn.Parameter(child.weight.T.contiguous()), child.bias
        return layer

    _swap(model, Conv1D, linear)


def _swap(model: nn.Module, kind: type, replacement: Callable[[Any], nn.Module]) -> None:
    """Replace every module that is of that very kind."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is kind:
                setattr(module, name, replacement(child).train(child.training))


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
