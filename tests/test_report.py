"""pytest tests/test_report.py"""

import json

import pytest

from gpt2ft.loop import Evaluation
from gpt2ft.report import card, forget_after, printable


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


def test_forgetting_what_will_be_done_again(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": step, "loss": 1.0}) for step in (1, 2, 3)]
    path.write_text("\n".join(lines) + '\n{"step": 4, "lo')
    assert [record["step"] for record in forget_after(path, 2)] == [1, 2]
    assert path.read_text() == "\n".join(lines[:2]) + "\n"
    assert forget_after(path, -1) == [] == forget_after(tmp_path / "none", 2)
    assert path.read_text() == ""


def test_the_card():
    text = card(Evaluation(2.0, 10), Evaluation(1.0, 10), ("was", "is\x1b"))
    assert "2.0000      1.0000" in text
    assert "7.39        2.72" in text
    assert "--- it wrote after ---\nis\\x1b" in text
    assert card(None, None, ("", "")) == ""


def test_a_loss_beyond_all_bounds_has_a_perplexity():
    assert Evaluation(1000.0, 1).perplexity == float("inf")
