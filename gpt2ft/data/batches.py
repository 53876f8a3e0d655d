"""Blocks or rows out of a token store; batches of them; the order of an epoch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch

from .order import ORDER, Order, check_version, epoch_order
from .token_store import IntArray, TokenStore

Sample = dict[str, IntArray]


class Blocks:
    """The stream of tokens in blocks of `block_size`, none left out, the last one shorter.

    A sample holds `input_ids (T,)` and, where a document starts within it, `position_ids (T,)` that
    begin again at 0 there: attention then stays within documents. `keep_apart=False` omits
    `position_ids`, for models that ignore them.
    """

    def __init__(
        self,
        store: TokenStore,
        block_size: int,
        *,
        limit: int | None = None,
        keep_apart: bool = True,
    ) -> None:
        if block_size < 3:
            raise ValueError(f"--block_size {block_size} is too short, at least 3 to pack")
        if store.n_tokens < 2:
            raise ValueError(f"the text has {store.n_tokens} tokens, give one of at least 2")
        self._store = store
        self._begins = store.document_starts if keep_apart else store.document_starts[:0]
        # A last block of one token would have nothing to predict: it takes one more from the block
        # before it.
        starts = np.arange(0, store.n_tokens, block_size, dtype=np.int64)
        self._bounds = np.append(np.minimum(starts, store.n_tokens - 2), store.n_tokens)
        self._bounds = self._bounds[: min(limit or len(starts), len(starts)) + 1]

    @property
    def lengths(self) -> IntArray:
        return np.diff(self._bounds)

    def __len__(self) -> int:
        return len(self._bounds) - 1

    def __getitem__(self, index: int) -> Sample:
        start, stop = int(self._bounds[index]), int(self._bounds[index + 1])
        sample = {"input_ids": self._store.tokens(start, stop)}
        low, high = np.searchsorted(self._begins, [start, stop])
        inside = self._begins[low:high] - start
        if len(inside) and inside[-1] > 0:
            positions = np.arange(stop - start)
            origin = np.zeros(stop - start, dtype=np.int64)
            origin[inside] = inside
            sample["position_ids"] = positions - np.maximum.accumulate(origin)
        return sample


class Rows:
    """One document or line a sample, cut to `block_size`; those under two tokens are left out."""

    def __init__(self, store: TokenStore, block_size: int, *, limit: int | None = None) -> None:
        if not store.whole_documents:
            raise ValueError("the corpus has documents in pieces, load it with lines=True")
        lengths = np.minimum(np.diff(store.offsets), block_size)
        self._rows = np.flatnonzero(lengths >= 2)[:limit]
        self.lengths = lengths[self._rows]
        self._store = store
        if not len(self._rows):
            raise ValueError("no row of the text has two tokens, give longer rows")

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        start = int(self._store.offsets[self._rows[index]])
        return {"input_ids": self._store.tokens(start, start + int(self.lengths[index]))}


class Samples(Protocol):
    """What `Batches` takes samples from: `Blocks`, `Rows`, or a class of your own."""

    @property
    def lengths(self) -> IntArray:
        """Tokens of each sample, `(n_samples,)`."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int, /) -> Mapping[str, Any]: ...


class Batches:
    """Micro-batches of samples, as a function of epoch and index.

    `data[epoch, index]` collates `batch_size` samples in the order of that epoch; `order` is the
    version of the order, see `epoch_order`. Without a seed every epoch goes from the longest sample
    to the shortest, which pads least: for evaluation.
    """

    def __init__(
        self,
        samples: Samples,
        collate: Callable[[Sequence[Mapping[str, Any]]], dict[str, torch.Tensor]],
        *,
        batch_size: int,
        seed: int | None = None,
        order: int = ORDER,
    ) -> None:
        check_version(order)
        self.order = order
        self.samples = samples
        self._collate = collate
        self._batch_size = batch_size
        self._seed = seed
        self._epoch: tuple[int, Order] | None = None

    def __len__(self) -> int:
        return -(-len(self.samples) // self._batch_size)

    def __getitem__(self, position: tuple[int, int]) -> dict[str, torch.Tensor]:
        epoch, index = position
        return self._collate([self.samples[int(i)] for i in self.sample_numbers(epoch, index)])

    def sample_numbers(self, epoch: int, index: int) -> IntArray:
        """Which samples micro-batch `index` of the epoch holds, `(B,)`."""
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = (epoch, self._order_of(epoch))
        start, order = index * self._batch_size, self._epoch[1]
        stop = min(start + self._batch_size, len(self.samples))
        return np.array([order[position] for position in range(start, stop)], dtype=np.int64)

    def _order_of(self, epoch: int) -> Order:
        if self._seed is None:
            by_length: IntArray = np.argsort(-self.samples.lengths, kind="stable")
            return by_length
        n = len(self.samples)
        return epoch_order(n, seed=self._seed, epoch=epoch, version=self.order)
