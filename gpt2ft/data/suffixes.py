"""Where any span of tokens stands in a text: a suffix array of token ids, by `pydivsufsort`."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from datasets import Dataset

from .token_index import IntArray
from .token_store import tokenize

Bytes = npt.NDArray[np.uint8]

REACH = 20
"""Tokens that `SuffixIndex.matches` looks ahead."""
AT_ONCE = 1 << 20  # tokens, or positions of the array
QUERIES_AT_ONCE = 1 << 15


class Tokens(Protocol):
    """Token ids that are read piece by piece, as from a `TokenStore`."""

    @property
    def n_tokens(self) -> int: ...

    largest: int

    def tokens(self, start: int, stop: int) -> IntArray: ...


class Span(NamedTuple):
    """Tokens in a row that stand verbatim in the indexed text."""

    start: int
    """Where it begins in what was searched for."""
    length: int
    """Its tokens."""
    position: int
    """The number of its first token in the indexed text, at one of its places there."""


class SuffixIndex:
    """The suffixes of a text of token ids in alphabetical order: any span is found by bisection.

    No span goes through one of the `boundaries`, the ids that stand between documents. A token id
    takes `w` bytes: 1 up to id 253, 2 up to 65,533, else 3. In memory are `w + 4` bytes for each
    token, and `5w + 4` while the index is made (5 where w is 1): 6 and 14 with the vocabulary of
    GPT-2. From 2^31 bytes of ids on, that is 1.07 billion tokens of 2 bytes, making it takes
    `9w + 4`, from 2^31 tokens on 4 more. Raises `ModuleNotFoundError` without the extra `copies`,
    `ValueError` for a text without tokens.
    """

    def __init__(self, tokens: Tokens, *, boundaries: Collection[int] = ()) -> None:
        sort = _suffix_sort()
        self.n_tokens, self.boundaries = tokens.n_tokens, frozenset(boundaries)
        if not self.n_tokens:
            raise ValueError("the training text has no tokens, give another")
        self._largest = tokens.largest
        # Ids are stored plus 1, highest byte first, so that bytes are in the order of ids; 0 is
        # what follows the text, and 0xff.. what it cannot contain.
        self._width = next(w for w in (1, 2, 3) if self._largest + 3 <= 256**w)
        self._bytes: Bytes = np.zeros((self.n_tokens + REACH) * self._width, np.uint8)
        for start in range(0, self.n_tokens, AT_ONCE):
            stop = min(start + AT_ONCE, self.n_tokens)
            piece = self._as_bytes(tokens.tokens(start, stop) + 1)
            self._bytes[start * self._width : stop * self._width] = piece
        self._array = _of_tokens(sort(self._bytes[: self.n_tokens * self._width]), self._width)
        self._windows = _windows(self._bytes, self._width)

    def matches(self, ids: Sequence[int] | IntArray) -> IntArray:
        """For each position, how many tokens from there on stand in the text in a row `(T,)`.

        At most `REACH`.
        """
        query = self._query(ids)
        padding = np.zeros(REACH * self._width, np.uint8)
        windows = _windows(np.append(query, padding), self._width)[: len(ids)]
        found = [
            self._matches(np.ascontiguousarray(windows[start : start + QUERIES_AT_ONCE]))
            for start in range(0, len(ids), QUERIES_AT_ONCE)
        ]
        rest = np.arange(len(ids), 0, -1)  # behind the end of both are zeros
        return np.minimum(np.concatenate(found), rest) if found else np.empty(0, np.int64)

    def longest(self, ids: Sequence[int] | IntArray, matches: IntArray | None = None) -> Span:
        """The longest span of the ids that stands in the text, the first of several.

        `matches` are theirs, if they are known.
        """
        found = self.matches(ids) if matches is None else matches
        if not len(found) or not found.any():
            return Span(0, 0, 0)
        query, start, length = self._query(ids), int(found.argmax()), int(found.max())
        best = Span(start, length, self._match(query, start, start + length)[1])
        if length == REACH:
            for first, last in _runs(found == REACH):
                best = self._longest_in_run(query, first, last, best)
        return best

    def followers(self, ids: Sequence[int]) -> IntArray:
        """The token ids that follow these ids anywhere in the text, boundaries left out."""
        pattern = self._query(ids).tobytes()
        prefix = self._prefix(len(pattern))
        low = bisect.bisect_left(self._array, pattern, key=prefix)
        high = bisect.bisect_right(self._array, pattern, lo=low, key=prefix)
        after = self._array[low:high].astype(np.int64) + len(ids)
        columns = after[:, None] * self._width + np.arange(self._width)
        digits = self._bytes[columns].astype(np.int64)
        values = digits @ (256 ** np.arange(self._width - 1, -1, -1)) - 1
        return np.setdiff1d(values, [-1, *self.boundaries])  # -1: the end of the text

    def _matches(self, queries: Bytes) -> IntArray:
        """Bisection for all windows at once: what stands beside its place has most in common."""
        keys = _as_keys(queries)
        low = np.zeros(len(queries), np.int64)
        high = np.full(len(queries), self.n_tokens)
        for _ in range(self.n_tokens.bit_length()):
            middle = np.minimum((low + high) // 2, self.n_tokens - 1)
            searching = low < high
            below = _as_keys(self._windows[self._array[middle]]) < keys
            low = np.where(searching & below, middle + 1, low)
            high = np.where(searching & ~below, middle, high)
        neighbours = [np.clip(place, 0, self.n_tokens - 1) for place in (low - 1, low)]
        common = [self._common(queries, self._array[place]) for place in neighbours]
        return np.maximum(*common)

    def _common(self, queries: Bytes, positions: npt.NDArray[Any]) -> IntArray:
        """Tokens that each window has in common with the text from its position on."""
        equal = (self._windows[positions] == queries).reshape(len(queries), REACH, -1).all(-1)
        return np.where(equal.all(-1), REACH, equal.argmin(-1))

    def _longest_in_run(self, query: Bytes, first: int, last: int, best: Span) -> Span:
        """The longest span that begins from `first` to `last`, where all match to `REACH`, if it
        is longer than `best`."""
        stop, start = last + REACH, first
        while stop - start > best.length:
            length, position = self._match(query, start, stop)
            if length > best.length:
                best = Span(start, length, position)
            end = start + length
            if end == stop:
                break
            start = self._first_beyond(query, start, end)
        return best

    def _first_beyond(self, query: Bytes, start: int, end: int) -> int:
        """The first place after `start` from which a span goes beyond `end`.

        If one does, so do all later ones, and at the latest the window that ends there.
        """
        starts = range(start + 1, end + 2 - REACH)

        def goes_beyond(at: int) -> bool:
            return self._match(query, at, end + 1)[0] == end + 1 - at

        return starts[bisect.bisect_left(starts, True, key=goes_beyond)]

    def _match(self, query: Bytes, start: int, stop: int) -> tuple[int, int]:
        """How many of the tokens `start` to `stop` stand in the text in a row, and where."""
        pattern = query[start * self._width : stop * self._width]
        place = bisect.bisect_left(self._array, pattern.tobytes(), key=self._prefix(len(pattern)))
        found = []
        for position in map(int, self._array[max(0, place - 1) : place + 1]):
            text = self._bytes[position * self._width :][: len(pattern)]
            differ = np.flatnonzero(text != pattern[: len(text)])
            same = int(differ[0]) if len(differ) else len(text)
            found.append((min(same // self._width, stop - start), position))
        return max(found, key=lambda match: match[0])

    def _prefix(self, size: int) -> Callable[[Any], bytes]:
        """The key of bisection: so many bytes from a position on."""
        text, width = self._bytes.data, self._width

        def prefix(position: Any) -> bytes:
            start = int(position) * width
            return bytes(text[start : start + size])

        return prefix

    def _query(self, ids: Sequence[int] | IntArray) -> Bytes:
        """Ids as bytes; a boundary, or an id that is not in the text, is like nothing in it."""
        given = np.asarray(ids, np.int64)
        values = np.where((given < 0) | (given > self._largest), -1, given + 1)
        for boundary in self.boundaries:
            values[given == boundary] = -1
        return self._as_bytes(values)

    def _as_bytes(self, values: IntArray) -> Bytes:
        """The lowest bytes of each number, highest first: of -1 they are 0xff.."""
        rows = values.astype(">i4").view(np.uint8).reshape(-1, 4)
        return rows[:, 4 - self._width :].reshape(-1)


def index_text(documents: Dataset | Sequence[str], tokenizer: Any) -> SuffixIndex:
    """The index of a text's tokens, for `Sampling.max_verbatim`; documents as `tokenize` has them.

    Raises as `SuffixIndex` and `tokenize` do.
    """
    _suffix_sort()  # before a long text is tokenized
    store = tokenize(documents, tokenizer, separator=tokenizer.eos_token_id is not None)
    return SuffixIndex(store, boundaries=boundaries_of(tokenizer))


def boundaries_of(tokenizer: Any) -> frozenset[int]:
    """The tokens that begin or end a text: no span goes through them."""
    return frozenset({tokenizer.bos_token_id, tokenizer.eos_token_id} - {None})


def _suffix_sort() -> Callable[[Bytes], npt.NDArray[Any]]:
    try:
        from pydivsufsort import divsufsort
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "pydivsufsort is not installed, which finds copies of the training text: "
            "pip install 'gpt2ft[copies]'"
        ) from error
    sort: Callable[[Bytes], npt.NDArray[Any]] = divsufsort
    return sort


def _of_tokens(of_bytes: npt.NDArray[Any], width: int) -> npt.NDArray[Any]:
    """The suffixes that begin where a token does, as numbers of tokens, a piece at a time."""
    if width == 1:
        return of_bytes
    n, filled = len(of_bytes) // width, 0
    array: npt.NDArray[Any] = np.empty(n, np.int32 if n < 2**31 else np.int64)
    for start in range(0, len(of_bytes), AT_ONCE):
        piece = of_bytes[start : start + AT_ONCE]
        piece = piece[piece % width == 0] // width
        array[filled : filled + len(piece)] = piece
        filled += len(piece)
    return array


def _windows(text: Bytes, width: int) -> Bytes:
    """The `REACH` tokens from each token on: a view, not a copy."""
    windows: Bytes = np.lib.stride_tricks.sliding_window_view(text, REACH * width)[::width]
    return windows


def _as_keys(windows: Bytes) -> npt.NDArray[np.bytes_]:
    """Rows of bytes as strings, which numpy compares."""
    return windows.view(f"S{windows.shape[1]}")[:, 0]


def _runs(holds: npt.NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """The first and the last position of each stretch where something holds."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], holds, [False]))))
    yield from ((int(first), int(stop) - 1) for first, stop in edges.reshape(-1, 2))
