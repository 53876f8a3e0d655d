"""pytest tests/evaluation/test_compare.py"""

import json

import numpy as np
import pytest

from gpt2ft.evaluation.compare import Comparison
from gpt2ft.evaluation.records import append_records
from gpt2ft.evaluation.run_folder import read_run_folder


def run(folder, loss, *, seed, units=40, text="abc", spread=0.05):
    """A run whose best evaluation has losses around that one."""
    folder.mkdir()
    drawn = np.random.default_rng(seed).normal(loss, spread, units)
    parts = {"kind": "blocks", "losses": (drawn * 100).tolist()}
    parts |= {"n_targets": [100] * units, "n_bytes": [300] * units}
    record = {"step": 2, "eval_loss": float(drawn.mean()), "eval_perplexity": 9.0}
    record |= {"n_targets": 100 * units, "accuracy": 0.3, "n_bytes": 1, "units": parts}
    step = {"step": 1, "loss": 3.0, "learning_rate": 0.1, "grad_norm": 1.0, "n_targets": 50}
    append_records(folder / "metrics.jsonl", step, {**record, "step": 0, "eval_loss": 9.0}, record)
    (folder / "run.json").write_text(json.dumps({"data": {"held_out": text}}))
    return read_run_folder(folder)


def test_a_difference_is_said_with_its_interval(tmp_path):
    runs = [
        run(tmp_path / "first", 3.0, seed=1),
        run(tmp_path / "lower", 2.8, seed=2),
        run(tmp_path / "same", 3.0, seed=3),
        run(tmp_path / "elsewhere", 1.0, seed=4, text="def"),
    ]
    found = Comparison(runs, {"learning_rate": [0.1, 0.2, 0.1, 0.1]})
    assert found.conclusions() == [
        "lower is better than first",
        "same and first: no difference that this text can show",
        "elsewhere cannot be compared with first: they were not evaluated on the same text, cut in "
        "the same way, or it has fewer than 10 parts",
    ]
    interval = found.difference(runs[1])
    assert interval.low < -0.2 < interval.high < 0
    shown = found.text()
    for words in ("learning_rate", "best held-out loss", "unknown", "lower is better"):
        assert words in shown
    numbers = json.loads(json.dumps(found.as_json()))
    assert [r["best_step"] for r in numbers["runs"]] == [2] * 4
    assert numbers["runs"][1]["difference"]["low"] == pytest.approx(interval.low)
    assert numbers["runs"][0]["difference"] is None is numbers["runs"][3]["difference"]


def test_columns_stay_apart(tmp_path):
    runs = [run(tmp_path / ("a long name of a run " * 2 + str(i)), 3.0, seed=i) for i in range(3)]
    settings = {"train_file": [["/somewhere/" * 9 + "x.txt"]] * 3}
    lines = Comparison(runs, settings).text().splitlines()
    assert len({len(line) for line in lines[: lines.index("")]}) == 1
