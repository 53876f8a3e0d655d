"""Text files, of any size, as rows or as documents in pieces."""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Iterator, Sequence

from .plain_file import plain_file, read_text

PIECE_CHARACTERS = 16384
# A cut between two words, before the space: there tokenizers cut too. Else any white space.
BETWEEN_WORDS, BEFORE_WORD = re.compile(r"(?<=\S) (?=\S)"), re.compile(r"\s(?=\S)")


def text_pieces(
    stamps: Sequence[tuple[str, int, int]],
    lines: bool,
    start: float,
    end: float,
    encoding: str = "utf-8",
) -> Iterator[dict[str, object]]:
    """Text files as rows, a line each without its end, or as documents in pieces.

    Of each file it takes the part from fraction `start` to fraction `end`, both moved to the start
    of a line or, in a file of one line, to the end of a word.
    Pieces of some 16,000 characters are cut before a space between two words, so that their tokens,
    made as `tokenize` does, are those of the whole text. `stamps` are path, bytes, and time of
    change. Raises `ValueError` for a file that is no text, or if there is nothing but white space.
    """
    blank = []
    for path, _, _ in stamps:
        with plain_file(path, encoding) as plain:
            size = os.path.getsize(plain)
            begin, stop = (_border(plain, size, fraction) for fraction in (start, end))
            text = read_text(plain, begin, stop, name=path)
            pieces = split_lines(text) if lines else _cut(text)
            first, held, is_blank = True, next(pieces, None), True
            while held is not None:
                following = next(pieces, None)
                last = following is None
                is_blank = is_blank and not held.strip()
                yield {"text": held, "first": lines or first, "last": lines or last}
                first, held = False, following
        if is_blank:
            blank.append(_why_blank(path, begin, stop))
    if len(blank) == len(stamps):  # some may be: their documents have no tokens
        raise ValueError(blank[0])


def _why_blank(path: str, begin: int, stop: int) -> str:
    if begin == stop > 0:
        return (
            f"{path} has no line or word to hold out, name --validation_file or set "
            "--validation_split_percentage 0"
        )
    return f"{path} has only white space from byte {begin} to {stop}, give a file with text"


def _border(path: str, size: int, fraction: float) -> int:
    """Byte offset near that fraction of the file where a line starts, or at least a word ends.

    The end of the file, if there is no such place in it.
    """
    if fraction in (0.0, 1.0) or size == 0:
        return round(size * fraction)
    near = int(size * fraction)
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        offsets = (
            text.find(b"\n", near) + 1,
            text.rfind(b"\n", 0, near) + 1,
            text.find(b" ", near),
            text.rfind(b" ", 0, near),
        )
    return next((offset for offset in offsets if 0 < offset < size), size)


def split_lines(chunks: Iterator[str]) -> Iterator[str]:
    """Lines of a text that comes in chunks, without their ends."""
    rest = ""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split("\n")
        yield from whole
    if rest:
        yield rest


def _cut(chunks: Iterator[str]) -> Iterator[str]:
    rest = ""
    for chunk in chunks:
        rest += chunk
        begin = 0
        while len(rest) - begin > 2 * PIECE_CHARACTERS:
            window = (begin + PIECE_CHARACTERS, begin + 2 * PIECE_CHARACTERS)
            word = BETWEEN_WORDS.search(rest, *window) or BEFORE_WORD.search(rest, *window)
            cut = word.start() if word else window[1]  # text without spaces is cut all the same
            yield rest[begin:cut]
            begin = cut
        rest = rest[begin:]
    if rest:
        yield rest
