"""pytest tests/models/test_gguf_header.py

Files that are damaged or lie, byte by byte: each gets a sentence, and soon.
"""

import random
import struct
import tracemalloc

import numpy as np
import pytest

from gpt2ft.models.gguf_header import dequantised, is_gguf, read_header

gguf = pytest.importorskip("gguf")
TEXT, ARRAY, UINT8, UINT32 = 8, 9, 0, 4
PADDING = 24  # after the last tensor, whose 136 bytes are filled up to 160


@pytest.fixture
def path(tmp_path):
    """A file of all kinds of settings and three tensors."""
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_uint32("llama.block_count", 7)
    writer.add_float32("llama.rope.freq_base", 0.5)
    writer.add_bool("tokenizer.ggml.add_bos_token", True)
    writer.add_token_list(["a", "ü"])
    writer.add_token_types([1, 3])
    writer.add_eos_token_id(1)
    writer.add_tensor("a", np.arange(5, dtype=np.float32))
    writer.add_tensor("b", np.ones((3, 64), np.float16))
    weights = gguf.quantize(np.ones((2, 64), np.float32), gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("c", weights, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tmp_path / "m.gguf"


def test_it_reads_what_the_reader_of_the_library_reads(path):
    header, theirs = read_header(path), gguf.GGUFReader(path)
    assert header.architecture == "llama"
    assert header.setting("block_count") == 7 and header.setting("gone") is None
    for name, value in header.values.items():
        field = theirs.fields[name]
        is_array = field.types[0] == gguf.GGUFValueType.ARRAY
        assert value == (len(field.data) if is_array else field.contents()), name
    for tensor in theirs.tensors:
        found = header.tensors[tensor.name]
        assert found.shape == tuple(reversed(tensor.shape.tolist()))
        assert found.type == tensor.tensor_type.name and found.n_bytes == tensor.n_bytes


def test_what_is_said_of_the_weights(path):
    """192 weights of 16 bits and 128 of 8.5 bits are 13 bits on average; vectors do not count."""
    said = "m.gguf holds weights of 13 bits (F16, Q8_0); they are read as fp32"
    assert dequantised(str(path)) == said
    assert dequantised(str(path.with_name("gone.gguf"))) is None
    assert dequantised("gpt2") is None


def test_what_is_a_gguf_file(tmp_path):
    (tmp_path / "folder.gguf").mkdir()
    names = {"m.gguf": True, "M.GGUF": True, "gpt2": False, str(tmp_path / "folder.gguf"): False}
    assert {name: is_gguf(name) for name in names} == names


def test_cut_anywhere_it_is_refused(path):
    data = path.read_bytes()
    for size in range(len(data) - PADDING):
        path.write_bytes(data[:size])
        with pytest.raises(ValueError, match=r"cut off|no GGUF file|damaged"):
            read_header(path)


def text(value):
    return struct.pack("<Q", len(value)) + value


def setting(name, kind, value):
    return text(name) + struct.pack("<I", kind) + value


ARCHITECTURE = setting(b"general.architecture", TEXT, text(b"llama"))
TENSOR = text(b"a") + struct.pack("<IQIQ", 1, 8, 0, 0)
LARGE = 1 << 60


@pytest.mark.parametrize(
    ("settings", "tensors", "fault"),
    [
        ((LARGE, ARCHITECTURE), (0, b""), "cut off or damaged"),
        ((1, ARCHITECTURE), (LARGE, TENSOR), "cut off or damaged"),
        ((1, text(b"")[:7] + b"\x10"), (0, b""), "ends within its settings"),
        ((1, setting(b"a", TEXT, struct.pack("<Q", LARGE))), (0, b""), "ends within"),
        ((1, setting(b"a", ARRAY, struct.pack("<IQ", UINT8, LARGE))), (0, b""), "ends within"),
        ((1, setting(b"a", ARRAY, struct.pack("<IQ", TEXT, LARGE))), (0, b""), "cut off"),
        ((1, setting(b"a", ARRAY, struct.pack("<IQ", ARRAY, 1))), (0, b""), "array is of the type"),
        ((1, setting(b"a", 99, b"")), (0, b""), "a setting is of the type 99"),
        ((1, setting(b"a", TEXT, text(b"\xff"))), (0, b""), "cut off or damaged"),
        ((2, 2 * ARCHITECTURE), (0, b""), "sets general.architecture twice"),
        ((0, b""), (0, b""), "does not say its architecture"),
        ((1, ARCHITECTURE), (1, TENSOR), "its tensor a ends at byte"),
        ((1, ARCHITECTURE), (1, text(b"a") + struct.pack("<I", 1 << 31)), "has 2147483648 dim"),
        ((1, ARCHITECTURE), (1, text(b"a") + struct.pack("<IQIQ", 1, LARGE, 0, 0)), "ends at byte"),
        ((1, ARCHITECTURE), (1, text(b"a") + struct.pack("<IQIQ", 1, 8, 0, LARGE)), "ends at byte"),
        ((1, ARCHITECTURE), (1, text(b"a") + struct.pack("<IQIQ", 1, 8, 99, 0)), "which is unknow"),
        ((1, ARCHITECTURE), (1, text(b"a") + struct.pack("<IQIQ", 1, 8, 8, 0)), "of type Q8_0 is"),
        ((1, ARCHITECTURE), (1, text(b"a") + struct.pack("<IQIQ", 1, 0, 0, 0)), "of type F32 is"),
        (
            (2, ARCHITECTURE + setting(b"general.alignment", UINT32, struct.pack("<I", 3))),
            (0, b""),
            "its alignment is 3",
        ),
        (
            (
                3,
                ARCHITECTURE
                + setting(b"tokenizer.ggml.tokens", ARRAY, struct.pack("<IQ", TEXT, 1) + text(b"a"))
                + setting(b"tokenizer.ggml.eos_token_id", UINT32, struct.pack("<I", 1)),
            ),
            (0, b""),
            "its eos token is 1, but it has 1 tokens",
        ),
    ],
)
def test_a_file_that_lies_is_refused_without_memory(settings, tensors, fault, tmp_path):
    head = b"GGUF" + struct.pack("<IQQ", 3, tensors[0], settings[0])
    (tmp_path / "m.gguf").write_bytes(head + settings[1] + tensors[1])
    tracemalloc.start()
    with pytest.raises(ValueError, match=fault):
        read_header(tmp_path / "m.gguf")
    largest = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert largest < 4 << 20


def test_another_version_is_refused(path):
    path.write_bytes(b"GGUF" + struct.pack("<I", 1) + path.read_bytes()[8:])
    with pytest.raises(ValueError, match="is GGUF of version 1, only 2 and 3"):
        read_header(path)


def test_whatever_bit_is_flipped_it_is_read_or_refused(path):
    data, draw = path.read_bytes(), random.Random(0)
    for _ in range(500):
        bad = bytearray(data)
        bad[draw.randrange(len(bad))] ^= 1 << draw.randrange(8)
        path.write_bytes(bad)
        try:
            read_header(path)
        except ValueError as error:
            assert "\n" not in str(error)
