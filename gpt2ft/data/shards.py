"""The files of a corpus, one by one, for a corpus that is larger than the disk."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import fsspec
from datasets import Dataset

from .built_in import BUILT_IN_TEXT
from .corpus import joined
from .file_list import list_files
from .reader import Reader, builder_of


@dataclass(frozen=True)
class Shard:
    """A file of a corpus."""

    name: str
    """Path or URL."""
    load: Callable[[Path], Dataset]
    """Documents with a column `text`. What is downloaded and read is kept in the folder given."""


def list_shards(
    reader: Reader,
    *,
    dataset_name: str | None = None,
    dataset_config_name: str | None = None,
    dataset_split: str = "train",
    train_file: str | Sequence[str] = (),
    validation_file: str | Sequence[str] = (),
    validation_split_percentage: float = 5.0,
) -> tuple[list[Shard], list[Shard]]:
    """The files to train on, and those held out; none of them is read here, but by `reader`.

    Held out are `validation_file`, else the data set's own validation split, else a percentage of
    the files, the last ones. A data set is one whose files are listed: on the hub, or a folder of
    that form. Raises `FileNotFoundError`, `ValueError`, or `HubUnavailableError`.
    """
    held_out: Sequence[str] = list_files(validation_file).names if validation_file else []
    if dataset_name is not None:
        if dataset_name == BUILT_IN_TEXT:
            raise ValueError(f"{BUILT_IN_TEXT} has no files, leave out --streaming")
        builder = builder_of(dataset_name, dataset_config_name, download=False)
        splits = {
            str(name): list(files) for name, files in (builder.config.data_files or {}).items()
        }
        if dataset_split not in splits:
            raise ValueError(
                f"data set {dataset_name} has no files of the split {dataset_split}, with "
                f"--streaming name one of {', '.join(splits) or 'another data set'}"
            )
        files, held_out = splits[dataset_split], held_out or splits.get("validation", [])
        reader = dataclasses.replace(reader, lines=reader.lines or builder.name == "text")
    else:
        files = list_files(train_file).names
    if not held_out and validation_split_percentage:
        n = max(1, round(len(files) * validation_split_percentage / 100))
        if n >= len(files):
            raise ValueError(
                f"{validation_split_percentage:g} percent of {len(files)} files cannot be held out "
                "with --streaming, cut the text into more files, name --validation_file or set "
                "--validation_split_percentage 0"
            )
        files, held_out = files[:-n], files[-n:]

    def shard(name: str) -> Shard:
        return Shard(name, lambda folder: _documents(name, folder, reader))

    return [shard(name) for name in files], [shard(name) for name in held_out]


def _documents(name: str, folder: Path, reader: Reader) -> Dataset:
    """The documents of one file, which is downloaded first if it is a URL."""
    if "://" in name:
        file_system, path = fsspec.url_to_fs(name)
        local = folder / "download" / os.path.basename(path)
        if not local.exists():
            local.parent.mkdir(parents=True, exist_ok=True)
            part = local.with_name(f"{local.name}.part")
            file_system.get_file(path, str(part))
            part.rename(local)
        name = str(local)
    return dataclasses.replace(reader, cache_dir=str(folder)).files([name])


def all_documents(shards: Sequence[Shard], folder: Path) -> Dataset | None:
    """The documents of all these files together; None if there are none."""
    parts = [shard.load(folder / str(number)) for number, shard in enumerate(shards)]
    return joined(parts) if parts else None
