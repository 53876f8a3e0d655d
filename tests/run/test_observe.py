"""The best model, early stopping, samples on the way: pytest tests/run/test_observe.py"""

import json
import math

import pytest

from gpt2ft.config import TrainConfig
from gpt2ft.evaluation.records import read_records
from gpt2ft.run import observe as observing
from gpt2ft.run.finetune import finetune
from gpt2ft.run.observe import Observed


def with_losses(monkeypatch, losses):
    """Evaluations, after that at step 0, that find these losses."""
    original, left = observing.score, [9.0, *losses]

    def score(*arguments, **options):
        found = original(*arguments, **options)
        return type(found)(**{**vars(found), "loss": left.pop(0)})

    monkeypatch.setattr(observing, "score", score)


def model(folder):
    return (folder / "model.safetensors").read_bytes()


def test_the_best_model_is_kept_and_put_in_place(settings, tmp_path, monkeypatch, capsys):
    with_losses(monkeypatch, [3.0, 2.0, 2.5, 2.6, 2.7, 2.8])
    flags = {"eval_steps": 2, "save_best": True}
    assert finetune(TrainConfig(**{**settings, **flags})) == 0
    out, shown = tmp_path / "out", capsys.readouterr().out
    # 2 and 4 were the best when they were evaluated; 4 is kept besides the newest two.
    assert {p.name for p in out.glob("checkpoint-*")} == {
        *("checkpoint-4", "checkpoint-8", "checkpoint-12")
    }
    assert model(out) == model(out / "checkpoint-4") != model(out / "checkpoint-12")
    assert "the model is that of step 4, the best on the held-out text" in shown
    facts = json.loads((out / "run.json").read_text())
    assert facts["step_of_the_model"] == 4 and facts["steps"] == 12
    assert json.loads((out / "manifest.json").read_text())["step"] == 4
    samples = read_records(out / "samples.jsonl")
    assert samples[-1]["step"] == 12 and {s["step"] for s in samples} >= {0, 4}
    assert "has become worse" not in shown and "overfits" not in shown


def test_a_run_without_gain_stops_early_and_may_go_on(settings, tmp_path, monkeypatch, capsys):
    with_losses(monkeypatch, [3.0, 3.1, 3.2, 3.3, 3.4, 3.5])
    flags = {"eval_steps": 2, "early_stopping_patience": 2, "save_best": True}
    config = TrainConfig(**{**settings, **flags})
    assert finetune(config) == 0
    out = tmp_path / "out"
    assert "step      6  stopped early: the held-out loss was lowest at step 2" in (
        capsys.readouterr().out
    )
    assert (out / "checkpoint-6").is_dir() and model(out) == model(out / "checkpoint-2")
    resumed = {**vars(config), "resume": "auto"}
    assert finetune(TrainConfig(**resumed)) == 0  # it stays where it is
    steps = [r["step"] for r in read_records(out / "metrics.jsonl") if "loss" in r]
    assert steps == list(range(1, 7))
    assert finetune(TrainConfig(**{**resumed, "early_stopping_patience": 9})) == 0
    steps = [r["step"] for r in read_records(out / "metrics.jsonl") if "loss" in r]
    assert steps == list(range(1, 13))


def test_samples_of_ones_own_prompts_on_the_way(settings, tmp_path, capsys):
    """Each prompt with the same seed at each time; also after the run was resumed."""
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "line 1:", "seed": 7}\n{"prompt": "the "}\n')
    flags = {"sample_prompts": [str(prompts), "quick"], "sample_steps": 5}
    assert finetune(TrainConfig(**{**settings, **flags})) == 0
    records = read_records(tmp_path / "out" / "samples.jsonl")
    assert [r["step"] for r in records] == [0] * 3 + [5] * 3 + [10] * 3 + [12] * 3
    assert [(r["prompt"], r["seed"]) for r in records[3:6]] == [
        *(("line 1:", 7), ("the ", 42), ("quick", 42)),
    ]
    shown = capsys.readouterr().out
    assert "step      5  line 1: | " in shown and shown.count("--- it wrote after ---") == 1
    again = {**settings, **flags, "resume": str(tmp_path / "out" / "checkpoint-8")}
    assert finetune(TrainConfig(**again)) == 0
    assert read_records(tmp_path / "out" / "samples.jsonl") == records


def test_all_observations_on_and_off_give_the_same_bits(settings, tmp_path):
    on = {
        **{"eval_steps": 2, "sample_steps": 3, "save_best": True, "keep_every": 5},
        **{"sample_prompts": ["line"], "early_stopping_patience": 50},
        "output_dir": str(tmp_path / "on"),
    }
    assert finetune(TrainConfig(**settings, validation_split_percentage=5)) == 0
    assert finetune(TrainConfig(**{**settings, **on})) == 0
    for name in ("model.safetensors", "optimizer.safetensors"):
        last = [tmp_path / folder / "checkpoint-12" / name for folder in ("out", "on")]
        assert last[0].read_bytes() == last[1].read_bytes()


def test_the_best_step_is_the_first_of_the_lowest():
    records = [{"step": s, "eval_loss": x} for s, x in ((0, 1.0), (2, 3.0), (4, 2.0), (6, 2.0))]
    observed = Observed([*records, {"step": 8, "eval_loss": None}])
    assert observed.best_step() == 4 and observed.since_best() == 2
    assert Observed().best_step() is None and Observed().since_best() == 0
    assert Observed([*records, {"step": 5, "eval_loss": math.nan}], begun=4).best_step() == 6


def test_without_held_out_text_there_is_no_best_model(settings):
    flags = {"validation_split_percentage": 0, "eval_steps": 2, "save_best": True}
    with pytest.raises(ValueError, match="no text is held out: name --validation_file"):
        finetune(TrainConfig(**{**settings, **flags}))


def test_a_file_of_prompts_is_read_once(settings, tmp_path, monkeypatch):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("line")
    original = observing.sample_once

    def sample_once(*arguments):
        prompts.unlink(missing_ok=True)
        return original(*arguments)

    monkeypatch.setattr(observing, "sample_once", sample_once)
    assert finetune(TrainConfig(**settings, sample_prompts=[str(prompts)])) == 0
    records = read_records(tmp_path / "out" / "samples.jsonl")
    assert [r["prompt"] for r in records] == ["line", "line"]


@pytest.mark.parametrize("name", ["save_best", "early_stopping_patience"])
def test_what_goes_by_evaluations_needs_them(name, settings):
    with pytest.raises(ValueError, match=f"--{name} goes by the held-out loss on the way"):
        TrainConfig(**settings, **{name: 1}).validate()
