"""A model that is divided among the processes: each holds some rows of every tensor.

Under it is torch's FSDP2, `torch.distributed.fsdp.fully_shard`. A block's weights are gathered when
it is computed, and given back after it; its gradients are added over the processes in the backward
pass, and each process keeps those of its rows. Parameters, gradients and moments are `DTensor`s.
"""

from __future__ import annotations

import math
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from ..models import probe
from . import processes
from .differences import refuse_other_shapes
from .gradient_sum import GradientSum, Share

T = TypeVar("T")
Batch = Mapping[str, torch.Tensor]

COMPUTE = probe.SHARDED  # FSDP2 gathers weights for a forward pass; this method is made one


def shard(model: torch.nn.Module, device: str | torch.device | None = None) -> None:
    """Divide a model among the processes, and bring the part of this one to the device.

    Without a device it stays on its own. Under `torchrun` the processes meet here, and
    divide the weights that process 0 has. Each block of the model is gathered by itself; what is
    outside of the blocks, such as an embedding and the head that is tied to it, is another group.
    Call it before the optimizer is made. One process has nothing to divide, and keeps the model as
    it is.
    """
    from torch.distributed.device_mesh import init_device_mesh  # half a second to load
    from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

    device = next(model.parameters()).device if device is None else torch.device(device)
    processes.join(device)
    if processes.size() == 1:
        model.to(device)
        return
    refuse_other_shapes(model)
    processes.copy_from_main([*model.parameters(), *model.buffers()])
    probe.plain_head(model)  # tried while the weights are at hand, and remembered
    mesh = init_device_mesh(device.type, (processes.size(),))
    for module in (*probe.blocks(model), model):
        # Also what is outside of the blocks is given back after the forward pass: else parameters()
        # would have other tensors after an evaluation than after a step.
        fully_shard(module, mesh=mesh, reshard_after_forward=True)
        assert isinstance(module, FSDPModule)
        module.set_gradient_divide_factor(1.0)  # the loss is divided already, by all targets
        module.set_force_sum_reduction_for_comms(True)  # gloo cannot multiply while it adds
    setattr(model, COMPUTE, types.MethodType(_compute, model))
    register_fsdp_forward_method(model, COMPUTE)


def _compute(model: torch.nn.Module, function: Callable[[], T]) -> T:
    return function()


def with_whole_weights(model: torch.nn.Module, function: Callable[[], T]) -> T:
    """What `function()` returns; within it the weights outside of the blocks are whole.

    It may call parts of the model, as the model's own forward pass does.
    """
    compute: Callable[[Callable[[], T]], T] | None = getattr(model, COMPUTE, None)
    return compute(function) if compute else function()


def is_sharded(tensor: torch.Tensor) -> bool:
    """Whether this process holds only some rows of a tensor."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: Any) -> torch.Tensor:
    """The tensor itself, gathered if it is divided; then all processes must call it."""
    gathered: torch.Tensor = tensor.full_tensor() if is_sharded(tensor) else tensor
    return gathered


def own_rows(tensor: Any) -> tuple[torch.Tensor, range]:
    """What this process holds of a divided tensor `(N, ...)`, and which of the rows that are."""
    local, n = tensor.to_local(), tensor.shape[0]
    most = -(-n // processes.size())
    rows = range(n)[processes.rank() * most :][:most]
    if len(local) != len(rows) or tensor.placements[0].dim != 0:
        raise ValueError("the tensor is not divided by rows, as gpt2ft.shard does it")
    return local, rows


def of_own_rows(like: Any, local: torch.Tensor) -> torch.Tensor:
    """A tensor that is divided as `like` is, from this process's rows of it."""
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(
        local.to(like.to_local().device),
        like.device_mesh,
        like.placements,
        run_check=False,
        shape=like.shape,
        stride=like.stride(),
    )


class ShardedGradients:
    """The gradients of a step of a divided model, added by FSDP2 in each backward pass.

    The same calls as `GradientSum`. All processes must compute equally often, as they gather
    weights together: who has fewer micro-batches computes two tokens that count nothing instead.
    """

    def __init__(self, share: Share) -> None:
        self._share = share
        self._loss: torch.Tensor | float = 0.0

    def batches(self, micro_batches: Sequence[Batch]) -> Iterator[tuple[int, Batch, float]]:
        """Number, batch, and what its loss is divided by."""
        share = self._share
        for number, batch in zip(share.own, micro_batches, strict=True):
            yield number, batch, share.n_targets
        for _ in range(max(map(len, share.parts)) - len(share.own)):
            yield share.n_micro_batches, idle_batch(), math.inf

    def add(self, number: int, loss: torch.Tensor) -> None:
        """Take the loss; the gradients are where they belong."""
        self._loss = self._loss + loss.float()

    def finish(self) -> torch.Tensor:
        """The loss of all processes, a 0-d tensor on the device."""
        assert isinstance(self._loss, torch.Tensor)
        loss = self._loss
        processes.wait_for(loss, lambda: dist.all_reduce(loss, async_op=True))
        return loss


def idle_batch() -> dict[str, torch.Tensor]:
    """A batch `(1, 2)` for a process that has none, but must compute when the others do."""
    return {name: torch.zeros(1, 2, dtype=torch.int64) for name in ("input_ids", "labels")}


def gradients_of(
    share: Share, parameters: Sequence[torch.Tensor], *, fixed_order: bool
) -> GradientSum | ShardedGradients:
    """What adds up the gradients of a step of these parameters."""
    if any(map(is_sharded, parameters)):
        return ShardedGradients(share)
    return GradientSum(share, parameters, fixed_order=fixed_order)
