"""Which files a corpus is made of: paths, globs and folders, as they are named."""

from __future__ import annotations

import glob
import math
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

KINDS = {
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".csv": "csv",
    ".parquet": "parquet",
}
TEXT = (".txt", ".text", ".md", ".markdown", ".rst", ".org", ".tex")  # in a folder; alone, any is
OF_A_MODEL = ("run.json", "model.safetensors", "adapter_model.safetensors")
PACKED = (".gz", ".xz", ".bz2", ".zst")
WEIGHT = re.compile(r"(.+):([-+.\d][-+.\de]*)")
SHOWN = 3  # names in a note


@dataclass(frozen=True)
class FileList:
    """Files in order, and what is to be said of those that were left out."""

    names: list[str]
    notes: list[str]


def kind_of(name: str) -> str:
    """`text`, `json`, `csv` or `parquet`: by the ending, whether the file is packed or not."""
    *before, ending = [part.lower() for part in Path(name).suffixes] or [""]
    if ending in PACKED:
        ending = before[-1] if before else ""
    return KINDS.get(ending, "text")


def is_packed(name: str) -> bool:
    """Whether the file is compressed, by its ending."""
    return Path(name).suffix.lower() in PACKED


def list_files(patterns: str | Sequence[str]) -> FileList:
    """The files that paths, globs and folders name; a path that exists is never a glob.

    A folder stands for the files in it and in the folders in it that have an ending of a text or of
    records; hidden ones are left out. Empty files among others are left out too. Raises `OSError`,
    or `ValueError` if there is nothing else.
    """
    files: list[str] = []
    notes: list[str] = []
    names: list[str] = []
    empty: list[str] = []
    for pattern in [patterns] if isinstance(patterns, (str, Path)) else patterns:
        found = [pattern] if os.path.exists(pattern) else sorted(glob.glob(pattern, recursive=True))
        if not found:
            raise FileNotFoundError(f"no file {os.path.abspath(pattern)}, check the path")
        for name in found:
            if os.path.isdir(name):
                inside, left_out = _in_folder(name)
                files += inside
                notes += left_out
            else:
                files.append(name)
    for name in files:
        path = os.path.abspath(name)
        try:
            size = os.path.getsize(name)  # 0 also for a pipe: opening it might wait for ever
            if size:
                open(name, "rb").close()
        except OSError as error:
            raise type(error)(f"{path} cannot be read, {error.strerror}, give another") from error
        (names if size else empty).append(name)
    wrong = [name for name in empty if not os.path.isfile(name)] or ([] if names else empty)
    if wrong:
        raise ValueError(f"{os.path.abspath(wrong[0])} is empty, give a file with text")
    if empty:
        notes.append(f"{_counted(len(empty), 'empty file')} left out: {_some(empty)}")
    return FileList(names, notes)


def _in_folder(folder: str) -> tuple[list[str], list[str]]:
    """The files of a folder that can be read as text, and what is to be said of the others."""
    inside, others, paths = [], Counter[str](), sorted(Path(folder).rglob("*"))
    runs = {path.parent for path in paths if path.name in OF_A_MODEL} - {Path(folder)}
    for path in paths:
        is_hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if is_hidden or path.is_dir() or not runs.isdisjoint(path.parents):
            continue
        ending = path.with_suffix("").suffix if is_packed(path.name) else path.suffix
        if not path.exists():
            others["broken link"] += 1
        elif ending.lower() in (*TEXT, *KINDS):
            inside.append(str(path))
        else:
            others[path.suffix or path.name] += 1
    if not inside:
        raise ValueError(
            f"{os.path.abspath(folder)} has no file that ends in {' '.join((*TEXT, *KINDS))}: "
            f"name the files, such as '{folder.rstrip('/')}/*'"
        )
    endings = ", ".join(f"{n} {ending}" for ending, n in others.most_common(SHOWN))
    n, notes = others.total(), []
    if n:
        notes.append(f"{_counted(n, 'file')} of other kinds left out ({endings}) in {folder}")
    if runs:
        notes.append(f"folders of models and runs left out: {_some(sorted(map(str, runs)))}")
    return inside, notes


def weighted(patterns: Sequence[str]) -> list[tuple[str, float]]:
    """`a.txt:0.7 b.jsonl:0.3` as `[("a.txt", 0.7), ("b.jsonl", 0.3)]`; empty if none has a weight.

    Raises `ValueError` if only some have one, if one is no number above 0, or if a corpus is named
    twice.
    """
    found = {pattern: WEIGHT.fullmatch(pattern) for pattern in patterns}
    matches = {p: m for p, m in found.items() if m and not os.path.exists(p)}
    if not matches:
        return []
    for pattern in patterns:
        if pattern not in matches:
            raise ValueError(
                f"--train_file {pattern} has no weight but others have, give each one: {pattern}:1"
            )
    for pattern, match in matches.items():
        try:
            is_weight = 0 < float(match[2]) < math.inf
        except ValueError:
            is_weight = False
        if not is_weight:
            raise ValueError(f"--train_file {pattern} has the weight {match[2]}, give one above 0")
    names = [match[1] for match in matches.values()]
    if len({*names}) < len(patterns):
        raise ValueError("--train_file names a corpus twice, give it one weight")
    return [(match[1], float(match[2])) for match in matches.values()]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def _counted(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"
