"""pytest tests/evaluation/test_records.py"""

import json

from gpt2ft.evaluation.records import forget_after


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
