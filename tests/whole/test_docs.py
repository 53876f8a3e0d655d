"""The pages keep their word: pytest tests/whole/test_docs.py"""

import dataclasses
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import transformers
import yaml

from gpt2ft.cli.flags import trainer_flags
from gpt2ft.cli.main import make_parser
from gpt2ft.config import TrainConfig
from gpt2ft.run.recipe import RECIPES

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in DOCS.rglob("*.md"))
TRAINER = "docs/from-the-trainer.md"
TEXT = "It was the best of times, it was the worst of times.\n" * 400


def read(page):
    return (ROOT / page).read_text(encoding="utf-8")


def test_they_build_and_no_link_of_theirs_is_broken(tmp_path):
    """Also that every line of the code they show is where they look for it."""
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", DOCS, tmp_path / "html"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    html = (tmp_path / "html" / "reference.html").read_text(encoding="utf-8")
    assert "One optimizer step over micro-batches" in html
    for page in PAGES:
        assert (tmp_path / "html" / page.removeprefix("docs/")).with_suffix(".html").is_file()


@pytest.mark.parametrize("page", [page for page in PAGES if "```python" in read(page)])
def test_the_python_runs_as_it_stands(page, tmp_path, monkeypatch, capsys):
    """In one go, where my.txt is a text."""
    (tmp_path / "my.txt").write_text(TEXT, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", read(page), flags=re.DOTALL):
        exec(block, names)  # noqa: S102 - our own pages
    assert capsys.readouterr().out or "print(" not in read(page)


def test_the_step_by_hand_is_the_step(tmp_path, monkeypatch, capsys):
    """In fp32, where nothing but the order of sums is between them."""
    monkeypatch.setattr("gpt2ft.precision.cpu_multiplies_bf16", lambda: False)
    (tmp_path / "my.txt").write_text(TEXT, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", read("docs/tutorial.md"), flags=re.DOTALL)
    names: dict[str, object] = {}
    for block in blocks[:-1]:
        exec(block, names)  # noqa: S102
        if "result =" in block:
            after = [p.detach().clone() for p in names["model"].parameters()]
    assert abs(names["loss"].item() - names["result"].loss.item()) < 1e-5
    # AdamW's first step moves a weight by the learning rate, wherever its gradient has a sign.
    moved = [
        ((a - b).norm() / 1e-3, a.numel() ** 0.5)
        for a, b in zip(after, names["plain"].parameters(), strict=True)
    ]
    assert all(distance < 0.1 * most for distance, most in moved)


@pytest.mark.parametrize("page", ["README.md", "gpt2ft/models/gpt2-mini/README.md", *PAGES])
def test_every_command_is_understood(page):
    commands = re.findall(r"(?:python |gpt2ft )(train|generate)(?:\.py)? ?([^\n`&>]*)", read(page))
    assert commands or page not in ("README.md", "docs/how-to/own-text.md")
    for script, arguments in commands:
        if "--help" not in arguments and "..." not in arguments:
            make_parser().parse_args([script, *shlex.split(arguments)])


def test_every_name_of_the_trainer_stands_beside_ours():
    """With the sentence that the program answers it with, where it is no flag of ours."""
    rows = re.findall(r"^\| `(\w+)` \| (?:`(\w+)`|-) \| (.*?) ?\|$", read(TRAINER), flags=re.M)
    theirs = [row[0] for row in rows]
    arguments = {field.name for field in dataclasses.fields(transformers.TrainingArguments)}
    assert len(theirs) == len(set(theirs)) and set(theirs) >= arguments
    ours = {field.name for field in dataclasses.fields(TrainConfig)} | {"fp16", "bf16"}
    accepted = {*ours, "resume_from_checkpoint"}
    assert {row[1] for row in rows if row[1]} <= ours
    assert {name: text for name, _, text in rows if name not in accepted} == trainer_flags()


def test_every_example_is_shown():
    shown = re.findall(r"examples/(\w+)\.py\n:language", read("docs/how-to/own-loop.md"))
    assert sorted(shown) == sorted(path.stem for path in (ROOT / "examples").glob("*.py"))


def test_every_public_name_is_in_the_reference():
    import gpt2ft

    names = re.findall(r":: gpt2ft\.(\w+)$", read("docs/reference.md"), flags=re.M)
    assert sorted(names) == gpt2ft.__all__


def test_the_table_of_recipes_is_that_of_the_recipes():
    table = re.search(r"\| setting \|.*", read("docs/recipes.md"), flags=re.DOTALL)[0]
    header, _, *rows = [
        [cell.strip().strip("`") for cell in line.strip("|").split("|")]
        for line in table.strip().splitlines()
    ]
    for column, name in enumerate(header[1:], 1):
        recipe = yaml.safe_load((RECIPES / f"{name}.yaml").read_text(encoding="utf-8"))
        shown = {row[0]: row[column] for row in rows if row[column]}
        assert shown == {key: str(value) for key, value in recipe.items()}
