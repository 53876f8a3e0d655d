"""pytest tests/cli/test_push.py"""

import pytest

from gpt2ft.cli import push
from gpt2ft.cli.main import main


@pytest.fixture
def folder(tmp_path):
    """What looks like the folder of a finished run."""
    for name in ("config.yaml", "manifest.json", "config.json", "model.safetensors"):
        (tmp_path / name).write_text("")
    return tmp_path


def test_the_licence_is_asked_for(folder, monkeypatch, capsys):
    monkeypatch.setattr(push.sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: "My Own!")
    assert main(["push", str(folder), "ann/m"]) == 2
    shown = capsys.readouterr()
    assert "Under which licence may others use the model?" in shown.out
    assert "--license My Own! is none" in shown.err


def test_where_nobody_can_type_it_must_be_given(folder, monkeypatch, capsys):
    monkeypatch.setattr(push.sys.stdin, "isatty", lambda: False, raising=False)
    assert main(["push", str(folder), "ann/m"]) == 2
    assert "give --license, for example one of mit, apache-2.0" in capsys.readouterr().err


def test_only_a_finished_run_is_sent(folder, tmp_path, capsys):
    (folder / "model.safetensors").unlink()
    assert main(["push", str(folder), "ann/m", "--license", "mit"]) == 2
    assert f"the run in {folder} has not finished: go on with it" in capsys.readouterr().err
    assert main(["push", str(tmp_path / "none"), "ann/m"]) == 2
    assert "is not the output folder of a run" in capsys.readouterr().err
