"""Windows that slide over each document: every token is predicted with much before it."""

from __future__ import annotations

import numpy as np

from ..data.batches import Sample
from ..data.collate import IGNORED
from ..data.token_index import IntArray
from ..data.token_store import TokenStore


class Windows:
    """Samples in which each token of a text is a target once, with as much context as there is.

    The first window of a document holds its first `size` tokens, all of them but the first are
    targets. Each further one begins `stride` tokens later, and its targets are the tokens that no
    window before had: they see at least `size - stride` tokens. This is the protocol of the page
    "Perplexity of fixed-length models" of transformers. With `stride` equal to `size` windows do
    not overlap, and the first token of each is no target. A sample holds `input_ids (T,)` and
    `labels (T,)`, -100 where there is no target.
    """

    def __init__(self, store: TokenStore, size: int, stride: int, *, end: int | None) -> None:
        """`end` is the end-of-text token that stands between documents, if one does."""
        if not 1 <= stride <= size:
            raise ValueError(f"--stride is {stride}, give a number >= 1 and <= the window, {size}")
        self._store = store
        begins, stops, self._document = _documents(store, end)
        lengths = stops - begins
        n = np.maximum(1, -(-(lengths - size) // stride) + 1)
        first = np.cumsum(n) - n  # number of each document's first window
        number = np.arange(int(n.sum())) - np.repeat(first, n)
        self._document = np.repeat(self._document, n)
        self._starts = np.repeat(begins, n) + number * stride
        self._stops = np.minimum(self._starts + size, np.repeat(stops, n))
        # The first token that no window before had as a target.
        self._first = self._starts + np.where(number == 0, 1, max(1, size - stride))
        if not len(self._starts):
            raise ValueError("no document of the text has two tokens, give a longer text")

    @property
    def lengths(self) -> IntArray:
        """Tokens of each window."""
        lengths: IntArray = self._stops - self._starts
        return lengths

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, number: int) -> Sample:
        start, stop = int(self._starts[number]), int(self._stops[number])
        ids = self._store.tokens(start, stop)
        labels = ids.copy()
        labels[: int(self._first[number]) - start] = IGNORED
        return {"input_ids": ids, "labels": labels}

    def documents(self, number: int) -> IntArray:
        """Which document each token of a window belongs to: one."""
        return np.full(int(self.lengths[number]), self._document[number])


def _documents(store: TokenStore, end: int | None) -> tuple[IntArray, IntArray, IntArray]:
    """First token, end and number of each document of two tokens or more.

    A document has the end-of-text token before it, which predicts its first token, and the one
    after it, which is its last target.
    """
    begins = np.maximum(np.asarray(store.document_starts), 0)
    if not len(begins):  # one text
        begins = np.zeros(1, np.int64)
    stops = np.append(begins[1:], store.n_tokens)
    if len(begins) > 1 and store.tokens(int(begins[1]), int(begins[1]) + 1)[0] == end:
        stops[:-1] += 1
    long = stops - begins >= 2
    return begins[long], stops[long], np.flatnonzero(long)
