"""Documents that are equal to an earlier one: found by hash, and left out."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xxhash
from datasets import Dataset, Features, Value

from .chats import MESSAGES

BLANK = 0
HASHES = Features({"hash": Value("int64")})


def without_equal_files(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """The files but those with the bytes of an earlier one, and what is to be said of that."""
    sizes = [os.path.getsize(name) for name in names]
    seen, kept = set(), []
    for name, size in zip(names, sizes, strict=True):
        # Only a file of equal size can be equal.
        key = (size, _digest(name) if sizes.count(size) > 1 else b"")
        if key not in seen:
            kept.append(name)
        seen.add(key)
    return kept, _notes(len(names) - len(kept), len(names), "files")


def without_duplicates(rows: Dataset) -> tuple[Dataset, list[str]]:
    """The rows but those equal to an earlier one, and what is to be said of that.

    Rows count as equal if xxh3 gives the same 64 bits for them.
    """
    column = MESSAGES if MESSAGES in rows.column_names else "text"
    hashes = rows.map(
        _hash_batch,
        fn_kwargs={"column": column},
        batched=True,
        remove_columns=rows.column_names,
        features=HASHES,
        desc="Looking for duplicates",
    )
    found = hashes.with_format("numpy")["hash"][:]
    _, first = np.unique(found, return_index=True)
    blank = np.flatnonzero(found == BLANK)  # lines between others, which have no tokens
    kept = np.union1d(first, blank)
    if len(kept) == len(rows):
        return rows, []
    return rows.select(kept), _notes(len(rows) - len(kept), len(rows) - len(blank), "documents")


def _hash_batch(batch: Mapping[str, Sequence[Any]], *, column: str) -> dict[str, list[int]]:
    texts = ((text or "").strip() and text for text in batch[column])
    return {"hash": [xxhash.xxh3_64_intdigest(t.encode()) - 2**63 if t else BLANK for t in texts]}


def _digest(name: str) -> bytes:
    with open(name, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _notes(n: int, of: int, what: str) -> list[str]:
    return [f"{n:,} of {of:,} {what} left out, equal to an earlier one"] if n else []
