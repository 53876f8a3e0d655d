"""A corpus that is larger than the disk: its shards are fetched, tokenized and deleted in turn.

The order of the samples is a function of the seed, as it is for a corpus that lies on the disk.
The shards are gone through in the order of a `KeyedOrder`, a few at a time; the samples of these
few, a window, are shuffled together by another one. So a sample is found by its position alone:
no shuffle buffer has to be saved, a run is resumed exactly, and on any number of processes.
"""

from __future__ import annotations

import bisect
import contextlib
import hashlib
import itertools
import json
import os
import shutil
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
from datasets import Dataset

from ..system import durable
from .order import KeyedOrder
from .shards import Shard


@dataclass(frozen=True)
class Window:
    """Shards that are open together."""

    parts: Sequence[Any]
    """The samples of each shard."""
    stops: Sequence[int]
    """How many samples there are up to the end of each."""
    order: KeyedOrder

    def __getitem__(self, position: int) -> Mapping[str, Any]:
        number = self.order[position]
        part = bisect.bisect_right(self.stops, number)
        return self.parts[part][number - (self.stops[part - 1] if part else 0)]  # type: ignore[no-any-return]


class Stream:
    """Samples of a corpus of shards, without end: after the last shard it begins anew.

    `stream[position]` is the sample at a position of the whole training, whichever process asks,
    and whatever it has asked for before. `cut` makes samples of documents, and a digest of their
    tokens. The text and tokens of at most three windows of `at_once` shards are in `folder`: of the
    one that is read, the one before it, and the next one, which a thread prepares. `known` says how
    many samples shards have, as an earlier process found: then those before a position need not be
    read to find it. What is found is written to the file `notes`. Reading raises `ValueError` if a
    shard has changed since it was read first, or cannot be read.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        cut: Callable[[Dataset], tuple[Any, str]],
        *,
        seed: int,
        at_once: int,
        folder: Path,
        known: Mapping[str, Any] | None = None,
        notes: Path | None = None,
    ) -> None:
        self.shards, self._cut = shards, cut
        self._seed, self._at_once, self._folder = seed, at_once, folder
        self._known, self._notes = dict(known or {}), notes
        self._starts = [0]  # position of the first sample of each window, as far as it is known
        self._open: dict[int, Window] = {}
        self._making = threading.Lock()

    def __len__(self) -> int:
        return sys.maxsize // 2

    def __getitem__(self, position: int) -> Mapping[str, Any]:
        while position >= self._starts[-1]:
            shards = self.shards_of(len(self._starts) - 1)
            self._starts.append(self._starts[-1] + sum(map(self._n_samples, shards)))
        number = bisect.bisect_right(self._starts, position) - 1
        if number not in self._open:
            self._turn_to(number)
        return self._open[number][position - self._starts[number]]

    @property
    def lengths(self) -> Any:
        raise TypeError("a stream has no lengths, it has no end")

    def shards_of(self, window: int) -> list[int]:
        """Numbers of the shards of a window; windows are counted over all passes."""
        n = len(self.shards)
        number_of_pass, index = divmod(window, -(-n // self._at_once))
        order = KeyedOrder(n, seed=self._seed, epoch=-1 - number_of_pass)  # not those of windows
        return [order[i] for i in range(n)[index * self._at_once :][: self._at_once]]

    def _n_samples(self, shard: int) -> int:
        if self._note_name(shard) not in self._known:
            self._samples(shard)
        return int(self._known[self._note_name(shard)]["samples"])

    def _turn_to(self, number: int) -> None:
        """Open a window, forget those that are not beside it, and prepare the next one."""
        parts = [self._samples(shard) for shard in self.shards_of(number)]
        stops = list(itertools.accumulate(map(len, parts)))
        order = KeyedOrder(stops[-1], seed=self._seed, epoch=number)
        beside = range(max(0, number - 1), number + 2)
        self._open = {n: window for n, window in self._open.items() if n in beside}
        self._open[number] = Window(parts, stops, order)
        self._delete_all_but({shard for window in beside for shard in self.shards_of(window)})
        threading.Thread(target=self._prepare, args=[number + 1], daemon=True).start()

    def _prepare(self, number: int) -> None:
        with contextlib.suppress(Exception):  # raised when its turn comes
            for shard in self.shards_of(number):
                self._samples(shard)

    def _samples(self, number: int) -> Any:
        """The samples of a shard, from the cache or made: by one process of a machine."""
        shard, folder = self.shards[number], self._folder / self._folder_name(number)
        with self._making:
            folder.mkdir(parents=True, exist_ok=True)
            with filelock.FileLock(f"{folder}.lock"):
                samples, digest = self._cut(shard.load(folder))
            note = {"samples": len(samples), "digest": digest}
            is_new = self._note_name(number) not in self._known
            if self._known.setdefault(self._note_name(number), note) != note:
                raise ValueError(
                    f"{shard.name} has changed since this run read it first: put the old file "
                    "back, or start anew in another --output_dir"
                )
            if self._notes and self._notes.parent.is_dir() and (is_new or not self._notes.exists()):
                durable.replace(self._notes, json.dumps(self._known).encode())
        return samples

    def _note_name(self, number: int) -> str:
        return f"{number} {os.path.basename(self.shards[number].name)}"  # wherever the files lie

    def _folder_name(self, number: int) -> str:
        name = hashlib.sha256(self.shards[number].name.encode()).hexdigest()[:16]
        return f"{number:06d}-{name}"

    def _delete_all_but(self, shards: set[int]) -> None:
        """Delete text and tokens of other shards, unless another process is making them."""
        names = {self._folder_name(shard) for shard in shards}
        for path in self._folder.iterdir():
            if path.is_dir() and path.name not in names:
                with (
                    contextlib.suppress(filelock.Timeout),
                    filelock.FileLock(f"{path}.lock", blocking=False),
                ):
                    shutil.rmtree(path, ignore_errors=True)


def read_notes(path: Path) -> dict[str, Any]:
    """What a stream has noted of its shards; nothing where there is no such file."""
    try:
        notes: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return notes
