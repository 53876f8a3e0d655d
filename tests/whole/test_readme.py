"""The README keeps its word: pytest tests/whole/test_readme.py"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import transformers

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_python_runs_as_it_stands(model_folder, tmp_path, monkeypatch, capsys):
    """Where `gpt2` is a folder of the hub's form, and my.txt a text."""
    model_folder.rename(tmp_path / "gpt2")
    (tmp_path / "my.txt").write_text("a line of text, and then another\n" * 300, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    texts, ten_lines, body = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    names: dict[str, object] = {}
    exec(texts, names)  # noqa: S102 - our own README
    written = capsys.readouterr().out
    assert written.startswith("Once upon") and "\nThe end" in written and len(written) > 60
    exec(ten_lines, names)  # noqa: S102
    steps = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [step for step, _ in steps] == ["10", "20"]
    assert float(steps[1][1]) < float(steps[0][1])
    transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "my-model")

    exec(body, names)  # noqa: S102
    perplexity, *text = capsys.readouterr().out.splitlines()
    assert 1 < float(perplexity) < 257 and text
    (go_back,) = re.findall(r"`(path, _ = .*?)`, `(.*?)`", README)
    exec("\n".join(go_back), names)  # noqa: S102
    assert names["state"].step == 20


def test_a_newcomer_gets_to_a_model_of_their_own_text(tmp_path):
    """In a fresh checkout without the hub, by what "Your own text" says alone."""
    checkout = tmp_path / "gpt2ft"
    shutil.copytree(ROOT, checkout, ignore=shutil.ignore_patterns(".*", "__pycache__", "build"))
    pages = [README, *(path.read_text(encoding="utf-8") for path in ROOT.glob("docs/**/*.md"))]
    (checkout / "my.txt").write_text("\n\n".join(pages), encoding="utf-8")
    section = README.split("## Your own text")[1].split("\n## ")[0]
    train, generate = re.search(r"```\n(.*?)```", section, flags=re.DOTALL)[1].splitlines()
    without_hub = re.search(r"add `(.*?)`", section)[1]

    def type_in(command, text=""):
        python, *arguments = shlex.split(command)
        assert python == "python"
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=checkout,
            input=text,
            capture_output=True,
            text=True,
            env={**os.environ, "HF_HOME": str(tmp_path / "cache")},
        )

    trained = type_in(f"{train} {without_hub}")
    assert trained.returncode == 0, trained.stderr
    before, after = re.search(r"^perplexity +([\d,.]+) +([\d,.]+)$", trained.stdout, re.M).groups()
    assert float(after.replace(",", "")) < float(before.replace(",", "")) / 1.5
    written = type_in(generate, "The loop is\n")
    assert written.returncode == 0, written.stderr
    assert written.stdout.startswith("The loop is") and len(written.stdout) > 40


def test_every_room_is_in_the_plan_and_every_room_of_the_plan_is_there():
    paths = [path for path in (ROOT / "gpt2ft").iterdir() if not path.name.startswith("__")]
    rooms = {f"{p.name}/" for p in paths if p.is_dir()} | {p.name for p in paths if p.is_file()}
    table = README.split("| in `gpt2ft/` | what is in it |")[1].split("\n\n")[0]
    named = re.findall(
        r"`([\w.]+/?)`", "\n".join(row.split("|")[1] for row in table.split("\n")[2:])
    )
    assert set(named) - {"__main__.py"} == rooms - {"py.typed"}


def test_every_public_name_is_there():
    import gpt2ft

    for name in gpt2ft.__all__:
        assert getattr(gpt2ft, name).__doc__


def test_the_public_names_are_those_that_editors_and_type_checkers_see():
    import ast

    import gpt2ft

    tree = ast.parse((ROOT / "gpt2ft" / "__init__.pyi").read_text(encoding="utf-8"))
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    seen = {(node.module, alias.asname) for node in imports for alias in node.names}
    assert seen == {(module, n) for module, names in gpt2ft.MODULES.items() for n in names}
    assert set(gpt2ft.__all__) < set(dir(gpt2ft))


def test_no_link_is_broken():
    links = re.findall(r"\]\((?!http)([^)#]+)", README)
    assert len(links) > 5
    for link in links:
        assert (ROOT / link).exists(), link


def test_nothing_was_left_to_fill_in():
    for name in ("README.md", "benchmarks/RESULTS.md", "CHANGELOG.md"):
        assert "@@" not in (ROOT / name).read_text(encoding="utf-8")
