"""A file as plain UTF-8 text: unpacked if it is compressed, converted from other encodings."""

from __future__ import annotations

import bz2
import codecs
import contextlib
import gzip
import io
import lzma
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import charset_normalizer

from .file_list import is_packed

READ_BYTES = 1 << 20
LOOKED_AT = 1 << 15  # bytes before and after one that does not fit, by which an encoding is guessed
COMMON = {
    *("cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "cp874", "koi8_r", "koi8_u"),
    *("cp932", "shift_jis", "euc_jp", "iso2022_jp", "gb18030", "gbk", "gb2312", "big5", "cp949"),
    *("euc_kr", "utf_16", "utf_16_le", "utf_16_be", "utf_32", "utf_32_le", "utf_32_be"),
}
FEW = 16  # bytes that are not ASCII
USUAL = "cp1252"  # of encodings that fit equally well


@contextlib.contextmanager
def plain_file(path: str, encoding: str = "utf-8") -> Iterator[str]:
    """The path of a file of UTF-8 that has the text of this one: itself, or a temporary copy.

    Raises `ValueError` if it cannot be unpacked, or has another encoding.
    """
    converts = codecs.lookup(encoding).name != "utf-8"
    if not is_packed(path) and not converts:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="gpt2ft-plain-") as folder:
        plain = Path(folder, "plain")
        if is_packed(path):
            unpack(path, str(plain))
        if converts:
            source, plain = (plain if is_packed(path) else Path(path)), Path(folder, "utf-8")
            text = read_text(str(source), 0, os.path.getsize(source), encoding, name=path)
            with plain.open("w", encoding="utf-8", newline="") as file:
                file.writelines(text)
        yield str(plain)


def unpack(path: str, target: str) -> None:
    """Write what a compressed file holds into another. Raises `ValueError` if it is damaged."""
    openers: dict[str, Any] = {
        ".gz": gzip.open,
        ".xz": lzma.open,
        ".bz2": bz2.open,
        ".zst": _open_zst,
    }
    ending = Path(path).suffix.lower()
    try:
        with openers[ending](path) as packed, open(target, "wb") as file:
            shutil.copyfileobj(packed, file, READ_BYTES)
    except ModuleNotFoundError:
        raise
    except Exception as error:  # each library has its own
        if getattr(error, "errno", None):  # the disk's, not that of the content
            raise
        raise ValueError(
            f"{path} cannot be unpacked, {error}: it is damaged or no {ending} file"
        ) from error


def _open_zst(path: str) -> Any:
    if sys.version_info >= (3, 14):
        from compression import zstd

        return zstd.open(path)
    try:
        from backports import zstd
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"backports.zstd is not installed, which unpacks {path}: pip install 'gpt2ft[zst]'"
        ) from error
    return zstd.open(path)


def read_text(
    path: str, start: int, stop: int, encoding: str = "utf-8", *, name: str | None = None
) -> Iterator[str]:
    """Bytes `start` to `stop` as text, a megabyte at a time, with every line end made `\\n`.

    `name` is what a message calls the file. Raises `ValueError` with the first byte that is not of
    a text.
    """
    name, is_utf8 = name or path, codecs.lookup(encoding).name == "utf-8"
    codec = "utf-8-sig" if is_utf8 and start == 0 else encoding
    bytes_to_text = codecs.getincrementaldecoder(codec)()
    line_ends = io.IncrementalNewlineDecoder(None, translate=True)
    with open(path, "rb") as file:
        file.seek(start)
        while start < stop:
            pending = len(bytes_to_text.getstate()[0])
            data = file.read(min(READ_BYTES, stop - start))
            if is_utf8 and b"\0" in data:  # which is valid UTF-8
                offset = start + data.index(b"\0")
                raise ValueError(
                    f"{name} is binary or UTF-16, byte {offset} is 0x00, give a file of text, or "
                    "its --encoding"
                )
            last = start + len(data) >= stop
            try:
                text = bytes_to_text.decode(data, final=last)
            except UnicodeDecodeError as error:
                offset, byte = start - pending + error.start, error.object[error.start]
                advice = _advice(path, offset) if is_utf8 else "give its true --encoding"
                raise ValueError(
                    f"{name} is not {encoding.upper()}, byte {offset} is {byte:#04x}, {advice}"
                ) from error
            except UnicodeError as error:  # UTF-16 without a byte order mark
                raise ValueError(
                    f"{name} is not {encoding.upper()}, {error}, try utf-16-le"
                ) from error
            yield line_ends.decode(text, final=last)
            if not data:
                return
            start += len(data)


def _advice(path: str, offset: int) -> str:
    """What to do about a file that is not UTF-8 at that byte."""
    with open(path, "rb") as file:
        file.seek(max(0, offset - LOOKED_AT))
        data = file.read(2 * LOOKED_AT)
    matches = list(charset_normalizer.from_bytes(data))
    if not matches:
        return "convert it first, or leave it out if it is no text"
    best = matches[0]
    equal = [m for m in matches if (m.chaos, m.coherence) == (best.chaos, best.coherence)]
    likely = any(USUAL in m.could_be_from_charset for m in equal)
    if best.encoding not in COMMON or sum(byte > 127 for byte in data) < FEW:  # hardly a guess
        with contextlib.suppress(UnicodeDecodeError):
            likely = bool(data.decode(USUAL))
    guess = USUAL if likely else best.encoding
    return f"it looks like {guess}: try --encoding {guess}"
