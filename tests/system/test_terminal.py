"""pytest tests/system/test_terminal.py"""

import subprocess
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2ft.system.terminal import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ünï 🙂\n\ttext", "plain ünï 🙂\n\ttext"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("\x1b]52;c;aGk=\x07", "\\x1b]52;c;aGk=\\x07"),
        ("a\rb\x7f\x9b0m\x00", "a\\rb\\x7f\\x9b0m\\x00"),
        ("abc\u202edcb\u2066x\u200f", "abc\\u202edcb\\u2066x\\u200f"),
    ],
)
def test_what_a_terminal_would_obey_is_escaped(text, shown):
    assert printable(text) == shown


BIDIRECTIONAL = {
    "ARABIC LETTER MARK",
    "LEFT-TO-RIGHT MARK",
    "RIGHT-TO-LEFT MARK",
    "LEFT-TO-RIGHT EMBEDDING",
    "RIGHT-TO-LEFT EMBEDDING",
    "POP DIRECTIONAL FORMATTING",
    "LEFT-TO-RIGHT OVERRIDE",
    "RIGHT-TO-LEFT OVERRIDE",
    "LEFT-TO-RIGHT ISOLATE",
    "RIGHT-TO-LEFT ISOLATE",
    "FIRST STRONG ISOLATE",
    "POP DIRECTIONAL ISOLATE",
}


def obeyed(character):
    """Whether a terminal would obey it, by what Unicode calls it."""
    category = unicodedata.category(character)
    if category == "Cc":
        return character not in "\n\t"
    return category == "Cf" and unicodedata.name(character) in BIDIRECTIONAL


def escaped(character):
    code = ord(character)
    if character == "\r":
        return "\\r"
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def test_no_character_of_unicode_is_missed_and_none_escaped_for_nothing():
    """Each of them: one more or one less in the pattern is a hole, or text that is not shown."""
    characters = map(chr, range(sys.maxunicode + 1))
    expected = {char: escaped(char) for char in characters if obeyed(char)}
    assert len(expected) == 32 - 2 + 1 + 32 + len(BIDIRECTIONAL)  # C0, DEL, C1
    wrong = [
        hex(code)
        for code in range(sys.maxunicode + 1)
        if printable(chr(code)) != expected.get(chr(code), chr(code))
    ]
    assert wrong == []


@given(st.lists(st.text(st.sampled_from("\x1b[]0;m\x07\r\n\t \\x\u202e\u2069\x9bé🙂"), max_size=6)))
def test_a_text_may_come_in_pieces(pieces):
    """It is streamed: an escape sequence must not get through because it was cut in two."""
    text = "".join(pieces)
    shown = "".join(map(printable, pieces))
    assert shown == printable(text) == printable(shown)
    assert shown == "".join(escaped(char) if obeyed(char) else char for char in text)


def test_saying_things_to_nobody_does_not_end_a_run():
    """`train.py | head -1`: the reader goes, the run goes on."""
    code = (
        "import sys, time; from gpt2ft.system.terminal import print_line\n"
        "for i in range(50): print_line('x' * 9999); time.sleep(0.01)\n"
        "print('done', file=sys.stderr)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b"done\n"
        assert process.wait(30) == 0
