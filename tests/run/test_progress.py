"""pytest tests/run/test_progress.py"""

import json

import torch

from gpt2ft import TrainState, build_optimizer
from gpt2ft.loop import Evaluation, StepResult
from gpt2ft.run import progress as report
from gpt2ft.run.progress import TrainingReport, forget_after
from gpt2ft.run.summary import card


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


def test_the_rate_leaves_out_what_is_no_step(tmp_path, make_model, monkeypatch, capsys):
    """Ten seconds of steps, an hour of evaluation: 100 tokens take ten seconds."""
    clock = [0.0]
    monkeypatch.setattr(report.time, "monotonic", lambda: clock[0])
    model = make_model()
    state = TrainState.create(model, build_optimizer(model))
    log = TrainingReport(tmp_path / "m.jsonl", state, max_steps=4, logging_steps=2)
    with log.paused():
        clock[0] += 3600
    for step in (1, 2):
        clock[0] += 5
        state.step, state.tokens = step, 50 * step
        one = torch.ones(())
        log.step(StepResult(step, one, range(step - 1, step), 50, one, 0.1, one < 0), state)
    log.close()
    assert "10 tok/s  00:10 left" in capsys.readouterr().out
