"""`gpt2ft cache`: what read and tokenized text takes on disk, and freeing it."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..system.terminal import print_line
from .flags import Commands, add_flags
from .run_settings import UsageError

if TYPE_CHECKING:
    from ..data.cache import Entry

SECONDS = {"h": 3600, "d": 86400, "w": 7 * 86400}


@dataclass(frozen=True)
class CacheConfig:
    """Show what read and tokenized text takes on disk, or free it.

    Data sets that others keep in the cache of the library datasets are neither shown nor deleted.
    """

    clear: bool = False
    """Delete it. What a run uses now is kept; the rest is read and tokenized again when needed."""
    older_than: str | None = None
    """With clear: only what was last used so long ago, such as 12h, 30d or 8w."""
    debug: bool = False
    """Show the traceback of an error."""


def add_to(commands: Commands) -> None:
    """Add the command and its flags."""
    text = "show what read and tokenized text takes on disk, or free it"
    parser = commands.add_parser("cache", help=text, description=CacheConfig.__doc__)
    parser.set_defaults(command=command, configuration=CacheConfig)
    add_flags(parser, CacheConfig)


def command(given: dict[str, Any]) -> int:
    """Show or clear; returns the exit status."""
    config = CacheConfig(**given)
    if config.older_than is not None and not config.clear:
        raise UsageError("--older_than is for --clear, give both or none")
    age = _seconds(config.older_than) if config.older_than is not None else 0.0
    from ..data import cache

    if not config.clear:
        print_line(_table(cache.entries(), time.time()))
        print_line(f"in {cache.root()}")
        return 0
    deleted, in_use = cache.clear(older_than=age)
    print_line(f"freed {_amount(deleted)}")
    if in_use:
        print_line(f"kept {_amount(in_use)}: a run uses it now")
    return 0


def _seconds(age: str) -> float:
    """Of `12h`, `30d` or `8w`."""
    found = re.fullmatch(r"(\d{1,6})([hdw])", age)
    if not found:
        raise UsageError(f"--older_than is {age}, give hours, days or weeks, such as 12h, 30d, 8w")
    return float(int(found[1]) * SECONDS[found[2]])


def _table(entries: list[Entry], now: float) -> str:
    lines = [f"{'size':>12}  {'last used':<12}  {'kind':<6}  made from"] if entries else []
    for each in entries:
        lines.append(
            f"{_size(each.n_bytes):>12}  {_ago(now - each.last_used):<12}  {each.kind:<6}  "
            f"{each.made_from}"
        )
    return "\n".join([*lines, f"{_size(sum(e.n_bytes for e in entries)):>12}  in all"])


def _amount(entries: list[Entry]) -> str:
    n = len(entries)
    return f"{_size(sum(e.n_bytes for e in entries))} in {n} {'entry' if n == 1 else 'entries'}"


def _size(n: int) -> str:
    return f"{n / 2**20:,.1f} MiB"


def _ago(seconds: float) -> str:
    """In the largest unit that fits."""
    for letter, name in (("d", "day"), ("h", "hour")):
        if (n := int(seconds // SECONDS[letter])) > 0:
            return f"{n} {name}{'s' * (n > 1)} ago"
    return "just now"
