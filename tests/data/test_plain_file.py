"""pytest tests/data/test_plain_file.py"""

import bz2
import gzip
import lzma
import sys

import pytest
from backports import zstd

from gpt2ft import load_corpus

TEXT = "Größe, süß — naïve façade.\nΩ\n" * 2000
PACK = {".gz": gzip.compress, ".xz": lzma.compress, ".bz2": bz2.compress, ".zst": zstd.compress}


def texts(path, **settings):
    corpus = load_corpus(train_file=str(path), validation_split_percentage=0, **settings)
    return "".join(corpus.train["text"])


@pytest.mark.parametrize("ending", PACK)
def test_packed_files(ending, tmp_path):
    path = tmp_path / f"a.txt{ending}"
    path.write_bytes(PACK[ending](TEXT.encode()))
    assert texts(path) == TEXT
    parts = load_corpus(train_file=str(path), validation_split_percentage=10)
    train, held_out = ("".join(part["text"]) for part in (parts.train, parts.validation))
    assert train + held_out == TEXT and len(held_out) == pytest.approx(len(TEXT) / 10, rel=0.01)


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_packed_records(kind, tmp_path):
    path = tmp_path / f"a.{kind}.gz"
    content = {"jsonl": '{"text": "ü"}\n{"text": "b"}\n', "csv": "text\nü\nb\n"}[kind]
    path.write_bytes(gzip.compress(content.encode()))
    assert texts(path) == "üb"
    path.write_bytes(gzip.compress(content.replace("b", "c").encode()))  # of the same size
    assert texts(path) == "üc"


@pytest.mark.parametrize("ending", PACK)
@pytest.mark.parametrize("damage", ["cut", "none of its kind"])
def test_a_damaged_packed_file(ending, damage, tmp_path):
    path = tmp_path / f"a.txt{ending}"
    packed = PACK[ending](TEXT.encode())
    path.write_bytes(packed[: len(packed) // 2] if damage == "cut" else b"plain text" * 9)
    with pytest.raises(ValueError, match=rf"cannot be unpacked, .*damaged or no \{ending} file"):
        texts(path)


def test_without_the_library_for_zst_it_is_named(tmp_path, monkeypatch):
    path = tmp_path / "a.txt.zst"
    path.write_bytes(PACK[".zst"](TEXT.encode()))
    monkeypatch.setitem(sys.modules, "backports", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'gpt2ft\[zst\]'"):
        texts(path)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-8-sig", "gb18030"])
def test_encodings(encoding, tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(TEXT.replace("\n", "\r\n").encode(encoding))
    assert texts(path, encoding=encoding) == TEXT
    parts = load_corpus(train_file=str(path), encoding=encoding)
    assert "".join([*parts.train["text"], *parts.validation["text"]]) == TEXT


def test_records_in_another_encoding(tmp_path):
    (tmp_path / "a.csv").write_bytes("text\nüß\n".encode("cp1252"))
    (tmp_path / "a.jsonl").write_bytes('{"text": "üß"}\n'.encode("cp1252"))
    for name in ("a.csv", "a.jsonl"):
        with pytest.raises(ValueError, match=rf"{name} is not UTF-8, byte \d+ is 0xfc"):
            texts(tmp_path / name)
        assert texts(tmp_path / name, encoding="cp1252") == "üß"


@pytest.mark.parametrize(
    ("words", "encoding", "guess"),
    [
        ("Liebe Grüße, Jörg. Wir sehen uns am Donnerstag um fünf in Köln. ", "cp1252", "cp1252"),
        ("Cher Monsieur, l'été dernier nous avons mangé des crêpes à Noël. ", "cp1252", "cp1252"),
        ("Liebe Müller, ", "cp1252", "cp1252"),
        ("Le café est fermé à Noël, déjà vu, naïve. ", "cp1252", "cp1252"),
        ("Příliš žluťoučký kůň úpěl ďábelské ódy. ", "cp1250", "cp1250"),
        ("Это русский текст. Он написан давно. ", "koi8-r", "koi8_r"),
        ("これは日本語の文章です。猫が好きです。", "shift_jis", "cp932"),
    ],
)
def test_the_likely_encoding_is_named(words, encoding, guess, tmp_path):
    path = tmp_path / "mail.txt"
    path.write_bytes((words * 5).encode(encoding))
    with pytest.raises(ValueError, match=rf"it looks like {guess}: try --encoding {guess}"):
        texts(path)
    assert texts(path, encoding=guess) == words * 5


def test_the_wrong_encoding_names_the_byte(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"ab\x81cd")
    with pytest.raises(ValueError, match=r"is not CP1252, byte 2 is 0x81, give its true"):
        texts(path, encoding="cp1252")
