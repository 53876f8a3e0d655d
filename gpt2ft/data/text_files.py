"""Text files, of any size, as rows or as documents in pieces."""

from __future__ import annotations

import codecs
import io
import mmap
import re
from collections.abc import Iterator, Sequence

PIECE_CHARACTERS = 16384
READ_BYTES = 1 << 20
# A cut between two words, before the space: there tokenizers cut too. Else any white space.
BETWEEN_WORDS, BEFORE_WORD = re.compile(r"(?<=\S) (?=\S)"), re.compile(r"\s(?=\S)")


def text_pieces(
    stamps: Sequence[tuple[str, int, int]], lines: bool, start: float, end: float
) -> Iterator[dict[str, object]]:
    """Text files as rows, a line each without its end, or as documents in pieces.

    Of each file it takes the part from fraction `start` to fraction `end`, both moved to the start
    of a line or, in a file of one line, to the end of a word.
    Pieces of some 16,000 characters are cut before a space between two words, so that their tokens,
    made as `tokenize` does, are those of the whole text. `stamps` are path, bytes, and time of
    change. Raises `ValueError` for a file that is no text, or nothing but white space.
    """
    for path, size, _ in stamps:
        begin, stop = _border(path, size, start), _border(path, size, end)
        text = read_text(path, begin, stop)
        pieces = split_lines(text) if lines else _cut(text)
        first, held, blank = True, next(pieces, None), True
        while held is not None:
            following = next(pieces, None)
            last = following is None
            blank = blank and not held.strip()
            yield {"text": held, "first": lines or first, "last": lines or last}
            first, held = False, following
        if blank:
            raise ValueError(
                f"{path} has only white space from byte {begin} to {stop}, give a file with text"
            )


def _border(path: str, size: int, fraction: float) -> int:
    """Byte offset near that fraction of the file where a line starts, or at least a word ends."""
    if fraction in (0.0, 1.0):
        return round(size * fraction)
    near = int(size * fraction)
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        offsets = (
            text.find(b"\n", near) + 1,
            text.rfind(b"\n", 0, near) + 1,
            text.find(b" ", near),
            text.rfind(b" ", 0, near),
        )
    for offset in offsets:
        if 0 < offset < size:
            return offset
    raise ValueError(
        f"{path} has no line or word to hold out, name --validation_file or set "
        "--validation_split_percentage 0"
    )


def read_text(path: str, start: int, stop: int) -> Iterator[str]:
    """Bytes `start` to `stop` as UTF-8, a megabyte at a time, with every line end made `\\n`.

    Raises `ValueError` with the first byte that is not of a text.
    """
    utf8 = codecs.getincrementaldecoder("utf-8-sig" if start == 0 else "utf-8")()
    decoder = io.IncrementalNewlineDecoder(utf8, translate=True)
    with open(path, "rb") as file:
        file.seek(start)
        while start < stop:
            pending = len(utf8.getstate()[0])
            data = file.read(min(READ_BYTES, stop - start))
            if b"\0" in data:  # which is valid UTF-8
                offset = start + data.index(b"\0")
                raise ValueError(
                    f"{path} is binary or UTF-16, byte {offset} is 0x00, give a file of UTF-8 text"
                )
            try:
                yield decoder.decode(data, final=start + len(data) >= stop)
            except UnicodeDecodeError as error:
                offset = start - pending + error.start
                raise ValueError(
                    f"{path} is not UTF-8, byte {offset} is {error.object[error.start]:#04x}, "
                    "convert it first"
                ) from error
            if not data:
                return
            start += len(data)


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
