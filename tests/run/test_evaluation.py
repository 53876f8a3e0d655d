"""`gpt2ft evaluate`, in this process: pytest tests/run/test_evaluation.py"""

import json
import shutil

import pytest

from gpt2ft.cli.main import main
from gpt2ft.config import TrainConfig
from gpt2ft.run.finetune import finetune
from tests.support.lines import LINES


@pytest.fixture
def done(settings, tmp_path):
    assert finetune(TrainConfig(**settings, eval_steps=4)) == 0
    return tmp_path / "out"


def evaluated(capsys, *arguments):
    capsys.readouterr()
    status = main(["evaluate", *map(str, arguments), "--precision", "fp32"])
    return status, capsys.readouterr()


def test_a_run_is_evaluated_as_it_was_at_its_end(done, model_folder, capsys):
    """With the text that it held out; against the model that it began with, it is the same card."""
    status, shown = evaluated(capsys, done, "--baseline", model_folder, "--json")
    assert (status, shown.err) == (0, "")
    card, own = json.loads(shown.out), json.loads((done / "card.json").read_text())
    for name in ("model", "baseline", "difference"):
        assert card[name] == pytest.approx(own[name], rel=1e-6), name
    assert (card["protocol"], card["units"]) == (own["protocol"], own["units"])
    assert card["text"].endswith(f"own.txt, what the run in {done} held out")
    status, shown = evaluated(capsys, done / "checkpoint-8", "--markdown")
    assert status == 0 and "blocked, 32 tokens, documents apart" in shown.out
    assert shown.out.startswith("| held-out text | model |")


def test_another_text_another_protocol(done, tmp_path, capsys):
    (tmp_path / "other.txt").write_text("".join(LINES[:40]))
    flags = (done, "--validation_file", tmp_path / "other.txt")
    status, shown = evaluated(capsys, *flags, "--protocol", "sliding", "--stride", "8")
    assert status == 0 and "sliding, window 32 tokens, stride 8" in shown.out
    assert f"text   {tmp_path / 'other.txt'}\n" in shown.out
    status, shown = evaluated(capsys, *flags, "--max_eval_samples", "2", "--block_size", "16")
    assert status == 0 and "\n30 tokens, 30 bytes; blocked, 16 tokens" in shown.out


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--stride", "8"], "--stride 8 is for --protocol sliding"),
        (["--protocol", "sliding", "--max_eval_samples", "9"], "is for --protocol blocked"),
        (["--json", "--markdown"], "exclude each other"),
        (["--validation_file", "a", "--dataset_name", "b"], "exclude each other"),
    ],
)
def test_what_makes_no_sense(flags, sentence, capsys):
    status, shown = evaluated(capsys, "any-model", *flags)
    assert status == 2 and sentence in shown.err and shown.err.count("\n") == 1


def test_what_does_not_fit_the_model(done, capsys):
    status, shown = evaluated(capsys, done, "--protocol", "sliding", "--stride", "99")
    assert status == 1 and "--stride is 99, give a number >= 1 and <= the window, 32" in shown.err
    status, shown = evaluated(capsys, done, "--block_size", "999")
    assert status == 1 and "block_size" in shown.err


def test_a_model_without_a_run_needs_a_text(model_folder, done, capsys):
    status, shown = evaluated(capsys, model_folder)
    assert status == 1 and "no text, name --validation_file or --dataset_name" in shown.err
    shutil.rmtree(done / "checkpoint-12")
    status, shown = evaluated(capsys, done / "none")
    assert status == 1
