"""Which files a corpus is made of: paths, globs and folders, as they are named."""

from __future__ import annotations

import glob
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
PACKED = (".gz", ".xz", ".bz2", ".zst")
WEIGHT = re.compile(r"(.+):(\d+(?:\.\d*)?|\.\d+)")
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
                inside, others = _in_folder(name)
                files += inside
                notes += [f"{others} in {name}"] if others else []
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


def _in_folder(folder: str) -> tuple[list[str], str]:
    """The files of a folder that can be read as text, and how many others there are."""
    inside, others = [], Counter[str]()
    for path in sorted(Path(folder).rglob("*")):
        if any(part.startswith(".") for part in path.relative_to(folder).parts) or path.is_dir():
            continue
        ending = path.with_suffix("").suffix if is_packed(path.name) else path.suffix
        if ending.lower() in (*TEXT, *KINDS):
            inside.append(str(path))
        else:
            others[path.suffix or path.name] += 1
    if not inside:
        raise ValueError(
            f"{os.path.abspath(folder)} has no file that ends in {' '.join((*TEXT, *KINDS))}: "
            f"name the files, such as '{folder.rstrip('/')}/*'"
        )
    endings = ", ".join(f"{n} {ending}" for ending, n in others.most_common(SHOWN))
    n = others.total()
    return inside, f"{_counted(n, 'file')} of other kinds left out ({endings})" if n else ""


def weighted(patterns: Sequence[str]) -> list[tuple[str, float]]:
    """`a.txt:0.7 b.jsonl:0.3` as `[("a.txt", 0.7), ("b.jsonl", 0.3)]`; empty if none has a weight.

    Raises `ValueError` if only some have one, or one is 0.
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
        if float(matches[pattern][2]) == 0:
            raise ValueError(f"--train_file {pattern} has weight 0, leave it out")
    return [(match[1], float(match[2])) for match in matches.values()]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def _counted(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"
