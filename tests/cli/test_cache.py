"""`gpt2ft cache`: pytest tests/cli/test_cache.py"""

import os
import re
import subprocess
import sys
from pathlib import Path

import datasets
import pytest

from gpt2ft import load_corpus
from gpt2ft.cli.cache import _ago, _seconds
from gpt2ft.cli.main import main
from gpt2ft.data import cache
from tests.support.lines import LINES

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A text that was read, through a cache of its own."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    path = tmp_path / "own\x1b.txt"
    path.write_text("".join(LINES) * 20, encoding="utf-8")
    load_corpus(train_file=str(path), validation_split_percentage=0)
    yield path
    cache._let_go(0)


def test_it_shows_and_frees(own, capsys):
    assert main(["cache"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"0\.2 MiB  just now +text +/.*own\\x1b\.txt\n", out) and "\x1b" not in out
    assert "0.2 MiB  in all" in out and f"in {cache.root()}" in out
    assert main(["cache", "--clear"]) == 0
    assert capsys.readouterr().out == (
        "freed 0.0 MiB in 0 entries\nkept 0.2 MiB in 1 entry: a run uses it now\n"
    )
    cache._let_go(0)
    assert main(["cache", "--clear", "--older-than", "1d"]) == 0
    assert capsys.readouterr().out == "freed 0.0 MiB in 0 entries\n"
    assert main(["cache", "--clear"]) == 0
    assert capsys.readouterr().out == "freed 0.2 MiB in 1 entry\n"
    assert main(["cache"]) == 0
    assert capsys.readouterr().out.startswith("     0.0 MiB  in all\n")


def test_times_in_words():
    assert [_seconds(age) for age in ("12h", "30d", "8w")] == [43200, 2592000, 4838400]
    times = {5: "just now", 3600: "1 hour ago", 7300: "2 hours ago", 86400 * 9: "9 days ago"}
    assert {seconds: _ago(seconds) for seconds in times} == times


def test_usage_errors_and_help_load_nothing_heavy():
    code = (
        "import sys; from gpt2ft.cli.main import main\n"
        "try: main(['cache', '--help'])\n"
        "except SystemExit: pass\n"
        "assert main(['cache', '--clear', '--older_than', '3']) == 2\n"
        "assert main(['cache', '--older_than', '3d']) == 2\n"
        "heavy = {'torch', 'datasets', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert b"--older_than is 3, give hours, days or weeks" in done.stderr
    assert b"--older_than is for --clear, give both or none" in done.stderr
