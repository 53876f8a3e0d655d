"""pytest tests/data/test_json_files.py"""

import json

import pytest

from gpt2ft.data.chats import Columns
from gpt2ft.data.json_files import json_texts
from gpt2ft.data.plain_file import READ_BYTES


def texts(path, content, text_column=None):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    stamps = [(str(path), path.stat().st_size, 0)]
    return [record["text"] for record in json_texts(stamps, Columns(text_column))]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.jsonl"


def test_lines_arrays_and_arrays_over_many_lines_are_the_same(path):
    words = ["one", "two\nlines", "ünï", "\u2028 is no line end", "🙂", ""]
    records = [{"n": n, "text": word} for n, word in enumerate(words)]
    lines = [json.dumps(record, ensure_ascii=n % 2 == 0) for n, record in enumerate(records)]
    for content in (
        "\n".join(lines),
        "\r\n".join(lines) + "\r\n",
        "\n\n".join([" ", *lines, "\t"]),
        b"\xef\xbb\xbf" + "\n".join(lines).encode(),
        json.dumps(records),
        "\n " + json.dumps(records, indent=2) + "\n\n",
    ):
        assert texts(path, content) == words


def test_records_longer_than_what_is_read_at_once(path):
    words = ["ä" * READ_BYTES, "b", "cd" * READ_BYTES]
    content = "".join(json.dumps({"text": word}, ensure_ascii=False) + "\n" for word in words)
    assert texts(path, content) == words


def test_null_is_no_text_but_a_missing_key_is_an_error(path):
    assert texts(path, '{"text": null}\n{"text": "a"}\n') == ["", "a"]
    with pytest.raises(ValueError, match="line 2 has no column text; its columns: body"):
        texts(path, '{"text": "a"}\n{"body": "b"}\n')


def test_the_first_record_decides_about_the_column(path):
    assert texts(path, '{"id": 1, "body": "a"}\n{"body": "b", "note": "c"}\n') == ["a", "b"]
    assert texts(path, '{"text": "a", "body": "b"}\n', "body") == ["b"]
    for record in ('{"id": "x", "body": "a"}', '{"id": "x", "body": null}'):
        with pytest.raises(ValueError, match="line 1 has no column text; its columns: id, body"):
            texts(path, record)
    with pytest.raises(ValueError, match="line 1 has no strings in its column text"):
        texts(path, '{"text": 5, "body": "not this instead"}')


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "a"}\n\n{"text": "b"\n', r"line 3 is no JSON, .*\(column 13\)"),
        ('[{"text": "a"},\n\n{"text": }]', r"line 3 is no JSON, Expecting value \(column 10\)"),
        ('[{"text": "a"}]\n[{"text": "a"}]', "line 2 is no JSON, Extra data"),
        ('{"text": "a"}{"text": "b"}', "line 1 is no JSON, Extra data"),
        ('[{"text": "a"}, null]', "record 2 is null"),
        ('{"text": ["a"]}', "line 1 has no strings in its column text"),
        ('{"text": "a", "n": ' + "9" * 5000 + "}", "line 1 cannot be read, Exceeds the limit"),
        ('{"text": ' + "[" * 100_000, "line 1 cannot be read, maximum recursion depth"),
        ('{"text": "half \\udc00"}', r"line 1 has half a character, \\udc00"),
        ("{}", "line 1 has no column text; its columns: none"),
        ("[]", "no records"),
        ("\n \n", "no records"),
    ],
)
def test_what_cannot_be_read_says_where(content, message, path):
    with pytest.raises(ValueError, match=message):
        texts(path, content)


def test_both_halves_of_a_character_are_one(path):
    assert texts(path, '{"text": "\\ud83d\\ude42"}') == ["🙂"]
