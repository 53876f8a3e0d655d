"""Linear layers to generate with on a CPU, in int8: a quarter of the bytes of fp32 to read."""

from __future__ import annotations

import functools

import torch
from torch import nn

LARGEST = 127  # of a quantised number; symmetric, so that -128 is left out
ZERO = 128  # what an activation of 0 is stored as: oneDNN is slow for signed ones without AMX
# Added to a half more, a conversion that cuts off rounds.
ROUNDING = torch.tensor([ZERO + 0.5])


class Int8Linear(nn.Module):
    """`nn.Linear` without gradients, of 8-bit integers: `(B, ..., K)` fp32 to `(B, ..., M)` fp32.

    Each row of the weight `(M, K)`, and each row of activations when it comes, is divided by its
    own scale, a 127th of its greatest absolute value, and rounded. The products are added up as
    exact integers, so that what a row of activations gives does not depend on the rows beside it.
    The bias `(M,)` stays fp32. The two operations are oneDNN's, by which `torch.compile` runs
    quantised models; see `can_quantise`.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        super().__init__()
        integers, self._scales = quantise_rows(weight)
        self._step = self._scales / LARGEST  # of a product, but for the row of activations
        self._packed = torch.ops.onednn.qlinear_prepack(integers, None)
        self._zeros = torch.zeros(len(weight), dtype=torch.int64)
        self.bias = None if bias is None else bias.detach().float()

    @property
    def weight(self) -> torch.Tensor:
        """`(M, K)`, as it is after rounding: for models that look at it."""
        integers: torch.Tensor = self._packed.to_dense()
        return integers.t() * self._scales[:, None]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        greatest = x.abs().amax(-1, keepdim=True)
        # A row of zeros gives any integers at all, which its greatest, 0, makes zeros again.
        integers = torch.add(ROUNDING, x / greatest, alpha=LARGEST).to(torch.uint8)
        sums = self._sums(integers)
        return (
            sums.mul_(greatest) if self.bias is None else torch.addcmul(self.bias, sums, greatest)
        )

    def _sums(self, integers: torch.Tensor) -> torch.Tensor:
        """The integers `(..., K)` times the weight's, in steps of the product."""
        sums: torch.Tensor = torch.ops.onednn.qlinear_pointwise(
            *(integers, 1.0, ZERO, self._packed, self._step, self._zeros, None),
            *(1.0, 0, torch.float32, "none", [], ""),
        )
        return sums if len(sums) else sums.view(*integers.shape[:-1], len(self._scales))


def quantise_rows(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Integers of int8 `(M, K)`, and for each row its scale, fp32 `(M,)`: about equal to `weight`.

    The scale of a row that is not finite is not finite either, so that the logits show it.
    """
    weight = weight.detach().float().contiguous()  # what packs it takes no notice of strides
    tiny = torch.finfo(torch.float32).tiny
    scales = (weight.abs().amax(-1) / LARGEST).clamp(min=tiny)
    integers = (weight / scales[:, None]).round_().nan_to_num_(0.0)
    return integers.to(torch.int8), scales


@functools.cache
def can_quantise() -> bool:
    """Whether this torch has the operations, and they are exact on this CPU.

    They are where a CPU adds up products of int8 in 32 bits (VNNI, AMX). On others, oneDNN adds two
    of them in 16 bits first, where they overflow: tried on the greatest numbers there are.
    """
    greatest = torch.full((32, 64), float(LARGEST))
    try:
        layer = Int8Linear(greatest)
        sums = layer(greatest[:3])
    except (AttributeError, RuntimeError, TypeError):  # another torch
        return False
    return torch.equal(sums, torch.full((3, 32), 64.0 * LARGEST**2))
