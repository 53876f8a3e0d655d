"""An embedding that is tied to the head: both add to one gradient."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass
class Shared:
    """A weight `(V, D)` that is looked up in, and is then the head's."""

    weight: torch.Tensor


class TiedEmbedding(nn.Embedding):
    """`nn.Embedding`, whose gradient within `shared_weight` is added to that of the head.

    torch makes another tensor as large as the weight, for the few rows that were looked up, and
    adds the two. An `nn.Embedding` becomes this by its `__class__`.
    """

    shared: Shared | None = None

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        shared = self.shared
        if shared is None or not torch.is_grad_enabled():
            return super().forward(input)
        rows: torch.Tensor
        rows, shared.weight = _LookUp.apply(shared.weight, input, self.padding_idx)
        return rows


def can_share(embedding: Any, head: Any) -> bool:
    """Whether they have the same weight, and the embedding is one that `TiedEmbedding` can be."""
    return (
        type(embedding) is nn.Embedding
        and getattr(head, "weight", None) is embedding.weight
        and embedding.max_norm is None
        and not (embedding.scale_grad_by_freq or embedding.sparse)
    )


@contextmanager
def shared_weight(embedding: Any, weight: torch.Tensor) -> Iterator[Shared]:
    """Compute the hidden states within the block, and after it the logits with `shared.weight`.

    `shared.weight` is the given weight, unchanged, if `embedding` is not a `TiedEmbedding` of it,
    or if it is not on a CPU (elsewhere rows would be added in no fixed order).
    """
    shared = Shared(weight)
    ours = isinstance(embedding, TiedEmbedding) and embedding.weight is weight and weight.is_cpu
    if ours:
        embedding.shared = shared
    try:
        yield shared
    finally:
        if ours:
            embedding.shared = None


class _LookUp(torch.autograd.Function):
    """Look up ids in a weight `(V, D)`; returns the rows, and the weight for the head alone to use.

    As only the head uses it, its gradient is a tensor that nothing else holds: the gradient of the
    rows can be added to it in place.
    """

    @staticmethod
    def forward(
        ctx: Any, weight: torch.Tensor, ids: torch.Tensor, padding_idx: int | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        ctx.save_for_backward(ids)
        ctx.shape, ctx.padding_idx = weight.shape, padding_idx
        ctx.set_materialize_grads(False)
        return nn.functional.embedding(ids, weight), weight

    @staticmethod
    def backward(
        ctx: Any, of_rows: torch.Tensor | None, of_weight: torch.Tensor | None
    ) -> tuple[torch.Tensor | None, None, None]:
        if of_rows is None:
            return of_weight, None, None
        (ids,) = ctx.saved_tensors
        if of_weight is None:
            of_weight = of_rows.new_zeros(ctx.shape)
        if ctx.padding_idx is not None:
            of_rows = of_rows.masked_fill((ids == ctx.padding_idx)[..., None], 0)
        of_rows = of_rows.flatten(0, -2).to(of_weight.dtype)
        return of_weight.index_add_(0, ids.flatten(), of_rows), None, None
