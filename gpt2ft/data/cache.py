"""What of a corpus is kept on disk to be found again: read texts, and their tokens.

All of it lies in entries, folders of `gpt2ft` in the cache of `datasets`. An entry is named by what
it was made from: paths, sizes and times of change of files, the tokenizer, and a version of its
form. Nothing else is ever deleted here.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets

TEXTS_VERSION = 1
"""Of how texts are read and cut: raise it when other documents come of the same files."""
TOKENS_VERSION = 1
"""Of how documents are tokenized and stored: raise it when the same documents give other rows."""

NAME = re.compile(r"(text|table|folder|tokens|stream)-[0-9a-f]{16}")
IN_USE = "in-use"  # locked while a process uses the entry; its time of change is the last use
MADE_FROM = "made-from.json"
TRASH = ".trash-"
MOST_HELD = 32  # more entries than a run opens

_held: deque[int] = deque()  # descriptors of the files that this process has locked


@dataclass(frozen=True)
class Entry:
    """A folder of the cache."""

    path: Path
    n_bytes: int
    last_used: float
    """Seconds since 1970."""
    made_from: str
    """Files or data set, in words."""

    @property
    def kind(self) -> str:
        """`text`, `table` or `folder`: what was read, and its tokens; `tokens`; `stream`."""
        return self.path.name.partition("-")[0]


def root() -> Path:
    """The folder of the entries."""
    return Path(datasets.config.HF_DATASETS_CACHE).expanduser() / "gpt2ft"


def holds(path: str) -> bool:
    """Whether a file lies in an entry."""
    return root() in Path(path).parents


def entry(kind: str, key: Any, made_from: Sequence[str]) -> str:
    """The folder for what is found by that key, made if it is not there.

    While this process lives, or until it has opened 32 others, the entry is not cleared. `key` is
    anything whose `repr` says what the entry is made from; `made_from` is for people.
    """
    folder = root() / f"{kind}-{hashlib.sha256(repr(key).encode()).hexdigest()[:16]}"
    root().mkdir(parents=True, exist_ok=True)
    while True:
        with contextlib.suppress(
            FileExistsError
        ):  # not exist_ok: that looks whether it is still so
            folder.mkdir()
        with contextlib.suppress(FileNotFoundError):  # it was cleared meanwhile: once more
            _held.append(os.open(folder / IN_USE, os.O_RDWR | os.O_CREAT, 0o666))
            fcntl.flock(_held[-1], fcntl.LOCK_SH)
            if _is_at(_held[-1], folder / IN_USE):
                break
    _let_go(MOST_HELD)
    os.utime(folder / IN_USE)
    if not (folder / MADE_FROM).exists():
        (folder / MADE_FROM).write_text(json.dumps(list(made_from)), encoding="utf-8")
    return str(folder)


def _let_go(but: int) -> None:
    """Unlock what this process has opened, but for the last ones."""
    while len(_held) > but:
        os.close(_held.popleft())


def entries() -> list[Entry]:
    """All that is in the cache, the largest first."""
    found = []
    for folder in root().iterdir() if root().is_dir() else ():
        with contextlib.suppress(FileNotFoundError):  # it was cleared meanwhile, or is not ours
            if NAME.fullmatch(folder.name) and not folder.is_symlink():
                last_used = (folder / IN_USE).stat().st_mtime
                found.append(Entry(folder, _n_bytes(folder), last_used, _made_from(folder)))
    return sorted(found, key=lambda each: -each.n_bytes)


def clear(*, older_than: float = 0.0) -> tuple[list[Entry], list[Entry]]:
    """Delete the entries that no process uses, last used at least `older_than` seconds ago.

    Returns those deleted and those in use. A process that comes for an entry meanwhile waits for a
    moment, and makes it anew.
    """
    deleted, in_use = [], []
    for leftover in root().glob(f"{TRASH}*"):  # of a process that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    for each in entries():
        if time.time() - each.last_used < older_than:
            continue
        with contextlib.suppress(FileNotFoundError), open(each.path / IN_USE, "rb") as file:
            try:
                fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                in_use.append(each)
                continue
            is_same = _is_at(file.fileno(), each.path / IN_USE)
            if is_same and os.fstat(file.fileno()).st_mtime == each.last_used:
                trash = tempfile.mkdtemp(prefix=TRASH, dir=root())
                each.path.rename(Path(trash) / each.path.name)
                shutil.rmtree(trash, ignore_errors=True)
                deleted.append(each)
    return deleted, in_use


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file is the one that is there now. Raises `FileNotFoundError`."""
    return os.path.samestat(os.fstat(descriptor), path.stat())


def _n_bytes(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # it was deleted meanwhile
            total += path.lstat().st_size if not path.is_dir() else 0
    return total


def _made_from(folder: Path) -> str:
    try:
        names = json.loads((folder / MADE_FROM).read_text(encoding="utf-8"))
        first = ", ".join(map(str, names[:2]))
        return first + (f" and {len(names) - 2} more" if len(names) > 2 else "")
    except (OSError, ValueError, TypeError):  # from a process that was killed
        return "unknown"
