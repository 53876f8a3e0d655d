"""`gpt2ft pilot`: pytest tests/cli/test_pilot.py"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from gpt2ft.cli.main import main, make_parser
from gpt2ft.cli.run_settings import train_config
from tests.support.lines import LINES

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def flags(model_folder, tmp_path):
    """Of a run whose paths have spaces."""
    text = tmp_path / "own text.txt"
    text.write_text("".join(LINES), encoding="utf-8")
    options = "--block_size 32 --validation_split_percentage 30 --max_steps 4 --device cpu"
    return [
        *("--model_name_or_path", str(model_folder), "--train_file", str(text)),
        *("--output_dir", str(tmp_path / "my out"), "--precision", "fp32", *options.split()),
    ]


def test_the_command_that_it_shows_is_the_run(flags, tmp_path, capsys):
    """With the rate, and nothing of the pilot."""
    pilot = ["pilot", *flags, "--pilot-steps", "2", "--pilot_rates", "3"]
    assert main([*pilot, "--learning_rate", "1e-3"]) == 0
    shown = capsys.readouterr().out
    python, script, *arguments = shlex.split(shown.splitlines()[-1])
    assert (python, script) == ("python", "train.py")
    asked = vars(make_parser().parse_args(["train", *arguments]))
    given = vars(make_parser().parse_args(["train", *flags]))
    for each in (asked, given):
        del each["command"], each["configuration"]
    rate = asked.pop("learning_rate")
    assert train_config(asked) == train_config(given)
    assert re.search(rf"learning rate {rate:g}: ", shown)
    assert not (tmp_path / "my out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--pilot_steps", "0"], "--pilot_steps is 0, give a number >= 1"),
        (["--pilot_rates", "2"], "--pilot_rates is 2, give a number from 3 to 9"),
        (["--resume"], "--resume is for train, leave it out"),
        (["--fork", "x", "--step", "3"], "--fork is for train, leave it out"),
        (["--learning_rate", "-1", "--train_file", "x"], "--learning_rate is -1.0, give a number"),
    ],
)
def test_what_cannot_be_asked_for(arguments, message, capsys):
    assert main(["pilot", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_help_and_usage_errors_load_nothing_heavy():
    code = (
        "import sys; from gpt2ft.cli.main import main\n"
        "try: main(['pilot', '--help'])\n"
        "except SystemExit: pass\n"
        "assert main(['pilot', '--pilot_rates', '1']) == 2\n"
        "heavy = {'torch', 'datasets', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert b"--pilot_steps" in done.stdout and b"--fork" not in done.stdout
