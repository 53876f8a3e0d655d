"""The same bits on several numbers of processes: pytest tests/run/test_verify_processes.py"""

import json
from pathlib import Path

import pytest
import yaml

from benchmarks.faults.processes import run
from gpt2ft.config import TrainConfig
from gpt2ft.run import verify_processes as verifying


@pytest.fixture
def config(model_folder, tmp_path):
    (tmp_path / "own.txt").write_text("a line of text, and another one\n" * 60, encoding="utf-8")
    return TrainConfig(model_name_or_path=str(model_folder), train_file=[str(tmp_path / "own.txt")])


def trainer(result):
    """A stand-in for a run, whose checkpoints hold what `result(n_processes, settings)` says."""

    def train(n_processes, *flags):
        given = dict(zip(flags[::2], [*flags[1::2], None], strict=False))
        out = Path(given["--output_dir"])
        if "--config" in given:
            out.mkdir()
            (out / "config.yaml").write_text(Path(given["--config"]).read_text())
        settings = yaml.safe_load((out / "config.yaml").read_text())
        assert settings["micro_batches_per_step"] == 2 and settings["max_steps"] == 6
        for step in (3, 6):
            checkpoint = out / f"checkpoint-{step}"
            checkpoint.mkdir(exist_ok=True)
            for name in verifying.COMPARED:
                (checkpoint / name).write_text(json.dumps([step, result(n_processes, flags)]))

    return train


def test_equal_runs_are_equal_and_others_are_not(config, monkeypatch, capsys):
    monkeypatch.setattr(verifying, "_train", trainer(lambda n, flags: 0))
    assert verifying.verify_processes(config, counts=[1, 2]) == 0
    out = capsys.readouterr().out
    assert out.count("sha256") == 4 and "2 processes, resumed on 1" in out
    assert out.endswith("all weights and moments are equal\n")
    for differs in (lambda n, flags: n, lambda n, flags: "--resume" in flags):
        monkeypatch.setattr(verifying, "_train", trainer(differs))
        assert verifying.verify_processes(config, counts=[1, 2]) == 1
        assert capsys.readouterr().out.endswith("are NOT equal\n")


def test_a_run_that_fails_says_why(config):
    config.train_file = ["missing.txt"]
    with pytest.raises(ValueError, match="the run on 1 process failed: gpt2ft: error: no file"):
        verifying.verify_processes(config, counts=[1, 2])


@pytest.mark.slow
def test_it_is_so(config, tmp_path):
    flags = ("--model_name_or_path", config.model_name_or_path, "--train_file", "own.txt")
    flags += ("--block_size", "32", "--precision", "fp32", "--processes", "1,2,3", "--steps", "2")
    done = run("gpt2ft", "verify-resume", *flags, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "4 steps of 6 micro-batches" in done.stdout
    assert "all weights and moments are equal" in done.stdout


@pytest.mark.parametrize("given", ["2", "1,x", "0,1", "", "2,2"])
def test_numbers_that_make_no_sense(given, tmp_path):
    done = run("gpt2ft", "verify-resume", "--processes", given, cwd=tmp_path)
    assert done.returncode == 2
    assert "give at least two numbers, such as 1,2" in done.stderr
