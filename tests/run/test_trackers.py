"""Read back what each library wrote: pytest tests/run/test_trackers.py"""

import contextlib
import json
import sqlite3
import sys

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gpt2ft.cli.main import main
from gpt2ft.config import TrainConfig
from gpt2ft.evaluation.records import read_records
from gpt2ft.run import trackers
from gpt2ft.run.finetune import finetune
from gpt2ft.run.trackers import scalars, tracked

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of these libraries


@pytest.fixture(autouse=True)
def database(tmp_path, monkeypatch):
    """Where trackio keeps its database: not the user's."""
    monkeypatch.setattr("trackio.utils.TRACKIO_DIR", tmp_path / "trackio", raising=False)
    monkeypatch.setattr("trackio.sqlite_storage.TRACKIO_DIR", tmp_path / "trackio", raising=False)
    return tmp_path / "trackio" / "gpt2ft.db"


def of_trackio(database):
    with sqlite3.connect(database) as connection:
        rows = connection.execute("SELECT step, metrics FROM metrics ORDER BY id").fetchall()
    return [(step, json.loads(metrics)) for step, metrics in rows]


def of_tensorboard(folder):
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return {
        name: [(event.step, event.value) for event in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }


def test_a_run_is_tracked_and_can_be_replayed(settings, tmp_path, database, capsys):
    flags = {"eval_steps": 5, "report_to": ["tensorboard", "trackio"]}
    assert finetune(TrainConfig(**{**settings, **flags})) == 0
    out = tmp_path / "out"
    records = read_records(out / "metrics.jsonl")
    losses = [(r["step"], r["loss"]) for r in records if "loss" in r]
    found = of_tensorboard(out)
    assert found["train/loss"] == [(step, pytest.approx(loss)) for step, loss in losses]
    assert [step for step, _ in found["eval/loss"]] == [0, 5, 10, 12]
    assert found.keys() >= {"train/learning_rate", "train/grad_norm", "eval/accuracy"}
    expected = [(r["step"], pytest.approx(scalars(r))) for r in records]
    assert of_trackio(database) == expected
    # The same afterwards, of a run that was not tracked.
    database.unlink()
    capsys.readouterr()
    assert main(["track", str(out), "--report_to", "trackio"]) == 0
    assert f"{len(records)} records of {out} are in trackio" in capsys.readouterr().out
    assert of_trackio(database) == expected


def test_a_run_that_goes_on_has_each_step_once(settings, tmp_path):
    config = {**settings, "report_to": ["tensorboard"]}
    assert finetune(TrainConfig(**config)) == 0
    again = {**config, "resume": str(tmp_path / "out" / "checkpoint-8")}
    assert finetune(TrainConfig(**again)) == 0
    steps = [step for step, _ in of_tensorboard(tmp_path / "out")["train/loss"]]
    assert steps == list(range(1, 13))


def test_a_tracker_that_fails_does_not_end_the_run(settings, tmp_path, monkeypatch, capsys):
    def log(values, step):
        raise ConnectionError("no route to host")

    opened = {"tensorboard": lambda *_: contextlib.nullcontext(log)}
    monkeypatch.setattr(trackers, "OPENED", opened)
    assert finetune(TrainConfig(**settings, report_to=["tensorboard"])) == 0
    shown = capsys.readouterr().out
    assert shown.count("note: tensorboard takes no records, no route to host") == 1
    assert "saved to" in shown


def test_one_that_cannot_begin_or_end_does_not_either(settings, monkeypatch, capsys):
    @contextlib.contextmanager
    def cannot_begin(*_):
        raise PermissionError("no key")
        yield

    @contextlib.contextmanager
    def cannot_end(*_):
        yield lambda values, step: None
        raise ConnectionError("gone")

    for fails, words in ((cannot_begin, "no key"), (cannot_end, "gone")):
        monkeypatch.setattr(trackers, "OPENED", {"tensorboard": fails})
        config = TrainConfig(**settings, report_to=["tensorboard"], overwrite_output_dir=True)
        assert finetune(config) == 0
        assert f"note: tensorboard takes no records, {words}" in capsys.readouterr().out


def test_what_is_missing_or_unknown_is_said_before_the_run(settings, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match=r"pip install 'gpt2ft\[wandb\]'"):
        finetune(TrainConfig(**settings, report_to=["wandb"]))
    with pytest.raises(ValueError, match="--report_to mlflow is none of tensorboard, wandb"):
        TrainConfig(**settings, report_to=["mlflow"]).validate()
    with tracked(["none"], tmp_path, {}, first_step=0) as found:
        assert found == []


def test_what_is_not_finite_is_left_out():
    assert scalars({"step": 1, "loss": None, "n_targets": 5, "skipped": True}) == {
        "train/n_targets": 5.0,
        "train/skipped": 1.0,
    }
