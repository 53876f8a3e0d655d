"""pytest tests/run/test_forecast.py"""

import json

import pytest

from gpt2ft.config import TrainConfig
from gpt2ft.run.build import build
from gpt2ft.run.finetune import finetune
from gpt2ft.run.forecast import about_data, about_disk, dry_run, first_batch, forecast
from gpt2ft.system.signals import Stop


def test_a_dry_run_says_what_the_run_takes_and_keeps_nothing(settings, tmp_path, capsys):
    before = sorted(tmp_path.rglob("*"))
    assert dry_run(TrainConfig(**settings, dry_run=True), stop=Stop()) == 0
    assert sorted(tmp_path.rglob("*")) == before
    shown = capsys.readouterr().out
    for word in (
        "run    12 steps",
        "1 document,",
        "0 tokens left out",
        "s a step",
        "checkpoints of",
    ):
        assert word in shown, word
    assert "█▇" in shown and "nothing was kept" in shown


def test_the_same_as_json(settings, capsys):
    assert dry_run(TrainConfig(**settings, dry_run=True, json=True), stop=Stop()) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["steps"] == 12 and facts["learning_rate"][0] == 3e-3
    assert facts["seconds"]["all"] == pytest.approx(
        12 * facts["seconds"]["step"]
        + 2 * (facts["seconds"]["evaluation"] + facts["seconds"]["samples"])
    )
    assert facts["peak_memory_bytes"] > 2**26


def test_the_forecast_of_disk_is_what_the_run_writes(settings, tmp_path):
    run = build(TrainConfig(**settings))
    expected = about_disk(run)
    assert finetune(TrainConfig(**settings)) == 0
    files = (tmp_path / "out" / "checkpoint-12").iterdir()
    size = sum(path.stat().st_size for path in files)
    # The tokenizer and JSON files come on top: of a model this small they are a part that counts.
    small = sum(p.stat().st_size for p in (tmp_path / "out" / "checkpoint-12").glob("*.json"))
    assert expected["checkpoint"] == pytest.approx(size - small, rel=0.1)
    assert expected["checkpoints_at_once"] == 3
    facts = json.loads((tmp_path / "out" / "run.json").read_text())["forecast"]
    assert facts["checkpoint_bytes"] == {"expected": expected["checkpoint"], "actual": size}
    assert 0 < facts["seconds"]["expected"] < 60 > facts["seconds"]["actual"] > 0


def test_observations_are_counted(settings):
    run = build(TrainConfig(**settings, eval_steps=4, sample_steps=5))
    found = forecast(run, 1.0, 10.0, 100.0)
    assert found == {"steps": 12, "observing": 4 * 10 + 4 * 100, "all": 12 + 440}


@pytest.mark.parametrize("packing", [True, False])
def test_what_is_left_out_and_what_is_learned(packing, settings):
    config = TrainConfig(**{**settings, "packing": packing, "block_size": 16})
    run = build(config)
    facts = about_data(run)
    if packing:
        assert facts["tokens_left_out"] == 0 and facts["fill"] == 1.0
    else:  # a line has about 30 characters, and an end
        assert facts["tokens_left_out"] == facts["documents"] * 16 + sum(
            len(line) - 32 for line in _trained_on(run)
        )
    (first, *_), _ = first_batch(run)
    assert first == {"learned": False, "text": first["text"]} and len(first["text"]) == 1


def _trained_on(run):
    store = run.data.samples._store
    sizes = (store.offsets[1:] - store.offsets[:-1]).tolist()
    return ["x" * size for size in sizes]
