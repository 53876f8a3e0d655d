"""Blocks of whole rows, for conversations: none is cut that has room in a block."""

from __future__ import annotations

import array

import numpy as np

from .token_index import IntArray
from .token_store import TokenStore

AT_ONCE = 1 << 20  # rows that are looked at together


def teaches(store: TokenStore, start: int, stop: int) -> bool:
    """Whether one of these tokens, but the first, is to be learned."""
    return bool((store.stored(start, stop)[1:] >= 0).any())


def whole_rows(store: TokenStore, block_size: int) -> IntArray:
    """Ranges of the stream, `(n, 2)`, of at most `block_size` tokens: as many rows as there is room
    for, one after another, or a part of a longer row."""
    places = array.array("q")  # of starts and stops in turn
    start = stop = 0
    for first in range(1, len(store.offsets), AT_ONCE):
        for end in store.offsets[first : first + AT_ONCE].tolist():
            if end - start > block_size and stop > start:  # this row has no room in the block
                places.extend((start, stop))
                start = stop
            stop = end
            if stop - start > block_size:  # nor in one of its own
                for part in range(start, stop, block_size):
                    if teaches(store, part, min(part + block_size, stop)):
                        places.extend((part, min(part + block_size, stop)))
                start = stop
    if stop > start:
        places.extend((start, stop))
    if not places:
        raise ValueError(
            f"no part of a conversation, of --block_size {block_size} tokens, has two tokens of an "
            "answer: give a larger one"
        )
    return np.frombuffer(places, np.int64).reshape(-1, 2)
