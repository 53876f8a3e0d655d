"""The documents of a run: those to train on, and those held out."""

from __future__ import annotations

import dataclasses
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import datasets
import numpy as np
from datasets import Dataset

from . import chats
from .built_in import BUILT_IN_TEXT, python_reference
from .duplicates import without_duplicates, without_equal_files
from .file_list import kind_of, list_files
from .reader import PIECES, Reader

MANY_FILES = 20  # of which whole ones are held out, not the end of each


@dataclass(frozen=True)
class Corpus:
    """Documents to train on, and those held out, if any.

    Each has a column `text`; where a long document comes in pieces, the columns `first` and `last`
    mark where it starts and ends. Conversations have a column `messages` instead, see `chats`.
    """

    train: Dataset
    validation: Dataset | None
    notes: list[str] = field(default_factory=list)
    """What is to be said of it: what was left out."""
    files: list[str] = field(default_factory=list)
    """The text files whose documents those to train on are, in their order."""


def load_corpus(
    *,
    dataset_name: str | None = None,
    dataset_config_name: str | None = None,
    dataset_split: str = "train",
    train_file: str | Sequence[str] = (),
    validation_file: str | Sequence[str] = (),
    validation_split_percentage: float = 5.0,
    text_column: str | None = None,
    prompt_column: str | None = None,
    completion_column: str | None = None,
    lines: bool = False,
    contiguous: bool = False,
    encoding: str = "utf-8",
    deduplicate: bool = False,
    seed: int = 42,
) -> Corpus:
    """Load a corpus and its held-out part.

    The held-out part is `validation_file`, else the data set's own validation split, else a
    percentage: of fewer than 20 text files the end of each, of more some files drawn with `seed`;
    of records some drawn with `seed`, or the last ones where they are parts of one text
    (`contiguous`). A text file is one document, or with `lines` one row per line. Files of several
    kinds may be given. With `deduplicate`, of equal documents the first is kept.
    Raises `OSError`, `ValueError`, or `HubUnavailableError`.
    """
    if dataset_name is None and not train_file:
        raise ValueError("no corpus, name files or a data set")
    reader = Reader(text_column, prompt_column, completion_column, lines, encoding)
    hold_out = _HoldOut(0 if validation_file else validation_split_percentage, contiguous, seed)
    if dataset_name is None:
        corpus = _of_files(reader, train_file, hold_out, deduplicate)
    else:
        rows, validation = _of_data_set(reader, dataset_name, dataset_config_name, dataset_split)
        rows, notes = without_duplicates(rows) if deduplicate else (rows, [])
        if validation is None or validation_file:
            rows, validation = hold_out.of_rows(rows)
        corpus = Corpus(rows, validation, notes)
    if not validation_file:
        return corpus
    listed = list_files(validation_file)
    held_out = joined([reader.files(names) for names in _by_kind(listed.names)])
    notes = corpus.notes + listed.notes
    return dataclasses.replace(corpus, validation=held_out, notes=notes)


def texts_of(documents: Dataset, size: int = 100) -> Iterator[str]:
    """Texts of a data set, read from disk `size` at a time; of a conversation all that is said."""
    for rows in documents.iter(batch_size=size):
        if chats.MESSAGES in rows:
            yield from map(chats.all_words, rows[chats.MESSAGES])
        else:
            yield from (text or "" for text in rows["text"])


def _of_files(
    reader: Reader, named: str | Sequence[str], hold_out: _HoldOut, deduplicate: bool
) -> Corpus:
    listed = list_files(named)
    notes, train, held_out, files = list(listed.notes), [], [], []
    groups = _by_kind(listed.names)
    for names in groups:
        if kind_of(names[0]) == "text" and not reader.lines:
            names, equal = without_equal_files(names) if deduplicate else (names, [])
            rows, validation, names = hold_out.of_text_files(reader, names)
            files += names
        else:
            rows = reader.files(names)
            rows, equal = without_duplicates(rows) if deduplicate else (rows, [])
            rows, validation = hold_out.of_rows(rows, alone=len(groups) == 1)
        notes += equal
        train.append(rows)
        held_out += [] if validation is None else [validation]
    return Corpus(joined(train), joined(held_out) if held_out else None, notes, files)


def _of_data_set(
    reader: Reader, name: str, config: str | None, split: str
) -> tuple[Dataset, Dataset | None]:
    """The split of a data set, and its own validation split."""
    if name == BUILT_IN_TEXT:
        if split != "train":
            raise ValueError(f"{BUILT_IN_TEXT} has no {split}, give --dataset_split train")
        return Dataset.from_dict({"text": python_reference()}), None
    rows = reader.hub(name, config, split)
    has_validation = re.search(r"(^|\+)\s*(validation|all)\b", split)
    return rows, None if has_validation else reader.hub_validation(name, config)


@dataclass(frozen=True)
class _HoldOut:
    """Which part of a corpus is held out."""

    percentage: float
    contiguous: bool
    seed: int

    def of_text_files(
        self, reader: Reader, names: list[str]
    ) -> tuple[Dataset, Dataset | None, list[str]]:
        """The end of each file; or whole files, where there are many. Also those not held out."""
        if not self.percentage:
            return reader.files(names), None, names
        if len(names) < MANY_FILES:
            border = 1 - self.percentage / 100
            return reader.files(names, end=border), reader.files(names, start=border), names
        n = max(1, round(len(names) * self.percentage / 100))
        chosen = set(random.Random(self.seed).sample(range(len(names)), n))
        parts = [[name for i, name in enumerate(names) if (i in chosen) == out] for out in (0, 1)]
        if not parts[0]:
            raise ValueError(_too_few(self.percentage, len(names), "files"))
        return reader.files(parts[0]), reader.files(parts[1]), parts[0]

    def of_rows(self, rows: Dataset, *, alone: bool = True) -> tuple[Dataset, Dataset | None]:
        """Some rows at random, or the last ones; none of too few, if they are not all there is."""
        if not self.percentage:
            return rows, None
        n = max(1, round(len(rows) * self.percentage / 100))
        if n >= len(rows) and not alone:
            return rows, None
        if n >= len(rows):
            raise ValueError(_too_few(self.percentage, len(rows), "rows"))
        parts = rows.train_test_split(test_size=n, shuffle=not self.contiguous, seed=self.seed)
        return parts["train"], parts["test"]


def _too_few(percentage: float, n: int, what: str) -> str:
    return (
        f"{percentage:g} percent of {n} {what} cannot be held out, "
        "name --validation_file or set --validation_split_percentage 0"
    )


def _by_kind(names: Sequence[str]) -> list[list[str]]:
    """Files in groups of one kind, texts first."""
    kinds = sorted(map(kind_of, names), key=lambda kind: kind != "text")
    return [[name for name in names if kind_of(name) == kind] for kind in dict.fromkeys(kinds)]


def joined(parts: Sequence[Dataset]) -> Dataset:
    """Data sets one after another. Raises `ValueError` if only some are conversations."""
    if len({chats.MESSAGES in part.column_names for part in parts}) > 1:
        raise ValueError(
            "there are both texts and conversations: make them two corpora with a weight each, "
            "--train_file notes.txt:0.5 chats.jsonl:0.5, and say what to evaluate on with "
            "--validation_file, or set --validation_split_percentage 0"
        )
    if len(parts) == 1:
        return parts[0]
    return datasets.concatenate_datasets([_as_pieces(part) for part in parts])


def as_texts(rows: Dataset) -> Dataset:
    """Documents with a column `text`: of a conversation, all that is said in it."""
    if chats.MESSAGES not in rows.column_names:
        return rows
    return rows.map(_words, batched=True, remove_columns=rows.column_names, desc="Reading")


def _words(batch: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    return {"text": [chats.all_words(each) for each in batch[chats.MESSAGES]]}


def _as_pieces(rows: Dataset) -> Dataset:
    """Rows with the columns that pieces of text files have."""
    if chats.MESSAGES in rows.column_names:
        return rows
    if rows.features["text"] != PIECES["text"]:  # datasets reads some files as large_string
        rows = rows.cast_column("text", PIECES["text"])
    for name in ("first", "last"):
        if name not in rows.column_names:
            rows = rows.add_column(name, np.ones(len(rows), bool), feature=PIECES[name])
    return rows
