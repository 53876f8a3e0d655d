"""The README keeps its word: pytest tests/test_readme.py"""

import re
import shlex
from pathlib import Path

import transformers
import yaml

from gpt2ft.config import GenerateConfig, TrainConfig
from gpt2ft.flags import make_parser
from gpt2ft.recipe import RECIPES

ROOT = Path(__file__).parent.parent
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


def test_every_command_is_understood():
    commands = re.findall(r"python (train|generate)\.py ?([^\n`&>]*)", README)
    assert len(commands) >= 6
    for script, arguments in commands:
        kind = TrainConfig if script == "train" else GenerateConfig
        if "--help" not in arguments and "..." not in arguments:
            make_parser(kind, script).parse_args(shlex.split(arguments))


def test_the_table_of_recipes_is_that_of_the_recipes():
    table = re.search(r"\| setting \|.*?\n\n", README, flags=re.DOTALL)[0]
    header, _, *rows = [
        [cell.strip().strip("`") for cell in line.strip("|").split("|")]
        for line in table.strip().splitlines()
    ]
    for column, name in enumerate(header[1:], 1):
        recipe = yaml.safe_load((RECIPES / f"{name}.yaml").read_text(encoding="utf-8"))
        shown = {row[0]: row[column] for row in rows if row[column]}
        assert shown == {key: str(value) for key, value in recipe.items()}


def test_every_room_is_in_the_plan_and_every_room_of_the_plan_is_there():
    rooms = {path.name for path in (ROOT / "gpt2ft").glob("*.py")} - {"__init__.py"}
    table = README.split("| file | what is in it |")[1].split("\n\n")[0]
    assert set(re.findall(r"`(\w+\.py)`", table)) == rooms


def test_every_public_name_is_there():
    import gpt2ft

    for name in gpt2ft.__all__:
        assert getattr(gpt2ft, name).__doc__


def test_the_public_names_are_those_that_type_checkers_see():
    import ast

    import gpt2ft

    tree = ast.parse((ROOT / "gpt2ft" / "__init__.py").read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    assert sorted(node.names[0].asname for node in block.body) == gpt2ft.__all__


def test_nothing_was_left_to_fill_in():
    for name in ("README.md", "benchmarks/RESULTS.md", "CHANGELOG.md"):
        assert "@@" not in (ROOT / name).read_text(encoding="utf-8")
