"""Where rows and documents lie among the tokens of a store: on disk, and memory-mapped."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
import xxhash
from datasets import Dataset

IntArray = npt.NDArray[np.int64]

ARRAYS = ("offsets", "document_starts", "long_rows")
FACTS = "facts.json"
VERSION = 2
AT_ONCE = 1 << 20  # bytes of an array that are read at once


@dataclass(frozen=True)
class TokenIndex:
    """What a token store knows about its rows without reading their tokens.

    The arrays are memory-mapped: what of them is in memory does not grow with the corpus.
    """

    offsets: IntArray
    """Where each row lies in the stream, `(rows + 1,)`."""
    document_starts: IntArray
    """Where positions begin again, `(documents,)`; see `TokenStore`."""
    long_rows: IntArray
    """Numbers of the rows of at least two tokens."""
    largest: int
    """The largest token id, -1 where there is none."""
    whole_documents: bool
    """Whether no document came in pieces."""
    duplicates: int
    """Documents that are equal to an earlier one; of those in pieces nothing is known."""
    digest: str
    """Hash of the tokens and of where documents begin."""


def index_of(tokenized: Dataset, *, has_prefix: bool, apart: bool) -> TokenIndex:
    """The index of a tokenized corpus, from beside its cache files, or made in one pass over it."""
    files = [file["filename"] for file in tokenized.cache_files]
    if not files:  # it is in memory
        with tempfile.TemporaryDirectory(prefix="gpt2ft-index-") as temporary:
            _make(tokenized, Path(temporary), has_prefix=has_prefix, apart=apart)
            return _read(Path(temporary), in_memory=True)
    of_what = repr([VERSION, files, len(tokenized), has_prefix, apart])
    name = f"index-{hashlib.sha256(of_what.encode()).hexdigest()[:16]}"
    folder = Path(files[0]).parent / name
    with contextlib.suppress(OSError, ValueError):  # not there, or damaged: it is made again
        return _read(folder)
    made = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=folder.parent))
    try:
        _make(tokenized, made, has_prefix=has_prefix, apart=apart)
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # another process was faster
            made.rename(folder)
        return _read(folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _read(folder: Path, *, in_memory: bool = False) -> TokenIndex:
    facts: Any = json.loads((folder / FACTS).read_text())
    arrays: dict[str, Any] = {}
    for name in ARRAYS:
        path = folder / name
        if in_memory or path.stat().st_size == 0:  # an empty file cannot be mapped
            arrays[name] = np.fromfile(path, np.int64)
        else:
            arrays[name] = np.memmap(path, np.int64, "r").view(np.ndarray)
        if len(arrays[name]) != facts["lengths"][name]:
            raise ValueError(f"{path} is damaged")
    del facts["lengths"]  # what is left are the other fields
    return TokenIndex(**arrays, **facts)


def _make(tokenized: Dataset, folder: Path, *, has_prefix: bool, apart: bool) -> None:
    """Write the arrays of an index, a record batch at a time, and its facts at last."""
    digest, largest, whole, begun = xxhash.xxh3_128(), -1, True, False
    n_rows = n_tokens = 0
    seen: list[tuple[Any, Any, Any]] = []
    with contextlib.ExitStack() as stack:
        files = {name: stack.enter_context(open(folder / name, "w+b")) for name in ARRAYS}
        _append(files["offsets"], [0])
        for batch in tokenized.data.to_batches():
            rows, ends, first, hashes, maxima = (
                batch.column(name) for name in ("input_ids", "ends", "first", "hash", "largest")
            )
            first = first.to_numpy(zero_copy_only=False)
            lengths = pc.list_value_length(rows).to_numpy().astype(np.int64)
            stops = n_tokens + np.cumsum(lengths)
            begins = stops - lengths
            _append(files["offsets"], stops)
            _append(files["long_rows"], n_rows + np.flatnonzero(lengths >= 2))
            starts = begins[first & (lengths > 0)]
            if apart and not has_prefix:
                # The end-of-text token before a document stands at its start, as GPT-2 saw it, and
                # predicts its first token. Also where a text has the token written in it, as files
                # for GPT-2 often do. A tokenizer with a beginning-of-text token needs no other.
                places = np.repeat(begins, pc.list_value_length(ends).to_numpy())
                places += pc.list_flatten(ends).to_numpy()
                starts = np.append(starts[: not begun] - 1, places)
                begun = begun or len(starts) > 0
            if apart:
                _append(files["document_starts"], starts)
            digest.update(np.ascontiguousarray(hashes.to_numpy()).data)
            seen.append((hashes.to_numpy(), first, lengths > 0))
            largest = max(largest, int(maxima.to_numpy().max(initial=-1)))
            whole, n_rows = whole and bool(first.all()), n_rows + len(lengths)
            n_tokens = int(stops[-1]) if len(stops) else n_tokens
        if not has_prefix:  # at the end of the stream nothing begins
            _drop_last(files["document_starts"], n_tokens - 1)
    for name in ("offsets", "document_starts"):
        with open(folder / name, "rb") as file:
            while data := file.read(AT_ONCE):
                digest.update(data)
    facts = {
        **{"largest": largest, "whole_documents": whole, "digest": digest.hexdigest()},
        "duplicates": _n_duplicates(seen) if apart else 0,
        "lengths": {name: os.path.getsize(folder / name) // 8 for name in ARRAYS},
    }
    (folder / FACTS).write_text(json.dumps(facts))


def _n_duplicates(batches: Sequence[tuple[Any, Any, Any]]) -> int:
    """How many documents equal an earlier one, from the hash of each row, whether it is the first
    of a document, and whether it has tokens."""
    if not batches:
        return 0
    hashes, first, filled = (np.concatenate(column) for column in zip(*batches, strict=True))
    whole = hashes[first & np.append(first[1:], True) & filled]
    return len(whole) - len(np.unique(whole))


def _drop_last(file: Any, number: int) -> None:
    """Leave out the last number of a file if it is that one."""
    size = file.tell()
    if size:
        file.seek(size - 8)
        if int.from_bytes(file.read(8), "little", signed=True) == number:
            file.truncate(size - 8)


def _append(file: Any, numbers: Any) -> None:
    file.write(np.asarray(numbers, dtype="<i8").tobytes())
