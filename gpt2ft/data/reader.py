"""Files, and data sets of the hub, as data sets with texts or conversations alone."""

from __future__ import annotations

import glob
import hashlib
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset, Features, Value

from ..system.hub import HubUnavailableError, is_offline
from . import cache, json_files, plain_file, text_files
from .chats import MESSAGES, Columns, conversation
from .file_list import is_packed, kind_of
from .text_column import choose_column

# A piece of a text file; a row is a piece that is both first and last.
PIECES = Features({"text": Value("string"), "first": Value("bool"), "last": Value("bool")})
RECORDS = Features({"text": Value("string"), MESSAGES: Value("string")})


@dataclass(frozen=True)
class Reader:
    """Reads tables and text files as data sets with the one column `text`.

    Where they hold conversations, it is the column `messages`, see `chats`.
    """

    text_column: str | None = None
    """Column that holds the text; None: see `choose_column`."""
    prompt_column: str | None = None
    completion_column: str | None = None
    """Columns of a question and its answer, where conversations are written so."""
    lines: bool = False
    """Whether each line of a text file is a row, rather than each file a document."""
    encoding: str = "utf-8"
    """Of text, JSON and CSV files."""
    cache_dir: str | None = None
    """Where `datasets` keeps what was read; None: in its usual place."""

    @property
    def columns(self) -> Columns:
        """The columns that were named."""
        return Columns(self.text_column, self.prompt_column, self.completion_column)

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
        """Rows of files of one kind; of whole text files, the part from `start` to `end`."""
        (kind,) = {kind_of(name) for name in files}
        # Size and time of change are part of the cache's key: an edited file is read again.
        # A tuple: of a list, datasets would give the files one by one.
        stamps = tuple(
            (os.path.abspath(f), os.stat(f).st_size, os.stat(f).st_mtime_ns) for f in files
        )
        read: dict[str, Any] = {"stamps": stamps, "encoding": self.encoding}
        if kind == "text":
            if self.prompt_column or self.completion_column:
                raise ValueError(f"{files[0]} is a text without columns, leave out --prompt_column")
            read |= {"lines": self.lines, "start": start, "end": end}
            return _cached(text_files.text_pieces, read, PIECES, self.cache_dir)
        if kind == "json":
            read["columns"] = self.columns
            rows = _cached(json_files.json_texts, read, RECORDS, self.cache_dir)
            # Of the two columns one is filled: the first record decides which.
            return rows.remove_columns("text" if rows[0]["text"] is None else MESSAGES)
        return self._table(kind, files, stamps)

    def _table(self, kind: str, files: Sequence[str], stamps: Sequence[Any]) -> Dataset:
        """The rows of CSV or parquet files."""
        source = ", ".join(files)
        if kind == "parquet" and any(map(is_packed, files)):
            raise ValueError(
                f"{source} is packed twice, as parquet is packed itself: unpack it first"
            )
        folder = self.cache_dir or cache.entry("table", stamps, files)
        # Escaped: these are files, which datasets would take for globs once more. In a CSV file
        # "None" and "NA" are words.
        options: dict[str, Any] = {"keep_default_na": False} if kind == "csv" else {}
        if kind == "csv" and self.encoding != "utf-8":
            options["encoding"] = self.encoding
        try:
            names = [glob.escape(name) for name in files]
            builder = datasets.load_dataset_builder(
                kind, data_files=names, cache_dir=folder, **options
            )
            builder.download_and_prepare()
        except (datasets.exceptions.DatasetGenerationError, ValueError) as error:
            if isinstance(error.__cause__, UnicodeDecodeError):
                for path, _, _ in stamps:
                    with plain_file.plain_file(path, self.encoding) as plain:
                        size = os.path.getsize(plain)
                        for _ in plain_file.read_text(plain, 0, size, name=path):
                            pass  # raises with file and byte
            reason = str(error.__cause__ or error).strip()
            raise ValueError(f"{source} cannot be read as {kind}, {reason}, correct it") from error
        if not builder.info.splits["train"].num_examples:
            raise ValueError(f"{source} has no records, give a file with at least one")
        return self._text_only(builder.as_dataset(split="train"), source)

    def _text_only(self, rows: Dataset, source: str) -> Dataset:
        """The rows with their text alone, in a column `text`; or with their messages."""
        if len(rows) and self.columns.hold_conversations(rows[0]):
            return _conversations(rows, self.columns, source)
        strings = [
            name
            for name, feature in rows.features.items()
            if getattr(feature, "dtype", None) in ("string", "large_string")
        ]
        column = choose_column(source, self.text_column, strings, rows.column_names)
        rows = rows.select_columns([column])
        return rows if column == "text" else rows.rename_column(column, "text")


def _conversations(rows: Dataset, columns: Columns, source: str) -> Dataset:
    """A data set of conversations with the column `messages` alone, as JSON."""
    return rows.map(
        _conversation_batch,
        fn_kwargs={"columns": columns, "source": source},
        batched=True,
        with_indices=True,
        remove_columns=rows.column_names,
        features=Features({MESSAGES: Value("string")}),
        desc="Reading conversations",
    )


def _conversation_batch(
    batch: Mapping[str, Sequence[Any]], numbers: Sequence[int], *, columns: Columns, source: str
) -> dict[str, list[str]]:
    records = (
        dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)
    )
    return {
        MESSAGES: [
            conversation(record, columns, f"{source} record {number + 1}")
            for number, record in zip(numbers, records, strict=True)
        ]
    }


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
    return cache.entry("folder", stamps, [os.path.abspath(name)])


def _cached(
    texts: Callable[..., Iterator[dict[str, Any]]],
    arguments: dict[str, Any],
    features: Features,
    cache_dir: str | None,
) -> Dataset:
    """`texts(**arguments)`, from the cache if it was made before, by the same version."""
    stamps = arguments["stamps"]
    key = repr((cache.TEXTS_VERSION, texts.__name__, arguments))
    try:
        return Dataset.from_generator(
            texts,
            gen_kwargs=arguments,
            features=features,
            cache_dir=cache_dir or cache.entry("text", key, [name for name, *_ in stamps]),
            fingerprint=hashlib.sha256(key.encode()).hexdigest()[:32],
        )
    except datasets.exceptions.DatasetGenerationError as error:
        raise error.__cause__ or error from None
