"""Blocks or rows out of a token store; batches of them; the order of an epoch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch

from .order import ORDER, Order, check_version, epoch_order
from .token_index import IntArray
from .token_store import TokenStore

Sample = dict[str, IntArray]

AT_ONCE = 1 << 20  # rows that are looked at together


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
        self._size = block_size
        n = -(-store.n_tokens // block_size)
        self._n = min(limit or n, n)

    def _start(self, index: int) -> int:
        # A last block of one token would have nothing to predict: it takes one more from the block
        # before it.
        return min(index * self._size, self._store.n_tokens - 2)

    def _stop(self, index: int) -> int:
        end = self._store.n_tokens
        return self._start(index + 1) if (index + 1) * self._size < end else end

    @property
    def n_tokens(self) -> int:
        """Tokens of all blocks."""
        return self._stop(self._n - 1)

    @property
    def n_tokens_left_out(self) -> int:
        """Tokens of the text that are in no block, because of `limit`."""
        return self._store.n_tokens - self.n_tokens

    @property
    def n_documents(self) -> int:
        """Documents of the text, 1 where its rows are one text."""
        return max(1, len(self._store.document_starts))

    @property
    def lengths(self) -> IntArray:
        """Tokens of each block: from the longest to the shortest."""
        lengths = np.full(self._n, self._size, dtype=np.int64)
        for index in range(max(0, self._n - 2), self._n):
            lengths[index] = self._stop(index) - self._start(index)
        return lengths

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self._n:
            raise IndexError(f"there is no block {index} of {self._n}")
        start, stop = self._start(index), self._stop(index)
        sample = {"input_ids": self._store.tokens(start, stop)}
        low, high = np.searchsorted(self._begins, [start, stop])
        inside = self._begins[low:high] - start
        if len(inside) and inside[-1] > 0:
            positions = np.arange(stop - start)
            origin = np.zeros(stop - start, dtype=np.int64)
            origin[inside] = inside
            sample["position_ids"] = positions - np.maximum.accumulate(origin)
        return sample

    def documents(self, index: int) -> IntArray:
        """Which document each token of a block belongs to, `(T,)`: an end of text to the one it
        ends."""
        places = np.arange(self._start(index), self._stop(index))
        number: IntArray = np.searchsorted(self._store.document_starts, places) - 1
        return np.maximum(number, 0)


class Rows:
    """One document or line a sample, cut to `block_size`; those under two tokens are left out."""

    def __init__(self, store: TokenStore, block_size: int, *, limit: int | None = None) -> None:
        if not store.whole_documents:
            raise ValueError("the corpus has documents in pieces, load it with lines=True")
        self._store, self._size = store, block_size
        self._rows = store.long_rows[:limit]
        if not len(self._rows):
            raise ValueError("no row of the text has two tokens, give longer rows")

    @property
    def lengths(self) -> IntArray:
        """Tokens of each row."""
        offsets, rows = self._store.offsets, self._rows
        lengths: IntArray = np.minimum(offsets[rows + 1] - offsets[rows], self._size)
        return lengths

    @property
    def n_tokens(self) -> int:
        """Tokens of all rows."""
        parts = (self._rows[i : i + AT_ONCE] for i in range(0, len(self), AT_ONCE))
        offsets = self._store.offsets
        return sum(
            int(np.minimum(offsets[part + 1] - offsets[part], self._size).sum()) for part in parts
        )

    @property
    def n_tokens_left_out(self) -> int:
        """Tokens of the text that are cut off, or in rows that are too short or beyond `limit`."""
        return self._store.n_tokens - self.n_tokens

    @property
    def n_documents(self) -> int:
        """Rows of the text, also those that are no sample."""
        return len(self._store.offsets) - 1

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        row = int(self._rows[index])
        start, stop = int(self._store.offsets[row]), int(self._store.offsets[row + 1])
        return {"input_ids": self._store.tokens(start, min(stop, start + self._size))}


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
        if self._seed is None and isinstance(self.samples, Blocks):
            return range(len(self.samples))  # they are in that order
        if self._seed is None:
            by_length: IntArray = np.argsort(-self.samples.lengths, kind="stable")
            return by_length
        n = len(self.samples)
        return epoch_order(n, seed=self._seed, epoch=epoch, version=self.order)
