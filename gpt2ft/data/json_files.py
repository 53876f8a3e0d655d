"""Files of JSON records, one a line or all in one array."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from .chats import MESSAGES, Columns, conversation
from .plain_file import plain_file, read_text
from .text_column import choose_column
from .text_files import split_lines

EXAMPLE = '{"text": "..."}'


def json_texts(
    stamps: Sequence[tuple[str, int, int]], columns: Columns, encoding: str = "utf-8"
) -> Iterator[dict[str, str | None]]:
    """The text of each record, null counts as empty; or its conversation, in `messages`.

    `stamps` are path, bytes, and time of change. The first record decides which of the two, and
    about the column, see `choose_column`. Raises `ValueError` with the line of what is no JSON, or
    of a record without text in that column.
    """
    are_chats: bool | None = None
    text_column = columns.text
    for path, _, _ in stamps:
        place = None
        for place, record in _all_records(path, encoding):
            if not isinstance(record, dict):
                raise ValueError(f"{place} is {json.dumps(record)[:40]}, write {EXAMPLE}")
            if are_chats is None:
                are_chats = columns.hold_conversations(record)
            if are_chats:
                said = conversation(record, columns, place)
                check_encodes(place, said)
                yield {"text": None, MESSAGES: said}
                continue
            strings = [key for key, value in record.items() if isinstance(value, str | None)]
            text_column = choose_column(place, text_column, strings, record)
            text = record[text_column] or ""
            check_encodes(place, text)
            yield {"text": text, MESSAGES: None}
        if place is None:
            raise ValueError(f"{path} has no records, write lines such as {EXAMPLE}")


def _all_records(path: str, encoding: str) -> Iterator[tuple[str, Any]]:
    """The records of a file, which may be packed, and their places."""
    with plain_file(path, encoding) as plain:
        text = read_text(plain, 0, os.path.getsize(plain), name=path)
        yield from records(path, split_lines(text))


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
