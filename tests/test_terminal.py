"""pytest tests/test_terminal.py"""

import subprocess
import sys

import pytest

from gpt2ft.terminal import printable


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


def test_saying_things_to_nobody_does_not_end_a_run():
    """`train.py | head -1`: the reader goes, the run goes on."""
    code = (
        "import sys, time; from gpt2ft.terminal import say\n"
        "for i in range(50): say('x' * 9999); time.sleep(0.01)\n"
        "print('done', file=sys.stderr)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b"done\n"
        assert process.wait(30) == 0
