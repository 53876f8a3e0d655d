"""Runs on a corpus that is streamed: pytest tests/run/test_texts.py"""

import hashlib
import json
import shutil

import pytest

from gpt2ft.checkpoint.folders import find_checkpoint
from gpt2ft.config import TrainConfig
from gpt2ft.run.finetune import finetune


@pytest.fixture
def settings(model_folder, tmp_path):
    """Six files, two at once; a pass has some 30 micro-batches of packed blocks."""
    for number in range(6):
        lines = [f"file {number} has a line {n}, and more words" for n in range(20 + number)]
        (tmp_path / f"part-{number}.txt").write_text("\n".join(lines), encoding="utf-8")
    return {
        "model_name_or_path": str(model_folder),
        "train_file": [str(tmp_path / "part-*.txt")],
        "streaming": True,
        "files_at_once": 2,
        "validation_split_percentage": 10.0,
        "block_size": 32,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "max_steps": 24,
        "save_steps": 9,
        "eval_steps": 10,
        "precision": "fp32",
        "output_dir": str(tmp_path / "out"),
    }


def results(output_dir):
    files = (output_dir / "model.safetensors", find_checkpoint(output_dir)[0] / "model.safetensors")
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]


def undone(out):
    """The folder as it was before its last step was made."""
    shutil.rmtree(out / "checkpoint-24")
    (out / "manifest.json").unlink()


def test_a_run_that_is_resumed_ends_the_same(settings, tmp_path, capsys):
    """With what was noted of the files, without it, and in another folder."""
    assert finetune(TrainConfig(**settings)) == 0
    assert "5 files, read in turn, to train on and" in capsys.readouterr().out
    out = tmp_path / "out"
    expected = results(out)
    notes = json.loads((out / "shards.json").read_text())
    assert len(notes) == 5
    for lost in (False, True):
        undone(out)
        if lost:
            (out / "shards.json").unlink()
        assert finetune(TrainConfig(**settings, resume="newest")) == 0
        assert results(out) == expected
    elsewhere = {**settings, "output_dir": str(tmp_path / "other")}
    assert finetune(TrainConfig(**elsewhere, resume=str(out / "checkpoint-18"))) == 0
    assert results(tmp_path / "other") == expected
    other_seed = {**settings, "output_dir": str(tmp_path / "seed"), "seed": 1}
    assert finetune(TrainConfig(**other_seed)) == 0
    assert results(tmp_path / "seed") != expected


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"files_at_once": 3}, "files_at_once"),
        ({"streaming": False}, "streaming"),
        ({"another file": True}, "the tokens of the corpus are others"),
    ],
)
def test_resuming_with_another_order_is_refused(change, sentence, settings, tmp_path):
    assert finetune(TrainConfig(**{**settings, "max_steps": 2})) == 0
    if "another file" in change:
        (tmp_path / "part-7.txt").write_text("more words\n" * 20, encoding="utf-8")
        change = {}
    with pytest.raises(ValueError, match=sentence):
        finetune(TrainConfig(**{**settings, **change}, resume="newest"))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"max_steps": None}, "--streaming needs --max_steps"),
        ({"max_train_samples": 5}, "excludes --max_train_samples"),
        ({"files_at_once": 0}, "--files_at_once"),
    ],
)
def test_what_a_stream_needs(change, sentence, settings, tmp_path):
    with pytest.raises(ValueError, match=sentence):
        finetune(TrainConfig(**{**settings, **change}))
    assert not (tmp_path / "out").exists()


def test_a_new_model_gets_a_tokenizer_of_the_first_file(settings, tmp_path):
    settings |= {"model_name_or_path": None, "model_type": "gpt2", "max_steps": 2}
    settings["config_overrides"] = "n_layer=1,n_embd=16,n_head=2,vocab_size=300"
    assert finetune(TrainConfig(**settings)) == 0
    assert (tmp_path / "out" / "tokenizer.json").exists()


def test_rows(settings, tmp_path):
    assert finetune(TrainConfig(**settings, packing=False)) == 0
    assert len(json.loads((tmp_path / "out" / "shards.json").read_text())) == 5
