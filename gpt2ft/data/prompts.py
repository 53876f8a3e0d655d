"""Prompts from a file: a line each, or JSON records."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from .json_files import check_encodes, records

EXAMPLE = '{"prompt": "...", "seed": 1}'


class Prompt(NamedTuple):
    """A text to continue, and the seed of its own, if it has one."""

    text: str
    seed: int | None = None
    ids: tuple[int, ...] | None = None
    """Its token ids, where they are not just those of the text."""


def read_prompts(path: str) -> list[Prompt]:
    """The prompts of a file, blank lines left out.

    A `.jsonl` or `.json` file holds objects, with a string `prompt` and, if wanted, a number
    `seed`. Raises `OSError`, or `ValueError` if there are none or one is no prompt.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"--prompt_file {path} is not UTF-8, byte {error.start}, convert it"
        ) from error
    if path.endswith((".json", ".jsonl")):
        prompts = list(_from_records(path, lines))
    else:
        prompts = [Prompt(line) for line in lines if line.strip()]
    if not prompts:
        raise ValueError(f"--prompt_file {path} has no prompts, write one a line")
    return prompts


def _from_records(path: str, lines: list[str]) -> Iterator[Prompt]:
    for place, record in records(path, lines):
        text = record.get("prompt") if isinstance(record, dict) else None
        if not isinstance(text, str):
            raise ValueError(f"{place} has no prompt, write {EXAMPLE}")
        check_encodes(place, text)
        seed = record.get("seed")
        if seed is not None and not (type(seed) is int and 0 <= seed < 2**63):
            raise ValueError(f"{place} has seed {seed!r}, give a number >= 0 and < 2^63")
        yield Prompt(text, seed)
