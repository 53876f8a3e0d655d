"""`gpt2ft copies`, and `generate --max_verbatim`: pytest tests/cli/test_copies.py"""

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gpt2ft.cli.main import main
from gpt2ft.config import TrainConfig
from gpt2ft.evaluation.records import SAMPLES
from gpt2ft.run.recipe import SETTINGS_FILE, to_yaml
from tests.support.tiny import PASSAGE, byte_tokenizer, parrot

ROOT = Path(__file__).parent.parent.parent
OTHER = "Of other things nobody speaks here, and whoever reads it does not learn them.\n" * 3
SHORT = ("--max_new_tokens", "40", "--device", "cpu")


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """The folder of a run that has learned its training text by heart."""
    folder, tokenizer = tmp_path_factory.mktemp("run"), byte_tokenizer()
    parrot(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "train.txt").write_text(PASSAGE + "\n", encoding="utf-8")
    (folder / "held-out.txt").write_text(OTHER, encoding="utf-8")
    config = TrainConfig(
        train_file=[str(folder / "train.txt")],
        validation_file=[str(folder / "held-out.txt")],
        output_dir=str(folder),
    )
    (folder / SETTINGS_FILE).write_text(to_yaml(config), encoding="utf-8")
    return folder


@pytest.fixture
def run(learned, tmp_path):
    return shutil.copytree(learned, tmp_path / "run")


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("It was a b\nday in Ap\n", encoding="utf-8")
    return str(path)


def call(capsys, *arguments):
    """Exit status, and what is printed."""
    status = main([*map(str, arguments)])
    return status, *capsys.readouterr()


def test_a_run_that_copies(run, prompts, capsys):
    """Its training text, the held-out text and the tokenizer are those of the run."""
    status, out, _ = call(capsys, "copies", run, "--greedy", "--prompt_file", prompts, *SHORT)
    assert status == 0 and "2 samples, looked for in 76 tokens of training text" in out
    assert "(40 characters) of sample 1, at" in out and "train.txt line 1 character 10:" in out
    assert "repeat longer spans of the training text than held-out text does" in out
    assert f"saved in {run}/copies.json" in out
    saved = json.loads((run / "copies.json").read_text(encoding="utf-8"))
    assert saved["samples"][0]["longest_text"] == PASSAGE[10:50]
    assert saved["samples"][0]["longest_tokens"] == 40 == saved["model"]["largest_longest"]
    assert saved["human"]["largest_longest"] < 10
    assert saved["sampling"]["max_new_tokens"] == 40 and not saved["sampling"]["do_sample"]


def test_a_run_that_may_not(run, prompts, capsys):
    options = ("--greedy", "--max_verbatim", "7", "--json", *SHORT)
    status, out, _ = call(capsys, "copies", run, "--prompt_file", prompts, *options)
    result = json.loads(out)
    assert status == 0 and 0 < result["model"]["largest_longest"] <= 7
    assert result == json.loads((run / "copies.json").read_text(encoding="utf-8"))


def test_prompts_are_of_the_held_out_text(run, capsys):
    """And with the same seed the same."""
    arguments = ("copies", run, "--num_samples", "3", "--json", "--max_new_tokens", "5")
    first, again, other = (
        json.loads(call(capsys, *arguments, "--seed", seed)[1]) for seed in (1, 1, 2)
    )
    assert first == again != other
    assert len(first["samples"]) == 3
    assert all(each["prompt"] and each["prompt"] in OTHER for each in first["samples"])


def test_samples_in_a_file(run, tmp_path, capsys):
    """Of a run, whose text and tokenizer they have; and elsewhere, with those that are named."""
    line = json.dumps({"step": 5, "prompt": "It", "text": PASSAGE[2:20], "seed": 0})
    (run / SAMPLES).write_text(line + "\n", encoding="utf-8")
    status, out, _ = call(capsys, "copies", run / SAMPLES, "--json")
    result = json.loads(out)
    assert status == 0 and result["samples"][0]["longest_text"] == PASSAGE[2:20]
    assert (
        result["sampling"] is None is result["model_sha256"] and not (run / "copies.json").exists()
    )
    text = tmp_path / "text.txt"
    text.write_text("QQ" + PASSAGE[2:20], encoding="utf-8")
    named = ("--train_file", run / "train.txt", "--validation_file", run / "held-out.txt")
    _, out, _ = call(capsys, "copies", text, "--tokenizer_name", run, *named, "--json")
    elsewhere = json.loads(out)
    assert elsewhere["samples"][0]["longest_tokens"] == 18
    assert elsewhere["leakage"] | {"place": 0} == result["leakage"] | {"place": 0}


def test_another_text_to_compare_with(run, capsys):
    """Here the training text itself: it leaks."""
    options = ("--validation_file", run / "train.txt", "--num_samples", "1", *SHORT)
    _, out, _ = call(capsys, "copies", run, *options)
    assert "warning: a span of 75 tokens of the held-out text stands in the training text" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["copies", "gpt2-mini"], "is not the folder of a run: name the training text"),
        (["copies", "x", "--num_samples", "0"], "--num_samples is 0, give a number >= 1"),
        (["copies", __file__, "--train_file", "x"], "there is no tokenizer beside"),
        (
            ["copies", __file__, "--tokenizer_name", "gpt2-mini", "--prompt_file", "x"],
            "--prompt_file is for a model, leave it out",
        ),
        (
            ["generate", "-p", "a", "--model_name_or_path", "gpt2-mini", "--max_verbatim", "5"],
            "--max_verbatim 5 needs the text not to copy, as gpt2-mini is not the folder of a run",
        ),
        (
            ["generate", "-p", "a", "--model_name_or_path", "gpt2-mini", "--corpus", "x.txt"],
            "--corpus is for --max_verbatim",
        ),
    ],
)
def test_what_cannot_be_asked_for(arguments, message, capsys):
    status, out, err = call(capsys, *arguments)
    assert (status, out) == (2, "") and message in err


def test_nothing_held_out_and_no_prompts(run, capsys):
    options = ("--train_file", run / "train.txt", "--validation_split_percentage", "0")
    status, _, err = call(capsys, "copies", run, *options)
    assert status == 1 and "no held-out text to draw prompts from" in err


def written(capsys, *arguments):
    status, out, _ = call(capsys, "generate", "--greedy", "--json", *SHORT, *arguments)
    assert status == 0
    return [json.loads(line)["text"] for line in out.splitlines()]


def test_generate_copies_no_more_than_it_may(run, prompts, capsys):
    """By default from the training text of the run; from files that are named, from these."""
    of = ("--model_name_or_path", run, "--prompt_file", prompts)
    free = written(capsys, *of)
    assert free[0] == PASSAGE[10:50]
    limited = written(capsys, *of, "--max_verbatim", "12")
    named = written(capsys, *of, "--max_verbatim", "12", "--corpus", run / "train.txt")
    assert limited == named != free and not any(text in PASSAGE for text in limited)
    assert written(capsys, *of, "--max_verbatim", "12", "--corpus", run / "held-out.txt") == free


def test_in_the_terminal_too(run, capsys, monkeypatch):
    """A text as it is typed, a setting, another model."""
    lines = ["It was a b", f"/load {run}", "/retry", "/compare " + str(run), "/set max_verbatim 0"]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join([*lines, "/retry"]) + "\n"))
    options = ("--greedy", "--max_verbatim", "12", *SHORT)
    status, out, _ = call(capsys, "generate", "-i", "--model_name_or_path", run, *options)
    before, after = out.split("max_verbatim = 0")
    assert status == 0 and PASSAGE[:50] in after and PASSAGE[:30] not in before


def test_help_and_usage_errors_load_nothing_heavy():
    code = (
        "import sys; from gpt2ft.cli.main import main\n"
        "try: main(['copies', '--help'])\n"
        "except SystemExit: pass\n"
        "assert main(['copies', 'gpt2-mini']) == 2\n"
        "heavy = {'torch', 'datasets', 'numpy', 'pydivsufsort'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert b"MODEL|SAMPLES" in done.stdout and b"--max_verbatim" in done.stdout


def test_a_run_from_its_training_to_its_copies(model_folder, tmp_path, capsys):
    """Rows of a table, of which some are held out; the hash is that of the weights."""
    lines = [json.dumps({"text": f"row {i}: {PASSAGE} \x9b\u202e"}) for i in range(40)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    run = tmp_path / "out"
    options = ("--train_file", tmp_path / "rows.jsonl", "--max_steps", "2", "--device", "cpu")
    train = ("train", "--model_name_or_path", model_folder, "--output_dir", run, *options)
    assert call(capsys, *train)[0] == 0
    status, out, _ = call(capsys, "copies", run, "--num_samples", "2", "--json", *SHORT)
    result = json.loads(out)
    assert status == 0 and result["leakage"]["longest_text"].endswith(f": {PASSAGE} \x9b\u202e")
    assert result["leakage"]["place"].startswith("row ")
    weights = (run / "model.safetensors").read_bytes()
    assert result["model_sha256"] == hashlib.sha256(weights).hexdigest()
    shown = call(capsys, "copies", run, "--num_samples", "2", *SHORT)[1]
    assert "\\x9b\\u202e" in shown and "\x9b" not in shown
    assert "warning: a span of 8" in shown
