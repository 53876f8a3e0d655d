"""How much memory there is: that of the machine, and what a container may use of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")
# Of control groups of version 2 and 1: where they are mounted, then the files that say how much a
# group may use, how much it uses, and what of that the system can give up.
GROUPS = {
    "": ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    "memory": (
        "sys/fs/cgroup/memory",
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        "total_inactive_file",
    ),
}


def available_bytes() -> int | None:
    """Bytes that this process may still take, as far as the system says: None if it says nothing.

    Linux says what the machine has left (`MemAvailable` in /proc/meminfo) and what is left of the
    limits of the control groups that the process is in: a container, a job of a cluster, a unit of
    systemd.
    """
    return min([*_of_machine(), *_of_groups()], default=None)


def _of_machine() -> Iterator[int]:
    for line in _lines("proc/meminfo"):
        if line.startswith("MemAvailable:"):
            yield int(line.split()[1]) << 10


def _of_groups() -> Iterator[int]:
    for line in _lines("proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        for controller in {"", "memory"} & {*controllers.split(",")}:
            mount, *names = GROUPS[controller]
            place = Path(path.strip("/"))
            # The limit of each group above counts too. In a container the path may be that of the
            # machine, and its own group is at the top.
            for group in (place, *place.parents):
                yield from _of_group(f"{mount}/{group}", *names)


def _of_group(group: str, limit: str, usage: str, reclaimable: str) -> Iterator[int]:
    """What is left of one group's limit; nothing if it has none."""
    with contextlib.suppress(ValueError):  # a limit may be "max"
        for most, used in zip(_lines(f"{group}/{limit}"), _lines(f"{group}/{usage}"), strict=False):
            stat = dict(line.split() for line in _lines(f"{group}/memory.stat"))
            yield max(0, int(most) - int(used) + int(stat.get(reclaimable, 0)))


def _lines(name: str) -> list[str]:
    """Those of a file, none where there is no such file."""
    try:
        return (ROOT / name).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
