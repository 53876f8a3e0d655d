"""pytest tests/run/test_reproduce.py"""

import json
import math

import pytest

from gpt2ft.config import TrainConfig
from gpt2ft.run.finetune import finetune
from gpt2ft.run.reproduce import RecordComparison, differences, reproduce
from gpt2ft.system.signals import Stop


@pytest.fixture
def done(settings, tmp_path):
    assert finetune(TrainConfig(**settings, eval_steps=4)) == 0
    return tmp_path / "out"


def again(settings, tmp_path, **changes):
    changes = {"output_dir": str(tmp_path / "again"), "eval_steps": 4, **changes}
    return TrainConfig(**{**settings, **changes})


def test_a_run_made_again_is_the_same(done, settings, tmp_path, capsys):
    assert reproduce(done, again(settings, tmp_path), stop=Stop()) == 0
    shown = capsys.readouterr().out
    assert "12 steps are the same" in shown and "the finished weights are the same" in shown
    first, second = ((p / "model.safetensors").read_bytes() for p in (done, tmp_path / "again"))
    assert first == second


def test_where_two_runs_part_is_said_while_they_run(done, settings, tmp_path, capsys):
    config = again(settings, tmp_path, seed=43, threads=2)
    path = done / "run.json"
    facts = json.loads(path.read_text())
    facts["versions"]["torch"] = "2.12.0"
    path.write_text(json.dumps(facts))
    assert reproduce(done, config, stop=Stop()) == 1
    shown = capsys.readouterr().out
    assert shown.count("the runs part at step 1: loss ") == 2  # at once, and at the end
    assert shown.index("the runs part at step 1") < shown.index("step      5/12")
    assert "versions torch: 2.12.0 then" in shown and "weights are NOT the same" in shown


def test_what_is_not_finite_is_recorded_as_null():
    """As the first overflow of fp16 is."""
    comparison = RecordComparison([{"step": 1, "loss": None, "grad_norm": None}])
    comparison([{"step": 1, "loss": math.nan, "grad_norm": math.inf}])
    assert "1 steps are the same" in comparison.verdict({}, {})
    assert not comparison.same({}, {})  # there are no weights to compare


def test_what_differs_is_named():
    then = {"threads": 2, "machine": {"cores": 2, "device": "cpu"}, "resumed": [{"step": 5}]}
    now = {"threads": 4, "machine": {"cores": 8, "device": "cpu"}}
    assert differences(then, now) == [
        *("machine cores: 2 then, 8 now", "threads: 2 then, 4 now"),
        "the run was resumed at step 5",
    ]


def test_a_folder_without_records(settings, tmp_path):
    with pytest.raises(ValueError, match="has no records of steps"):
        reproduce(tmp_path, again(settings, tmp_path), stop=Stop())
