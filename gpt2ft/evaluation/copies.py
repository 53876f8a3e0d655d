"""How much of a text stands verbatim in the training text: longest spans, n-grams, leakage."""

from __future__ import annotations

import json
import statistics
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset

from ..data.json_files import check_encodes, records
from ..data.suffixes import Span, SuffixIndex, boundaries_of
from ..data.token_index import IntArray
from ..data.token_store import TokenStore, tokenize
from ..system import durable
from .run_folder import COPIES

NGRAMS = (5, 10, 20)
TRIES = 100  # to find a place where no document ends
SLACK = 8  # characters: a tokenizer may add or drop a space where a text is cut


class Written(NamedTuple):
    """A text, and the prompt that it goes on from."""

    prompt: str
    text: str


@dataclass(frozen=True)
class Found:
    """What of some tokens stands in the training text."""

    longest: Span
    ngrams: dict[int, tuple[int, int]]
    """For each n, the n-grams that stand there, and all; none goes from document to document."""


class TrainingText:
    """The text that a model was trained on, indexed; where it comes from, to name places in it.

    `files` are the names of its documents, if each is a file. Raises as `SuffixIndex` does.
    """

    def __init__(self, documents: Dataset, tokenizer: Any, *, files: Sequence[str] = ()) -> None:
        self._documents, self._tokenizer = documents, tokenizer
        self._files = files if _n_documents(documents) == len(files) else ()
        self.store = tokens_of(documents, tokenizer)
        self.index = SuffixIndex(self.store, boundaries=boundaries_of(tokenizer))

    def look_up(self, ids: Sequence[int] | IntArray) -> Found:
        """The longest span of the ids that stands here, and their n-grams that do."""
        matches = self.index.matches(ids)
        ends = np.cumsum([0, *np.isin(ids, list(self.index.boundaries))])
        ngrams = {}
        for n in NGRAMS:
            within = ends[n:] == ends[:-n] if len(ids) >= n else np.empty(0)
            ngrams[n] = int((matches >= n).sum()), int(within.sum())
        return Found(self.index.longest(ids, matches), ngrams)

    def described(self, ids: Sequence[int] | IntArray, found: Found) -> dict[str, Any]:
        """The longest span with its text and place, and the share of n-grams, as in `COPIES`."""
        span = found.longest
        text = self._decode(ids[span.start : span.start + span.length])
        return {
            "longest_tokens": span.length,
            "longest_characters": len(text),
            "longest_text": text,
            "place": self.place(span.position, text) if span.length else None,
            "overlap": overlap([found]),
        }

    def place(self, position: int, text: str) -> str:
        """Where a text that begins with that token stands: file or row, line, character.

        Lines are counted from 1, as editors do; characters and rows from 0.
        """
        row = int(np.searchsorted(self.store.offsets, position, side="right")) - 1
        first, number = row, row
        if "first" in self._documents.column_names:
            begins = np.asarray(self._documents.select_columns(["first"])[: row + 1]["first"])
            first, number = int(np.flatnonzero(begins)[-1]), int(begins.sum()) - 1
        *before, own = self._documents[first : row + 1]["text"]
        near = len(self._decode(self.store.tokens(int(self.store.offsets[row]), position)))
        at = own.find(text, max(0, near - SLACK))
        lead = "".join(before) + own[: at if at >= 0 else near]
        if not self._files:
            return f"row {number} character {len(lead)}"
        return f"{self._files[number]} line {lead.count(chr(10)) + 1} character {len(lead)}"

    def _decode(self, ids: Sequence[int] | IntArray) -> str:
        text: str = self._tokenizer.decode(
            [int(token) for token in ids], clean_up_tokenization_spaces=False
        )
        return text


def measure_copies(
    samples: Sequence[Written],
    training: TrainingText,
    tokenizer: Any,
    held_out: TokenStore | None,
    *,
    seed: int = 0,
) -> dict[str, Any]:
    """What of each sample stands verbatim in the training text, as `COPIES` has it.

    A sample is what was written: its prompt is no part of it, not even where a span begins there.
    Beside it the same for pieces of the held-out text, one of as many tokens for each sample, from
    places drawn with the seed; and for the held-out text as a whole.
    """
    ids = [tokenizer(sample.text, add_special_tokens=False)["input_ids"] for sample in samples]
    found = [training.look_up(each) for each in ids]
    human = None
    if held_out is not None and max(map(len, ids), default=0) <= held_out.n_tokens:
        boundaries = training.index.boundaries
        pieces = pieces_of(held_out, list(map(len, ids)), boundaries, seed=seed)
        human = summary([training.look_up(piece) for piece in pieces])
    return {
        "samples": [
            {**sample._asdict(), **training.described(each, its)}
            for sample, each, its in zip(samples, ids, found, strict=True)
        ],
        "model": summary(found),
        "human": human,
        "leakage": None if held_out is None else leakage(training, held_out),
        "train_tokens": training.store.n_tokens,
    }


def leakage(training: TrainingText, held_out: TokenStore) -> dict[str, Any]:
    """The longest span of the whole held-out text that stands in the training text, and the share
    of its n-grams that do."""
    ids = held_out.tokens(0, held_out.n_tokens)
    return training.described(ids, training.look_up(ids))


def summary(found: Sequence[Found]) -> dict[str, Any]:
    """Over all texts: the median and the largest of their longest spans, the share of n-grams."""
    longest = [each.longest.length for each in found]
    return {
        "median_longest": statistics.median(longest),
        "largest_longest": max(longest),
        "overlap": overlap(found),
    }


def overlap(found: Iterable[Found]) -> dict[str, float | None]:
    """The share of n-grams that stand in the training text; None where there are none."""
    counts = [each.ngrams for each in found]
    shares: dict[str, float | None] = {}
    for n in NGRAMS:
        copied, all_of_them = (sum(count[n][i] for count in counts) for i in (0, 1))
        shares[str(n)] = copied / all_of_them if all_of_them else None
    return shares


def tokens_of(documents: Dataset, tokenizer: Any) -> TokenStore:
    """Documents as tokens, apart from each other if the tokenizer has an end-of-text token."""
    return tokenize(documents, tokenizer, separator=tokenizer.eos_token_id is not None)


def pieces_of(
    store: TokenStore, lengths: Sequence[int], boundaries: Collection[int], *, seed: int
) -> Iterator[IntArray]:
    """A piece of each length, from a place drawn with the seed; of one document, if one has room.

    No length is more than the store's.
    """
    draw = np.random.default_rng(seed)
    for length in lengths:
        for _ in range(TRIES):
            start = int(draw.integers(0, store.n_tokens - length + 1))
            piece = store.tokens(start, start + length)
            if not np.isin(piece, list(boundaries)).any():
                break
        yield piece


def read_samples(path: str) -> list[Written]:
    """Texts from a file: records with `text` and, if wanted, `prompt`; else the file is one text.

    Raises `OSError`, or `ValueError` if there is no text, or a record has none.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8, byte {error.start}, convert it") from error
    if not path.endswith((".json", ".jsonl")):
        return [Written("", text)]
    samples = []
    for place, record in records(path, text.split("\n")):
        values = record if isinstance(record, dict) else {}
        prompt, written = values.get("prompt", ""), values.get("text")
        if not (isinstance(prompt, str) and isinstance(written, str)):
            raise ValueError(f'{place} has no text, write {{"prompt": "...", "text": "..."}}')
        check_encodes(place, prompt + written)
        samples.append(Written(prompt, written))
    if not samples:
        raise ValueError(f"{path} has no samples, give a file with at least one")
    return samples


def _n_documents(rows: Dataset) -> int:
    """Documents may come in pieces, see `Corpus`."""
    return sum(rows["first"]) if "first" in rows.column_names else len(rows)


def save_copies(folder: Path, result: dict[str, Any]) -> Path:
    """Keep what was measured in a run's folder; returns the file."""
    path = folder / COPIES
    durable.replace(path, json.dumps(result, ensure_ascii=False, indent=1).encode())
    return path
