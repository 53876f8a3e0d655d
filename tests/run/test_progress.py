"""pytest tests/run/test_progress.py"""

import pytest
import torch

from gpt2ft import TrainState, build_optimizer, loop
from gpt2ft.loop import StepResult
from gpt2ft.run import progress as report
from gpt2ft.run.progress import TrainingReport
from gpt2ft.run.summary import warning


def losses(*pairs):
    return [{"step": step, "eval_loss": loss} for step, loss in pairs] + [{"step": 3, "loss": 9.0}]


@pytest.mark.parametrize(
    ("records", "words"),
    [
        (losses(), []),
        (losses((0, 4.0)), []),
        (losses((0, 4.0), (8, 3.0)), []),
        (losses((0, 4.0), (4, 2.995), (8, 3.0)), []),
        (losses((0, 4.0), (4, 2.0), (8, 3.0)), ["lowest at step 4, 2.0000", "--max_steps 4"]),
        (losses((0, 4.0), (8, 5.0)), ["higher than before training, 5.0000 and not 4.0000"]),
        (losses((0, 4.0), (4, 3.0), (8, 5.0)), ["higher than before", "lowest at step 4, 3.0000"]),
        (losses((0, 4.0), (4, None), (8, 3.0)), []),
    ],
)
def test_what_the_held_out_losses_warn_of(records, words):
    text = warning(records)
    assert bool(text) == bool(words) and all(word in text for word in words)
    assert len(text.splitlines()) == len(text.split("warning: ")) - 1


def test_a_loss_beyond_all_bounds_has_a_perplexity():
    assert loop.Evaluation(1000.0, 1).perplexity == float("inf")


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


def test_the_bar_leaves_out_what_is_no_step(tmp_path, make_model, monkeypatch):
    """An evaluation before the first step, and none is counted as a step that took an hour."""
    unpaused = []
    monkeypatch.setattr(report.tqdm, "unpause", lambda self: unpaused.append(self))
    model = make_model()
    state = TrainState.create(model, build_optimizer(model))
    log = TrainingReport(tmp_path / "m.jsonl", state, max_steps=4, logging_steps=2)
    with log.paused():
        assert not unpaused
    assert len(unpaused) == 1
    log.close()
