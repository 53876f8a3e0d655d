"""Weights of any step, derived again: pytest tests/run/test_rewind.py"""

import json
import shutil

import pytest
from safetensors.torch import load_file

from gpt2ft import load_model
from gpt2ft.config import TrainConfig
from gpt2ft.run.finetune import finetune
from gpt2ft.run.rewind import fork, rewind
from gpt2ft.system.signals import Stop


@pytest.fixture
def every_step(settings, tmp_path):
    """The folder of a run that kept each of its 12 checkpoints."""
    every = {"save_steps": 1, "save_total_limit": 20, "output_dir": str(tmp_path / "every")}
    assert finetune(TrainConfig(**{**settings, **every})) == 0
    return tmp_path / "every"


def weights(folder):
    return (folder / "model.safetensors").read_bytes()


def test_the_weights_of_steps_that_were_not_saved(every_step, settings, tmp_path, capsys):
    """Within and over the end of an epoch, and of a step that was saved."""
    sparse = {"save_steps": 5, "keep_every": 3, "output_dir": str(tmp_path / "sparse")}
    assert finetune(TrainConfig(**{**settings, **sparse})) == 0
    kept = {path.name for path in (tmp_path / "sparse").glob("checkpoint-*")}
    assert kept == {f"checkpoint-{step}" for step in (3, 6, 9, 10, 12)}
    for step in (3, 4, 5, 8, 11):
        target = tmp_path / f"at-{step}"
        assert rewind(tmp_path / "sparse", step, target, stop=Stop()) == 0
        assert weights(target) == weights(every_step / f"checkpoint-{step}"), step
        load_model(str(target))
    assert "each loss of steps 7 to 8 is the one that was recorded" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"--step 2 is before any checkpoint .* 3, 6, 9, 10, 12"):
        rewind(tmp_path / "sparse", 2, tmp_path / "at-2", stop=Stop())
    with pytest.raises(ValueError, match=r"--step 13 is beyond the run in .*, which made 12 steps"):
        rewind(tmp_path / "sparse", 13, tmp_path / "at-13", stop=Stop())
    with pytest.raises(ValueError, match="holds a model already"):
        rewind(tmp_path / "sparse", 4, tmp_path / "at-4", stop=Stop())


def test_a_damaged_checkpoint_is_passed_over(every_step, tmp_path):
    expected = weights(every_step / "checkpoint-7")
    with open(every_step / "checkpoint-7" / "optimizer.safetensors", "r+b") as file:
        file.seek(100)
        file.write(b"\xff\x00\xff")
    assert rewind(every_step, 7, tmp_path / "at-7", stop=Stop()) == 0  # from checkpoint-6
    assert weights(tmp_path / "at-7") == expected


def test_a_run_that_was_made_longer(settings, tmp_path, every_step):
    """Its schedule was another one before it was resumed: the recorded rates are used."""
    longer = {"max_steps": 16, "resume": "auto", "output_dir": str(every_step)}
    kept = {"save_steps": 1, "save_total_limit": 20}
    assert finetune(TrainConfig(**{**settings, **longer, **kept})) == 0
    expected = weights(every_step / "checkpoint-11")
    for step in (9, 10, 11):
        shutil.rmtree(every_step / f"checkpoint-{step}", ignore_errors=True)
    assert rewind(every_step, 11, tmp_path / "at-11", stop=Stop()) == 0
    assert weights(tmp_path / "at-11") == expected


def test_another_machine_is_noticed(every_step, tmp_path, capsys):
    path = every_step / "metrics.jsonl"
    path.write_text(path.read_text().replace('"step": 7, ', '"step": 7, "x": 1, '))
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for record in records:
        if record["step"] == 7:
            record["loss"] += 1e-6
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    shutil.rmtree(every_step / "checkpoint-7")
    rewind(every_step, 7, tmp_path / "at-7", stop=Stop())
    assert "note: the loss of step 7 is" in capsys.readouterr().out


def test_other_text_is_refused(every_step, settings, tmp_path):
    with open(settings["train_file"][0], "w", encoding="utf-8") as file:
        file.write("something else\n" * 300)
    with pytest.raises(ValueError, match="the tokens of its corpus are others now"):
        rewind(every_step, 5, tmp_path / "at-5", stop=Stop())


def forked(settings, every_step, tmp_path, **changes):
    out = tmp_path / "fork"
    changes = {"fork": str(every_step), "step": 5, "output_dir": str(out), **changes}
    return out, TrainConfig(**{**settings, **changes})


def test_a_fork_that_changes_nothing_is_the_run(settings, every_step, tmp_path):
    out, config = forked(settings, every_step, tmp_path)
    assert fork(config, stop=Stop()) == 0
    assert weights(out) == weights(every_step)
    steps = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in steps if "loss" in r] == list(range(1, 13))


def test_a_fork_goes_another_way(settings, every_step, tmp_path):
    """Up to its step the records are the run's; then it has a rate and a decay of its own."""
    changes = {"learning_rate": 1e-3, "weight_decay": 0.5, "save_total_limit": 3}
    out, config = forked(settings, every_step, tmp_path, **changes)
    assert fork(config, stop=Stop()) == 0
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    rates = {r["step"]: r["learning_rate"] for r in records if "learning_rate" in r}
    assert rates[5] == pytest.approx(3e-3 * 8 / 12) and rates[6] == pytest.approx(1e-3 * 7 / 12)
    state = json.loads((out / "checkpoint-12" / "state.json").read_text())
    assert state["param_groups"][0]["weight_decay"] == 0.5
    facts = json.loads((out / "run.json").read_text())
    assert facts["fork"] == {"of": str(every_step), "step": 5}
    assert f"--fork {every_step} --step 5" in facts["command"]
    # It can be resumed like any run, also from its first checkpoint.
    for step in (8, 12):
        shutil.rmtree(out / f"checkpoint-{step}")
    (out / "manifest.json").unlink()
    before = load_file(out / "model.safetensors")
    assert (
        finetune(TrainConfig(**{**vars(config), "fork": None, "step": None, "resume": "auto"})) == 0
    )
    after = load_file(out / "model.safetensors")
    assert all((after[name] == before[name]).all() for name in after)


def test_a_fork_counts_its_own_evaluations_alone(settings, every_step, tmp_path):
    """The best model of the run it comes from is not in its folder."""
    records = [json.loads(line) for line in (every_step / "metrics.jsonl").read_text().splitlines()]
    low = {"step": 4, "eval_loss": 0.1, "eval_perplexity": 1.1, "n_targets": 5}
    text = "".join(json.dumps(record) + "\n" for record in [*records, low])
    (every_step / "metrics.jsonl").write_text(text)
    flags = {"eval_steps": 2, "save_best": True, "early_stopping_patience": 3}
    out, config = forked(settings, every_step, tmp_path, **flags)
    assert fork(config, stop=Stop()) == 0
    facts = json.loads((out / "run.json").read_text())
    assert facts["first_step"] == 5 < facts["step_of_the_model"]


def test_what_a_fork_cannot_change(settings, every_step, tmp_path):
    _, config = forked(settings, every_step, tmp_path, block_size=16)
    with pytest.raises(ValueError, match="--block_size is 16, but a fork keeps the 32"):
        fork(config, stop=Stop())
    _, config = forked(settings, every_step, tmp_path, step=6, max_steps=6)
    with pytest.raises(ValueError, match="leaves nothing to train, the run has 6 steps"):
        fork(config, stop=Stop())
    (tmp_path / "fork").mkdir()
    (tmp_path / "fork" / "x").touch()
    with pytest.raises(ValueError, match="is not empty"):
        fork(config, stop=Stop())
    assert not list(tmp_path.glob(".fork-*"))
