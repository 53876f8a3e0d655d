"""The gradients of a step, added in one fixed order, whichever processes compute them.

A sum of floating-point numbers depends on the order in which they are added. Here the gradients of
a step's micro-batches are added as a binary tree has it: 0 and 1, 2 and 3, and so on, then these
sums in pairs, up to the root. The tree depends on the number of micro-batches alone. So one
process, two, or seven give the same bits, as long as they compute the same micro-batches with the
same kernels. (The idea that an elastic run can keep its bits: EasyScale, Li et al., SC'23.)

A process computes a contiguous part of the micro-batches. It adds up the subtrees within its part;
the rest of the tree is added by all processes together: of each bucket of numbers every process
gets its share from all others, adds it in the tree's order, and gives the sum to all.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
import torch.distributed as dist

from . import processes

BUCKET = 4 << 20  # numbers that are exchanged at once
Value = TypeVar("Value")
Node = tuple[int, int]  # level and index, see `Tree`


@dataclass(frozen=True)
class Share:
    """How the micro-batches of one step are divided among the processes."""

    n_targets: float
    """Of the whole step: what the sum of its losses is divided by."""
    parts: tuple[range, ...]
    """Numbers of the micro-batches that each process has, from 0."""

    @property
    def own(self) -> range:
        """Those of this process."""
        return self.parts[processes.rank()]

    @property
    def n_micro_batches(self) -> int:
        return self.parts[-1].stop


def share(n_targets: float, n_micro_batches: int) -> Share:
    """The step's share of each process, from what this one has of it.

    Raises `ValueError` if no process has a micro-batch.
    """
    rows = processes.gather([n_targets, n_micro_batches])
    stops = [int(n) for n in itertools.accumulate(row[1] for row in rows)]
    if stops[-1] == 0:
        raise ValueError("there are no batches, a step needs at least one")
    parts = (range(a, b) for a, b in itertools.pairwise([0, *stops]))
    return Share(sum(row[0] for row in rows), tuple(parts))


class Tree(Generic[Value]):
    """Values, added from left to right as nodes of a binary tree.

    A node is `(level, index)`, and holds the sum of the leaves from `index * 2**level` on,
    `2**level` of them or as many as there are. `add(a, b)` returns the sum of two neighbours.
    """

    def __init__(self, add: Callable[[Value, Value], Value]) -> None:
        self._add = add
        self.nodes: list[Node] = []
        self.values: list[Value] = []

    def put(self, node: Node, value: Value) -> None:
        """Add the next node; where both halves of a greater one are there, they become it."""
        while self.nodes and node[1] % 2 == 1 and self.nodes[-1] == (node[0], node[1] - 1):
            self.nodes.pop()
            value = self._add(self.values.pop(), value)
            node = (node[0] + 1, node[1] // 2)
        self.nodes.append(node)
        self.values.append(value)

    def root(self) -> Value:
        """The sum of all; the leaves at the end may lack neighbours."""
        value = self.values[-1]
        for left in reversed(self.values[:-1]):
            value = self._add(left, value)
        return value


def nodes_of(part: range) -> list[Node]:
    """The nodes that hold the leaves of a part, as `Tree` leaves them."""
    tree: Tree[None] = Tree(lambda left, right: None)
    for number in part:
        tree.put((0, number), None)
    return tree.nodes


class GradientSum:
    """Adds the gradients of a step, and its loss, in the order of the tree.

    Call `add` after the backward pass of each of `batches`, then `finish` once.
    Beyond one gradient it holds another for each level of the tree that is still open: with M
    micro-batches on a process at most log2(M) - 1 others. Without `fixed_order` it holds none: each
    process adds its gradients one after another, and the tree is only over the processes.
    """

    def __init__(
        self, share: Share, parameters: Sequence[torch.Tensor], *, fixed_order: bool = True
    ) -> None:
        self._share = share
        self._parameters = parameters
        self._fixed_order = fixed_order
        self._tree: Tree[list[torch.Tensor | None]] = Tree(_added)
        self._loss: torch.Tensor | None = None

    def batches(
        self, micro_batches: Sequence[Mapping[str, torch.Tensor]]
    ) -> Iterator[tuple[int, Mapping[str, torch.Tensor], float]]:
        """Number, batch, and what its loss is divided by, of each micro-batch of this process."""
        for number, batch in zip(self._share.own, micro_batches, strict=True):
            yield number, batch, self._share.n_targets

    def add(self, number: int, loss: torch.Tensor) -> None:
        """Take the gradients that are in the parameters, of the micro-batch of that number."""
        self._loss = loss.float() if self._loss is None else self._loss + loss
        own = self._share.own
        joined = number + 1 in own and (number % 2 == 0 or not self._fixed_order)
        if joined:
            return  # autograd itself adds the next one's
        if not self._fixed_order:
            node = (0, processes.rank())
        else:
            node = (1, number // 2) if number % 2 == 1 and number - 1 in own else (0, number)
        self._tree.put(node, [*(p.grad for p in self._parameters), self._loss])
        self._loss = None
        for p in self._parameters:
            p.grad = None

    def finish(self) -> torch.Tensor:
        """Put the sums of all processes into the parameters' gradients; returns that of the loss.

        The loss is a 0-d tensor on the device of the parameters.
        """
        if len(self._share.parts) == 1:
            total = self._tree.root()
        else:
            nodes = [nodes_of(part) for part in self._share.parts]
            if not self._fixed_order:
                nodes = [[(0, i)] if part else [] for i, part in enumerate(self._share.parts)]
            total = _sum_of_all(nodes, self._tree.values, self._parameters)
        *gradients, loss = total
        for p, gradient in zip(self._parameters, gradients, strict=True):
            p.grad = gradient
        assert loss is not None
        return loss


def _added(
    left: list[torch.Tensor | None], right: list[torch.Tensor | None]
) -> list[torch.Tensor | None]:
    """The sums, in the tensors of the left; a parameter that took no part has None."""
    for i, value in enumerate(right):
        mine = left[i]
        if mine is None:
            left[i] = value
        elif value is not None:
            mine.add_(value)
    return left


def _sum_of_all(
    nodes: list[list[Node]],
    values: list[list[torch.Tensor | None]],
    parameters: Sequence[torch.Tensor],
) -> list[torch.Tensor | None]:
    """The root of the tree, from the nodes of all processes; `values` are those of this one's.

    The last of the values is the loss; each of the others belongs to a parameter.
    """
    loss = parameters[0].new_zeros((), dtype=torch.float32)
    has = [any(value is not None for value in column) for column in zip(*values, strict=True)]
    has = processes.any_of(has or [False] * len(parameters) + [True])
    total: list[torch.Tensor | None] = []
    for i, like in enumerate([*parameters, loss]):
        own = values[0][i] if values else None
        if own is None or not own.is_contiguous():
            own = torch.zeros_like(like, memory_format=torch.contiguous_format)
        total.append(own if has[i] else None)
    for bucket in _buckets(total):
        _exchange(nodes, bucket, values, total)
    return total


Piece = tuple[int, int, int]  # index of a tensor, and from where to where in it


def _buckets(tensors: Sequence[torch.Tensor | None]) -> Iterator[list[Piece]]:
    """All numbers of the tensors, in pieces of at most `BUCKET` together and of one dtype."""
    bucket: list[Piece] = []
    room, dtype = 0, None
    for index, tensor in enumerate(tensors):
        start = 0
        while tensor is not None and start < tensor.numel():
            if bucket and (room == 0 or tensor.dtype != dtype):
                yield bucket
                bucket = []
            if not bucket:
                room, dtype = BUCKET, tensor.dtype
            stop = min(tensor.numel(), start + room)
            bucket.append((index, start, stop))
            start, room = stop, room - (stop - start)
    yield bucket


def _exchange(
    nodes: list[list[Node]],
    bucket: list[Piece],
    values: list[list[torch.Tensor | None]],
    total: list[torch.Tensor | None],
) -> None:
    """Add up one bucket of numbers, and write the sums into `total`.

    Each process gets 1/W of the bucket from every node of every process, adds it, and sends the sum
    to all.
    """
    n_processes, n = len(nodes), sum(stop - start for _, start, stop in bucket)
    length = -(-n // n_processes)
    some = total[bucket[0][0]]
    assert some is not None
    sent = some.new_zeros(len(values), n_processes * length)
    for row, node_values in zip(sent, values, strict=True):
        _copy_pieces(bucket, node_values, row, to_row=True)
    by_receiver = sent.view(len(values), n_processes, length).transpose(0, 1).contiguous()
    received = some.new_empty(sum(map(len, nodes)), length)
    summed = some.new_empty(n_processes, length)
    processes.wait_for(
        received,
        lambda: dist.all_to_all_single(
            received.flatten(),
            by_receiver.flatten(),
            [len(of_one) * length for of_one in nodes],
            [len(values) * length] * n_processes,
            async_op=True,
        ),
    )
    tree: Tree[torch.Tensor] = Tree(torch.Tensor.add_)
    for node, part in zip(itertools.chain.from_iterable(nodes), received, strict=True):
        tree.put(node, part)
    root = tree.root()
    processes.wait_for(root, lambda: dist.all_gather(list(summed.unbind()), root, async_op=True))
    _copy_pieces(bucket, total, summed.flatten(), to_row=False)


def _copy_pieces(
    bucket: list[Piece], tensors: Sequence[torch.Tensor | None], row: torch.Tensor, *, to_row: bool
) -> None:
    """Copy the pieces of these tensors into a row, one after another, or back; None has zeros."""
    place = 0
    for index, start, stop in bucket:
        tensor = tensors[index]
        if tensor is not None:
            part, there = row[place : place + stop - start], tensor.reshape(-1)[start:stop]
            (part if to_row else there).copy_(there if to_row else part)
        place += stop - start
