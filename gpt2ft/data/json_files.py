"""Files of JSON records, one a line or all in one array."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from .text_column import choose_column
from .text_files import read_text, split_lines

EXAMPLE = '{"text": "..."}'


def json_texts(
    stamps: Sequence[tuple[str, int, int]], text_column: str | None
) -> Iterator[dict[str, str]]:
    """The text of each record; null counts as empty. `stamps` are path, bytes, and time of change.

    The first record decides about the column, see `choose_column`. Raises `ValueError` with the
    line of what is no JSON, or of a record without text in that column.
    """
    for path, size, _ in stamps:
        place = None
        for place, record in records(path, split_lines(read_text(path, 0, size))):
            if not isinstance(record, dict):
                raise ValueError(f"{place} is {json.dumps(record)[:40]}, write {EXAMPLE}")
            strings = [key for key, value in record.items() if isinstance(value, str | None)]
            text_column = choose_column(place, text_column, strings, record)
            text = record[text_column] or ""
            check_encodes(place, text)
            yield {"text": text}
        if place is None:
            raise ValueError(f"{path} has no records, write lines such as {EXAMPLE}")


def check_encodes(place: str, text: str) -> None:
    """Raise `ValueError` for half of a surrogate pair, which JSON can write and UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = ascii(text[error.start])[1:-1]
        raise ValueError(f"{place} has half a character, {half}, correct it") from error


def records(path: str, lines: Iterable[str]) -> Iterator[tuple[str, Any]]:
    """Each record of a file with these lines, and the place it has; `ValueError` for no JSON."""
    numbered = iter(enumerate(lines, 1))
    for number, line in numbered:
        if line.lstrip().startswith("["):
            whole = "\n".join([line, *(rest for _, rest in numbered)])
            for index, record in enumerate(_parsed(path, number, whole), 1):
                yield f"{path} record {index}", record
        elif line.strip():
            yield f"{path} line {number}", _parsed(path, number, line)


def _parsed(path: str, number: int, text: str) -> Any:
    """The value that begins in that line."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        number, what = number + error.lineno - 1, f"{error.msg} (column {error.colno})"
        raise ValueError(f"{path} line {number} is no JSON, {what}, correct it") from error
    except (ValueError, RecursionError) as error:  # a number too long, brackets too deep
        raise ValueError(f"{path} line {number} cannot be read, {error}, correct it") from error
