"""Dropout from 16 random bits an element: torch draws one double for each on a CPU."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import nn


class Dropout(nn.Module):
    """`nn.Dropout`, its mask drawn from 16 random bits an element.

    On a CPU torch draws a double for each. p is rounded to the nearest multiple of 1/65536, and
    what stays is scaled to match. The backward pass draws the mask again. On any other device
    torch's own dropout is used.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not x.is_cpu:  # the model was moved
            return nn.functional.dropout(x, self.p, self.training)
        return dropout(x, self.p) if self.training and self.p else x

    def extra_repr(self) -> str:
        return f"p={self.p}"


def dropout(x: torch.Tensor, p: float) -> torch.Tensor:
    """x with a share p of its elements set to 0 and the others scaled up; see `Dropout`."""
    out: torch.Tensor = _Dropout.apply(x, p, draw_seed())
    return out


def draw_seed() -> int:
    """A seed from torch's generator, for masks that are made again in the backward pass."""
    return int(torch.empty((), dtype=torch.int64).random_())


def dropout_mask(shape: torch.Size, p: float, seed: int) -> torch.Tensor:
    """Which elements of that shape stay, chosen by the seed: int16, all bits 1, or all 0.

    Integers, since torch's operations on bools are slow on a CPU.
    """
    n = math.prod(shape)
    words = np.random.Generator(np.random.PCG64(seed)).integers(
        -(2**63), 2**63 - 1, size=-(-n // 4), dtype=np.int64, endpoint=True
    )
    bits = torch.from_numpy(words).view(torch.int16)[:n].view(shape)
    return bits.ge_(_level(p) - 32768).neg_()


def apply_mask(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """x, with zeros where the mask has them; not scaled, see `mask_scale`."""
    differentiable = torch.is_grad_enabled() and x.requires_grad  # for a second derivative
    if x.element_size() == 2 and not differentiable:
        return x.view(torch.int16).bitwise_and(mask).view(x.dtype)
    return x * mask.neg().to(x.dtype)


def mask_scale(p: float) -> float:
    """1 / share of the elements that stay."""
    return 65536 / (65536 - _level(p))


def _level(p: float) -> int:
    return min(round(p * 65536), 65535)


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, p: float, seed: int) -> torch.Tensor:
        ctx.p, ctx.seed = p, seed
        return apply_mask(x, dropout_mask(x.shape, p, seed)).mul_(mask_scale(p))

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x = apply_mask(grad, dropout_mask(grad.shape, ctx.p, ctx.seed))
        return x.mul_(mask_scale(ctx.p)), None, None
