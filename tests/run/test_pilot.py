"""Learning rates from short runs: pytest tests/run/test_pilot.py"""

import dataclasses
import json
import math
import signal

import pytest
import torch
from safetensors.torch import load_file

from gpt2ft.checkpoint.snapshot import named_tensors
from gpt2ft.config import TrainConfig
from gpt2ft.evaluation.records import METRICS, read_records
from gpt2ft.evaluation.scores import Score, Units
from gpt2ft.run import pilot as module
from gpt2ft.run.build import build
from gpt2ft.run.finetune import finetune
from gpt2ft.run.pilot import Findings, Trial, pilot
from gpt2ft.system.signals import Stop


@pytest.fixture
def settings(settings):
    """With enough held-out text, dropout and warm-up; a pilot of it has 5 of 12 steps."""
    return {**settings, "validation_split_percentage": 30, "dropout": 0.1, "warmup_steps": 4}


def test_each_is_the_run_with_that_rate_bit_for_bit(settings, tmp_path, capsys):
    """Which was made by itself, in its turn; nothing is written, and the model is put back."""
    run = build(TrainConfig(**settings))
    short = module._shortened(run, 5)
    before = {name: x.clone() for name, x in named_tensors(run.state.model).items()}
    steps = module._found(short, 3, Stop())
    for rate in (3e-3, 9.5e-4, 9.5e-3):
        found = next(steps)
        trained = {name: x.clone() for name, x in named_tensors(run.state.model).items()}
        out = tmp_path / f"run-{rate}"
        # 4 of 12 steps are warm-up; of 5 these are 2.
        same = {"max_steps": 5, "warmup_steps": 2, "learning_rate": rate, "output_dir": str(out)}
        assert finetune(TrainConfig(**{**settings, **same})) == 0
        saved = load_file(out / "model.safetensors")
        assert saved and all(torch.equal(trained[name], x) for name, x in saved.items())
        (trial,) = (trial for trial in found.trials if trial.rate == rate)
        assert trial.loss == read_records(out / METRICS)[-1]["eval_loss"]
    list(steps)
    after = named_tensors(run.state.model)
    assert all(torch.equal(after[name], x) for name, x in before.items())
    assert run.state.step == 0 and not run.state.optimizer.state


def test_what_it_says_and_that_it_keeps_nothing(settings, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "x").touch()
    files = sorted(tmp_path.rglob("*"))
    assert pilot(TrainConfig(**settings), n_rates=3, steps=5, stop=Stop()) == 0
    shown = capsys.readouterr().out
    asked = TrainConfig(**settings, dry_run=True, json=True)
    assert pilot(asked, n_rates=3, steps=5, stop=Stop()) == 0
    out, said = capsys.readouterr()
    facts = json.loads(out)
    assert sorted(tmp_path.rglob("*")) == files
    rates = [row["rate"] for row in facts["rates"]]
    assert rates[:3] == [9.5e-4, 3e-3, 9.5e-3] and len(rates) <= 7
    best = min(facts["rates"], key=lambda row: row["loss"] or math.inf)
    assert best["above"] is None and facts["recommended"] <= best["rate"]
    for row in facts["rates"]:
        assert f"held-out loss {row['loss']:.4f}" in said or row["trouble"] in shown
    assert facts["command"] in shown and "--json" not in facts["command"]
    assert f"--learning_rate {facts['recommended']}" in facts["command"]
    assert "--max_steps 12" in facts["command"] and "--dry_run" not in facts["command"]


def test_a_rate_that_diverges_is_a_row(settings, monkeypatch, capsys):
    run = build(TrainConfig(**settings))
    short = module._shortened(run, 5)
    before = module.evaluate_once(short, Stop())
    assert module._tried(short, 1e30, before, Stop()).trouble.startswith("diverges: ")
    tried = iter([1e30, 3e-3, 1e30])
    real = module._tried
    monkeypatch.setattr(module, "MOST_ADDED", 0)
    monkeypatch.setattr(module, "_tried", lambda s, rate, *a: real(s, next(tried), *a))
    assert pilot(TrainConfig(**settings), n_rates=3, steps=5, stop=Stop()) == 0
    rows = [line for line in capsys.readouterr().out.split("interval")[1].splitlines()]
    assert sum("diverges: loss or gradient not finite" in row for row in rows) == 2


def test_a_rate_that_makes_it_worse(settings):
    run = build(TrainConfig(**settings))
    short = module._shortened(run, 5)
    before = module.evaluate_once(short, Stop())
    trial = module._tried(short, 100.0, before, Stop())
    assert trial.trouble == "worse than before training" and trial.loss > before.loss


def test_stopped_it_shows_what_it_found(settings, monkeypatch, capsys):
    stop, real, times = Stop(), module.evaluate_once, []

    def evaluated(run, stop):
        times.append(run)
        if len(times) == 3:  # in the second short run
            stop.ask(signal.SIGINT, None)
        return real(run, stop)

    monkeypatch.setattr(module, "evaluate_once", evaluated)
    assert pilot(TrainConfig(**settings), n_rates=3, steps=2, stop=stop) == 130
    shown = capsys.readouterr().out
    assert "stopped by Ctrl-C; nothing was kept" in shown and "train.py" not in shown
    table = shown.split("interval")[1]
    assert "0.003" in table and "0.0095" not in table
    assert "no rate is recommended: not all rates were tried" in table


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_eval_samples": 9}, "9 blocks held out, 10 are needed to tell learning rates apart"),
        ({"validation_split_percentage": 0}, "no text held out, 10 are needed"),
        ({"learning_rate": 0}, "--learning_rate is 0, give the middle of the range"),
        ({"max_steps": 4}, "--pilot_steps is 5, but the run has 4 steps"),
    ],
)
def test_what_it_cannot_do(changes, message, settings):
    with pytest.raises(ValueError, match=message):
        pilot(TrainConfig(**{**settings, **changes}), steps=5, stop=Stop())


@pytest.mark.parametrize(
    ("max_steps", "expected"), [(12, 12), (176, 50), (2300, 230), (90_000, 500)]
)
def test_how_short_a_short_run_is(max_steps, expected, settings):
    run = build(TrainConfig(**{**settings, "max_steps": max_steps}))
    assert module._shortened(run, None).max_steps == expected


def with_losses(own, rates, loss):
    """The rates in the order in which they are tried, where their losses are such."""

    def score(loss):
        return Score(
            loss, 2000, 0.5, 6000, Units("blocks", [loss * 100] * 20, [100] * 20, [1] * 20)
        )

    found = Findings(score(6.0), own)
    while rate := module._next(found, rates):
        trial = Trial(rate, score(loss(rate)))
        trials = sorted([*found.trials, trial], key=lambda trial: trial.rate)
        found = dataclasses.replace(found, trials=trials)
    return found


def test_which_rates_are_tried():
    rates = module._range(5e-5, 5)
    assert rates == [5e-5, 1.6e-5, 1.6e-4, 5e-6, 5e-4]
    assert len(module._range(1e-3, 4)) == 4 == len(set(module._range(1e-3, 4)))
    falling = with_losses(5e-5, rates, lambda rate: 5 - 10 * rate)
    assert [trial.rate for trial in falling.trials][5:] == [1.6e-3, 5e-3, 1.6e-2]
    assert falling.beyond() == 0.05  # which is said
    curve = with_losses(5e-5, rates, lambda rate: abs(math.log10(rate / 1e-3)))
    assert [trial.rate for trial in curve.trials][5:] == [8.9e-4, 1.6e-3, 5e-3]
    assert curve.best.rate == 8.9e-4 == curve.recommended()[0]
