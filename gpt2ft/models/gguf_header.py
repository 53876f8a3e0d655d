"""What a GGUF file says of itself, read with suspicion: it may come from anywhere.

The libraries that read such files believe the sizes they find there, and count up to them. Here
every size is compared with that of the file before anything is made of it.
The form: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

VERSIONS = (2, 3)
FORMATS = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True))
"""How values of each type lie in the file, as `struct` has it."""
TEXT, ARRAY = 8, 9
MOST_DIMENSIONS = 4
SAID = 3  # types of weights that are named
TOKENS = "tokenizer.ggml.tokens"
SPECIAL_TOKENS = ("bos", "eos", "unknown", "padding")


class TensorInfo(NamedTuple):
    """A tensor of the file."""

    shape: tuple[int, ...]
    """As torch has it, the last dimension varying fastest."""
    type: str
    """How its weights are kept: F32, Q8_0, Q4_K, ..."""
    n_bytes: int


@dataclass(frozen=True)
class Header:
    """The settings and the tensors of a GGUF file."""

    values: dict[str, Any]
    """Texts, numbers, and of arrays how many elements they have."""
    tensors: dict[str, TensorInfo]

    @property
    def architecture(self) -> str:
        return str(self.values["general.architecture"])

    def setting(self, name: str) -> Any:
        """A setting of the architecture; None if the file does not have it."""
        return self.values.get(f"{self.architecture}.{name}")


def is_gguf(name: str) -> bool:
    """Whether a model of that name is a GGUF file: by its ending, whether it exists or not."""
    return name.lower().endswith(".gguf") and not os.path.isdir(name)


def read_header(path: Path) -> Header:
    """The header of a GGUF file. Raises `ValueError` if it is none, or if parts of it are missing.

    Needs memory for the names of tensors and settings alone, whatever sizes the file claims.
    """
    if path.stat().st_size < 24:
        raise ValueError(f"it has {path.stat().st_size} bytes, it is no GGUF file")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            return _Reader(data).header()
        except (struct.error, UnicodeDecodeError) as error:
            raise ValueError(f"it is cut off or damaged, {error}") from error


def dequantised(name: str) -> str | None:
    """What is to be said of the weights of a GGUF file; None for another model, or a bad file."""
    if not is_gguf(name):
        return None
    with contextlib.suppress(OSError, ValueError, ImportError):
        matrices = [t for t in read_header(Path(name)).tensors.values() if len(t.shape) > 1]
        size: dict[str, int] = {}
        for tensor in matrices:
            size[tensor.type] = size.get(tensor.type, 0) + tensor.n_bytes
        weights = sum(math.prod(tensor.shape) for tensor in matrices)
        kinds = sorted(size, key=lambda kind: -size[kind])
        more = ", ..." if len(kinds) > SAID else ""
        return (
            f"{Path(name).name} holds weights of {8 * sum(size.values()) / weights:.3g} bits "
            f"({', '.join(kinds[:SAID])}{more}); they are read as fp32"
        )
    return None


class _Reader:
    """Goes through the bytes of a file from its beginning."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data, self._at = data, 0

    def header(self) -> Header:
        if self._data[:4] != b"GGUF":
            raise ValueError("it is no GGUF file, it does not begin with GGUF")
        self._at = 4
        (version,) = self._numbers("I")
        if version not in VERSIONS:
            raise ValueError(f"it is GGUF of version {version}, only 2 and 3 can be read")
        n_tensors, n_values = self._numbers("QQ")
        values: dict[str, Any] = {}
        for _ in range(n_values):  # each takes bytes, so that a number too large ends with the file
            name = self._text()
            if name in values:
                raise ValueError(f"it sets {name} twice, it is damaged")
            values[name] = self._value(*self._numbers("I"))
        if not isinstance(values.get("general.architecture"), str):
            raise ValueError("it does not say its architecture (general.architecture)")
        _check_tokens(values)
        tensors = [self._tensor() for _ in range(n_tensors)]
        self._check_extent(tensors, values.get("general.alignment", 32))
        found = {name: info for name, info, _ in tensors}
        if len(found) < len(tensors):
            raise ValueError("it holds two tensors of one name, it is damaged")
        return Header(values, found)

    def _numbers(self, form: str) -> tuple[Any, ...]:
        numbers = struct.unpack_from(f"<{form}", self._data, self._at)
        self._at += struct.calcsize(f"<{form}")
        return numbers

    def _skip(self, n_bytes: int) -> None:
        if n_bytes > len(self._data) - self._at:
            raise ValueError("it is cut off or damaged, it ends within its settings")
        self._at += n_bytes

    def _text(self) -> str:
        (length,) = self._numbers("Q")
        self._skip(length)
        return self._data[self._at - length : self._at].decode()

    def _value(self, kind: int) -> Any:
        if kind in FORMATS:
            return self._numbers(FORMATS[kind])[0]
        if kind == TEXT:
            return self._text()
        if kind != ARRAY:
            raise ValueError(f"it is damaged, a setting is of the type {kind}")
        element, count = self._numbers("IQ")
        if element in FORMATS:
            self._skip(count * struct.calcsize(f"<{FORMATS[element]}"))
        elif element == TEXT:
            for _ in range(count):
                self._text()
        else:
            raise ValueError(f"it is damaged, an array is of the type {element}")
        return count

    def _tensor(self) -> tuple[str, TensorInfo, int]:
        """Name, form and place of a tensor."""
        import gguf

        name = self._text()
        (n,) = self._numbers("I")
        if not 1 <= n <= MOST_DIMENSIONS:
            raise ValueError(f"it is damaged, the tensor {name} has {n} dimensions")
        shape = tuple(reversed(self._numbers(f"{n}Q")))
        number, offset = self._numbers("IQ")
        try:
            kind = gguf.GGMLQuantizationType(number)
        except ValueError:
            raise ValueError(
                f"the tensor {name} is of the type {number}, which is unknown"
            ) from None
        block, n_bytes = gguf.GGML_QUANT_SIZES[kind]
        if math.prod(shape) == 0 or shape[-1] % block:
            raise ValueError(f"it is damaged, the tensor {name} of type {kind.name} is {shape}")
        return name, TensorInfo(shape, kind.name, math.prod(shape) // block * n_bytes), offset

    def _check_extent(self, tensors: list[tuple[str, TensorInfo, int]], alignment: Any) -> None:
        """Raise `ValueError` unless the bytes of all tensors are within the file."""
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            raise ValueError(f"it is damaged, its alignment is {alignment}")
        begin = -(-self._at // alignment) * alignment
        for name, info, offset in tensors:
            if (end := begin + offset + info.n_bytes) > len(self._data):
                raise ValueError(
                    f"it is cut off or damaged: its tensor {name} ends at byte {end}, the file has "
                    f"{len(self._data)}"
                )


def _check_tokens(values: Mapping[str, Any]) -> None:
    """Raise `ValueError` if a special token is none of the tokens."""
    for name in SPECIAL_TOKENS:
        token, count = values.get(f"tokenizer.ggml.{name}_token_id"), values.get(TOKENS, math.inf)
        if token is not None and not 0 <= token < count:
            raise ValueError(f"its {name} token is {token}, but it has {count} tokens")
