"""Where documents come from: the hub, files, or the text that is built in."""

from __future__ import annotations

import glob
import hashlib
import inspect
import itertools
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset, Features, Value

from ..system.hub import HubUnavailableError, is_offline
from . import json_files, text_files
from .built_in import BUILT_IN_TEXT, python_reference
from .text_column import choose_column

LOADERS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}

TEXTS = Features({"text": Value("string")})
# A piece of a text file; a row is a piece that is both first and last.
PIECES = Features({"text": Value("string"), "first": Value("bool"), "last": Value("bool")})


@dataclass(frozen=True)
class Corpus:
    """Documents to train on, and those held out, if any.

    Each has a column `text`. Where a long document comes in pieces, the columns `first` and `last`
    mark where it starts and ends.
    """

    train: Dataset
    validation: Dataset | None


def load_corpus(
    *,
    dataset_name: str | None = None,
    dataset_config_name: str | None = None,
    dataset_split: str = "train",
    train_file: str | Sequence[str] = (),
    validation_file: str | Sequence[str] = (),
    validation_split_percentage: float = 5.0,
    text_column: str | None = None,
    lines: bool = False,
    contiguous: bool = False,
    seed: int = 42,
) -> Corpus:
    """Load a corpus and its held-out part.

    The held-out part is `validation_file`, else the data set's own validation split, else a
    percentage: the end of each text file, or rows drawn with `seed`, or the last rows where rows
    are parts of one text (`contiguous`). A text file is one document, or with `lines` one row per
    line.
    Raises `FileNotFoundError`, `ValueError`, or `HubUnavailableError`.
    """
    if dataset_name is None and not train_file:
        raise ValueError("no corpus, name files or a data set")
    train_files, validation_files = expand(train_file), expand(validation_file)
    whole_files = not lines and _loader(train_files) == "text"
    reader = Reader(text_column, lines)
    if dataset_name == BUILT_IN_TEXT:
        if dataset_split != "train":
            raise ValueError(f"{BUILT_IN_TEXT} has no {dataset_split}, give --dataset_split train")
        train, validation = Dataset.from_dict({"text": python_reference()}), None
    elif dataset_name is not None:
        train = reader.hub(dataset_name, dataset_config_name, dataset_split)
        validation = None
        if not re.search(r"(^|\+)\s*(validation|all)\b", dataset_split):
            validation = reader.hub_validation(dataset_name, dataset_config_name)
    else:
        held_out = 0.0 if validation_files or not whole_files else validation_split_percentage
        border = 1 - held_out / 100
        train = reader.files(train_files, end=border)
        validation = reader.files(train_files, start=border) if held_out else None
    if validation_files:
        validation = reader.files(validation_files)
    elif validation is None and validation_split_percentage and not whole_files:
        train, validation = _split_rows(train, validation_split_percentage, contiguous, seed)
    return Corpus(train, validation)


def texts_of(documents: Dataset, size: int = 100) -> Iterator[str]:
    """Texts of a data set with a column `text`, read from disk `size` at a time."""
    for rows in documents.iter(batch_size=size):
        yield from (text or "" for text in rows["text"])


def _split_rows(
    rows: Dataset, percentage: float, contiguous: bool, seed: int
) -> tuple[Dataset, Dataset]:
    held_out = max(1, round(len(rows) * percentage / 100))
    if held_out >= len(rows):
        raise ValueError(
            f"{percentage:g} percent of {len(rows)} rows cannot be held out, "
            "name --validation_file or set --validation_split_percentage 0"
        )
    parts = rows.train_test_split(test_size=held_out, shuffle=not contiguous, seed=seed)
    return parts["train"], parts["test"]


@dataclass(frozen=True)
class Reader:
    """Reads tables and text files as data sets with the one column `text`."""

    text_column: str | None
    """Column that holds the text; None: see `choose_column`."""
    lines: bool
    """Whether each line of a text file is a row, rather than each file a document."""
    cache_dir: str | None = None
    """Where `datasets` keeps what was read; None: in its usual place."""

    def hub(self, name: str, config: str | None, split: str) -> Dataset:
        """A split of a data set on the hub, or of a folder of that form."""
        builder = builder_of(name, config)
        try:
            rows = builder.as_dataset(split=split)
        except ValueError as error:
            raise ValueError(f"data set {name} has no split {split}, {error}") from error
        return self._text_only(rows, name)

    def hub_validation(self, name: str, config: str | None) -> Dataset | None:
        """The data set's own validation split, None if it has none."""
        builder = builder_of(name, config)
        if "validation" not in (builder.info.splits or {}):
            return None
        return self._text_only(builder.as_dataset(split="validation"), name)

    def files(self, files: Sequence[str], *, start: float = 0.0, end: float = 1.0) -> Dataset:
        """Rows of the files; of whole text files, the part from fraction `start` to `end`."""
        loader = _loader(files)
        # Size and time of change are part of the cache's key: an edited file is read again.
        stamps = [(os.path.abspath(f), os.stat(f).st_size, os.stat(f).st_mtime_ns) for f in files]
        if loader == "text":
            pieces = {"stamps": stamps, "lines": self.lines, "start": start, "end": end}
            return _cached(text_files.text_pieces, pieces, PIECES, self.cache_dir)
        if loader == "json":
            records = {"stamps": stamps, "text_column": self.text_column}
            return _cached(json_files.json_texts, records, TEXTS, self.cache_dir)
        source = ", ".join(files)
        try:
            # Escaped: these are files, which datasets would take for globs once more. In a CSV file
            # "None" and "NA" are words.
            options: dict[str, Any] = {"keep_default_na": False} if loader == "csv" else {}
            names = [glob.escape(name) for name in files]
            builder = datasets.load_dataset_builder(
                loader, data_files=names, cache_dir=self.cache_dir, **options
            )
            builder.download_and_prepare()
        except (datasets.exceptions.DatasetGenerationError, ValueError) as error:
            if isinstance(error.__cause__, UnicodeDecodeError):
                for path, size, _ in stamps:
                    for _ in text_files.read_text(path, 0, size):  # raises with file and byte
                        pass
            reason = str(error.__cause__ or error).strip()
            raise ValueError(
                f"{source} cannot be read as {loader}, {reason}, correct it"
            ) from error
        if not builder.info.splits["train"].num_examples:
            raise ValueError(f"{source} has no records, give a file with at least one")
        return self._text_only(builder.as_dataset(split="train"), source)

    def _text_only(self, rows: Dataset, source: str) -> Dataset:
        """The rows with their text alone, in a column `text`."""
        strings = [
            name
            for name, feature in rows.features.items()
            if getattr(feature, "dtype", None) in ("string", "large_string")
        ]
        column = choose_column(source, self.text_column, strings, rows.column_names)
        rows = rows.select_columns([column])
        return rows if column == "text" else rows.rename_column(column, "text")


def builder_of(name: str, config: str | None, *, download: bool = True) -> datasets.DatasetBuilder:
    """A data set on the hub, or of a folder of that form; in the cache, if it is downloaded."""
    only_cache = is_offline() and not os.path.isdir(name)
    builder = None
    try:
        builder = datasets.load_dataset_builder(name, config, cache_dir=_folder_cache(name))
        if elsewhere := _files_elsewhere(builder, name):
            raise ValueError(f"{elsewhere[0]} is no part of it")
        if download:
            builder.download_and_prepare()
    except datasets.exceptions.DatasetGenerationError as error:
        reason = error.__cause__ or error
        raise ValueError(f"data set {name} cannot be read, {reason}") from error
    except Exception as error:
        # Where another configuration is cached, datasets raises ValueError for this one.
        if only_cache and (isinstance(error, OSError) or builder is None):
            raise HubUnavailableError(
                f"data set {name} is not on this machine, and it cannot be downloaded: no "
                "connection to the hub; name a folder, or --train_file"
            ) from error
        if isinstance(error, OSError):
            raise FileNotFoundError(f"data set {name} cannot be loaded, {error}") from error
        # A script, pickled objects, settings that are no YAML.
        raise ValueError(f"data set {name} is refused, {str(error)[:300]}") from error
    return builder


def _files_elsewhere(builder: datasets.DatasetBuilder, name: str) -> list[str]:
    """Files of this machine that a data set says are its own: they might be anybody's secrets."""
    folder = os.path.join(os.path.abspath(name), "")
    listed = itertools.chain.from_iterable((builder.config.data_files or {}).values())
    files = [file.split("::")[-1] for file in listed]  # member of an archive::archive
    return [f for f in files if "://" not in f and not os.path.abspath(f).startswith(folder)]


def _folder_cache(name: str) -> str | None:
    """A cache folder for a data set that is a folder, None for one on the hub.

    `datasets` tells folders apart by their last name alone, and would not see that files changed.
    """
    if not os.path.isdir(name):
        return None
    files = sorted(path for path in Path(name).resolve().rglob("*") if path.is_file())
    stamps = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    key = hashlib.sha256(repr(stamps).encode()).hexdigest()[:16]
    return os.path.join(datasets.config.HF_DATASETS_CACHE, f"folder-{key}")


def _loader(files: Sequence[str]) -> str:
    """The loader for files of that ending; any ending but those known is text."""
    loaders = {LOADERS.get(Path(name).suffix.lower(), "text") for name in files}
    if len(loaders) > 1:
        raise ValueError(f"files of several kinds, {', '.join(files)}, give files of one kind")
    return loaders.pop() if loaders else "none"


def expand(patterns: str | Sequence[str]) -> list[str]:
    """Files that the paths and globs name, in order; a path that exists is never a glob."""
    files = []
    for pattern in [patterns] if isinstance(patterns, (str, Path)) else patterns:
        found = [pattern] if os.path.exists(pattern) else sorted(glob.glob(pattern, recursive=True))
        if not found:
            raise FileNotFoundError(f"no file {os.path.abspath(pattern)}, check the path")
        files += found
    for name in files:
        path = os.path.abspath(name)
        if os.path.isdir(name):
            raise IsADirectoryError(f"{path} is a folder, name the files in it")
        try:
            if os.path.getsize(name) == 0:  # also a pipe: opening it might wait for ever
                raise ValueError(f"{path} is empty, give a file with text")
            open(name, "rb").close()
        except OSError as error:
            raise type(error)(f"{path} cannot be read, {error.strerror}, give another") from error
    return files


def _cached(
    texts: Callable[..., Iterator[dict[str, Any]]],
    arguments: dict[str, Any],
    features: Features,
    cache_dir: str | None,
) -> Dataset:
    """`texts(**arguments)`, from the cache if it was made before, by the same code."""
    code = [inspect.getsource(part) for part in (text_files, json_files, choose_column)]
    key = repr((code, arguments))
    try:
        return Dataset.from_generator(
            texts,
            gen_kwargs=arguments,
            features=features,
            cache_dir=cache_dir,
            fingerprint=hashlib.sha256(key.encode()).hexdigest()[:32],
        )
    except datasets.exceptions.DatasetGenerationError as error:
        raise error.__cause__ or error from None
