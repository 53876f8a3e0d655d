"""Dropout from 16 random bits an element: torch draws one double for each on a CPU."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn


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
