"""pytest tests/test_report.py"""

import json

from gpt2ft.loop import Evaluation
from gpt2ft.report import card, forget_after


def test_forgetting_what_will_be_done_again(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": step, "loss": 1.0}) for step in (1, 2, 3)]
    path.write_text("\n".join(lines) + '\n{"step": 4, "lo')
    assert [record["step"] for record in forget_after(path, 2)] == [1, 2]
    assert path.read_text() == "\n".join(lines[:2]) + "\n"
    assert forget_after(path, -1) == [] == forget_after(tmp_path / "none", 2)
    assert path.read_text() == ""


def test_records_with_other_line_separators_in_their_text(tmp_path):
    path = tmp_path / "metrics.jsonl"
    record = {"step": 0, "sample": "a\u2028b\x85c"}
    path.write_text(json.dumps(record, ensure_ascii=False) + "\n", encoding="utf-8")
    assert forget_after(path, 3) == forget_after(path, 3) == [record]


def test_the_card():
    text = card(Evaluation(2.0, 10), Evaluation(1.0, 10), samples=("was", "is"))
    assert "2.0000      1.0000" in text
    assert "7.39        2.72" in text
    assert "--- it wrote after ---\nis" in text
    assert card(None, None, samples=("", "")) == ""


def test_a_loss_beyond_all_bounds_has_a_perplexity():
    assert Evaluation(1000.0, 1).perplexity == float("inf")
