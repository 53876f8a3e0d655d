"""Linear layers to generate with on a CPU, weights stored in the order its kernels read them."""

from __future__ import annotations

import torch
from torch import nn

ROWS = 32  # for which the order is chosen; it serves from 1 to hundreds


class PackedLinear(nn.Module):
    """`nn.Linear` without gradients: for few rows about twice as fast, as weights are read once.

    weight `(M, K)` in fp32, or in bf16 where the CPU has it; bias `(M,)` of the same dtype or None.
    `nn.Linear` reorders its weights at every call; here that is done once, by the two operations
    that `torch.compile` uses for it. They have no public name: see `can_pack`.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        super().__init__()
        detached = weight.detach().contiguous()
        self._packed = torch.ops.mkldnn._reorder_linear_weight(detached, ROWS)
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)

    @property
    def weight(self) -> torch.Tensor:
        """`(M, K)`, brought back into the usual order: for models that look at it."""
        weight: torch.Tensor = self._packed.to_dense()
        return weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            x, self._packed, self.bias, "none", [], ""
        )
        return out


def can_pack(weight: torch.Tensor) -> bool:
    """Whether this torch has the operations, for the weight's device and dtype on this machine."""
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    try:
        PackedLinear(weight[:1])(weight[:1])
    except (AttributeError, RuntimeError, TypeError):  # another torch, or a dtype this CPU lacks
        return False
    return True
