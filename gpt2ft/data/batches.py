"""Blocks or rows out of a token store; batches of them; the order of an epoch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch

from .collate import IGNORED
from .mixture import Mixture
from .order import ORDER, Order, check_version, epoch_order
from .token_index import IntArray
from .token_store import TokenStore
from .whole_rows import teaches, whole_rows

Sample = dict[str, IntArray]

AT_ONCE = 1 << 20  # rows that are looked at together


class Blocks:
    """The stream of tokens in blocks of `block_size`, none left out, the last one shorter.

    A sample holds `input_ids (T,)` and, where a document starts within it, `position_ids (T,)` that
    begin again at 0 there: attention then stays within documents. `keep_apart=False` omits
    `position_ids`, for models that ignore them.
    Of conversations, where some tokens are not to be learned, a sample has `labels (T,)` too, and
    none is cut that fits into a block: the block before it is shorter. What of a longer one has
    nothing to learn is left out.
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
        self._ranges = whole_rows(store, block_size)[:limit] if store.has_context else None
        n = -(-store.n_tokens // block_size)
        self._n = min(limit or n, n) if self._ranges is None else len(self._ranges)

    def _range(self, index: int) -> tuple[int, int]:
        """The first token of a block, and the one behind its last."""
        if self._ranges is not None:
            start, stop = self._ranges[index].tolist()
            return start, stop
        end = self._store.n_tokens
        # A last block of one token would have nothing to predict: it takes one more from the block
        # before it.
        start, stop = (min(i * self._size, end - 2) for i in (index, index + 1))
        return start, stop if (index + 1) * self._size < end else end

    @property
    def n_tokens(self) -> int:
        """Tokens of all blocks."""
        if self._ranges is not None:
            return int((self._ranges[:, 1] - self._ranges[:, 0]).sum())
        return self._range(self._n - 1)[1]

    @property
    def n_tokens_left_out(self) -> int:
        """Tokens of the text that are in no block, because of `limit`, or with nothing to learn."""
        return self._store.n_tokens - self.n_tokens

    @property
    def n_documents(self) -> int:
        """Documents of the text, 1 where its rows are one text."""
        return max(1, len(self._store.document_starts))

    @property
    def are_ragged(self) -> bool:
        """Whether blocks other than the last ones are shorter than `block_size`."""
        return self._ranges is not None

    @property
    def n_duplicates(self) -> int:
        """Documents of the text that are equal to an earlier one."""
        return self._store.duplicates

    @property
    def lengths(self) -> IntArray:
        """Tokens of each block."""
        if self._ranges is not None:
            lengths: IntArray = self._ranges[:, 1] - self._ranges[:, 0]
            return lengths
        lengths = np.full(self._n, self._size, dtype=np.int64)
        for index in range(max(0, self._n - 2), self._n):
            start, stop = self._range(index)
            lengths[index] = stop - start
        return lengths

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self._n:
            raise IndexError(f"there is no block {index} of {self._n}")
        start, stop = self._range(index)
        sample = _sample(self._store, start, stop)
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
        places = np.arange(*self._range(index))
        number: IntArray = np.searchsorted(self._store.document_starts, places) - 1
        return np.maximum(number, 0)


class Rows:
    """One document or line a sample, cut to `block_size`; those under two tokens are left out.

    Of conversations a sample has `labels (T,)` too, and those whose first answer is cut off are
    left out.
    """

    def __init__(self, store: TokenStore, block_size: int, *, limit: int | None = None) -> None:
        if not store.whole_documents:
            raise ValueError("the corpus has documents in pieces, load it with lines=True")
        self._store, self._size = store, block_size
        rows = store.long_rows
        if store.has_context:
            starts, stops = store.offsets[rows], store.offsets[rows + 1]
            cut = zip(starts, np.minimum(stops, starts + block_size), stops, strict=True)
            rows = rows[[stop == end or teaches(store, start, stop) for start, stop, end in cut]]
            if not len(rows):
                raise ValueError(
                    f"in no conversation an answer begins within --block_size {block_size} tokens, "
                    "give a larger one"
                )
        self._rows = rows[:limit]
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

    @property
    def n_duplicates(self) -> int:
        """Rows of the text that are equal to an earlier one."""
        return self._store.duplicates

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        row = int(self._rows[index])
        start, stop = int(self._store.offsets[row]), int(self._store.offsets[row + 1])
        return _sample(self._store, start, min(stop, start + self._size))


def _sample(store: TokenStore, start: int, stop: int) -> Sample:
    """Tokens of a store, with labels if some are not to be learned."""
    if not store.has_context:
        return {"input_ids": store.tokens(start, stop)}
    stored = store.stored(start, stop)
    is_context = stored < 0
    return {
        "input_ids": np.where(is_context, ~stored, stored),
        "labels": np.where(is_context, IGNORED, stored),
    }


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

    def of_size(self, batch_size: int) -> Batches:
        """The same samples in the same order, in micro-batches of another size."""
        other = copy.copy(self)
        other._batch_size = batch_size
        return other

    def _order_of(self, epoch: int) -> Order:
        if self._seed is None and isinstance(self.samples, Blocks) and not self.samples.are_ragged:
            return range(len(self.samples))  # they are in that order
        if self._seed is None:
            by_length: IntArray = np.argsort(-self.samples.lengths, kind="stable")
            return by_length
        n = len(self.samples)
        if isinstance(self.samples, Mixture):
            return self.samples.order(seed=self._seed, epoch=epoch)
        return epoch_order(n, seed=self._seed, epoch=epoch, version=self.order)
