"""The plan of the house, from the imports: pytest tests/whole/test_architecture.py

README.md has the plan as a table, under "The loop is yours".
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PACKAGE = ROOT / "gpt2ft"
LONGEST = 300  # lines: what grows past it is two rooms

# Each part of the package, and what it may import of the others. `models.probe` is one file.
MAY_IMPORT = {
    "settings": set(),
    "config": {"settings"},
    "guards": set(),
    "optim": {"parallel"},
    "system": set(),
    "data": {"system"},
    "models": {"guards", "system"},
    "kernels": {"models.probe"},
    "loss": {"kernels", "models.probe", "parallel"},
    "parallel": {"models.probe"},
    "precision": {"parallel"},
    "micro_batches": {"parallel"},
    "loop": {"guards", "loss", "micro_batches", "optim", "parallel", "precision"},
    "checkpoint": {"loop", "optim", "parallel", "system"},
    "generation": {"kernels", "models", "precision", "settings"},
    "evaluation": {
        *("checkpoint", "data", "generation", "guards", "kernels", "loop", "models", "parallel"),
        *("precision", "settings", "system"),
    },
    "run": {
        *("", "checkpoint", "config", "data", "evaluation", "generation", "guards", "kernels"),
        *("loop", "loss"),
        *("micro_batches", "models", "optim", "parallel", "precision", "settings", "system"),
    },
    "playground": {"", "data", "generation", "models", "settings", "system"},
    "cli": {
        *("", "checkpoint", "config", "data", "evaluation", "generation", "kernels", "models"),
        *("parallel", "playground", "precision", "run", "settings", "system"),
    },
    "__main__": {"cli"},
}


def module_name(path):
    """`loop`, `data.batches`; the package itself is ``."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def imports(path, package=PACKAGE):
    """Modules of the package that a file in it imports, anywhere in the file."""
    here = list(path.relative_to(package).parent.parts)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "gpt2ft":
                    yield alias.name.removeprefix("gpt2ft").lstrip(".")
        elif isinstance(node, ast.ImportFrom):
            if node.level == 0 and (node.module or "").split(".")[0] != "gpt2ft":
                continue
            start = here[: len(here) - node.level + 1] if node.level else []
            base = [*start, *(node.module or "").removeprefix("gpt2ft").strip(".").split(".")]
            for alias in node.names:
                name = ".".join(part for part in (*base, alias.name) if part)
                yield name if is_module(name) else ".".join(part for part in base if part)


def is_module(name):
    path = PACKAGE.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def files():
    return sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")


def forbidden(part, imported):
    """Whether a file of that part may not import that module."""
    other = imported.split(".")[0]
    return other != part and not {other, imported} & MAY_IMPORT[part]


def part_of(name):
    return name.split(".")[0]


@pytest.mark.parametrize("path", files(), ids=module_name)
def test_a_file_imports_what_its_part_may(path):
    part = part_of(module_name(path))
    assert [name for name in imports(path) if forbidden(part, name)] == []


def test_every_part_is_in_the_plan_and_none_goes_in_circles():
    assert {part_of(module_name(path)) for path in files()} == MAY_IMPORT.keys()
    done = {""}
    while left := [part for part in MAY_IMPORT if part not in done]:
        free = [p for p in left if all(part_of(name) in done for name in MAY_IMPORT[p])]
        assert free, f"a circle among {left}"
        done.update(free)


def test_what_the_loop_stands_on_is_neither_data_nor_hub():
    """Followed file by file: whoever copies the loop takes these along."""
    reached, todo = set(), ["loop"]
    while todo:
        name = todo.pop()
        if name not in reached:
            reached.add(name)
            todo += imports(PACKAGE.joinpath(*name.split(".")).with_suffix(".py"))
    assert {part_of(name) for name in reached} == {
        *("loop", "guards", "loss", "micro_batches", "optim", "parallel", "precision"),
        *("kernels", "models"),
    }
    assert {name for name in reached if name.startswith("models")} == {"models.probe"}


def test_only_the_programs_import_the_command_line():
    """Of the package's files the test above speaks; here of what is outside."""
    programs = [*ROOT.glob("*.py"), *(ROOT / "examples").glob("*.py")]
    for path in [*programs, *(ROOT / "benchmarks").glob("*.py")]:
        found = [
            name for name in imports_from_outside(path) if f"{name}.".startswith("gpt2ft.cli.")
        ]
        assert bool(found) == (path.name in ("train.py", "generate.py")), path


def imports_from_outside(path):
    """Whatever a file outside the package imports, in full: `gpt2ft.cli.main.main`."""
    yield from whole_names(path.read_text(encoding="utf-8"))


def whole_names(code):
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are the package's"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize(
    "line",
    ["import gpt2ft.cli.main", "from gpt2ft import cli", "from gpt2ft.cli.main import main"],
)
def test_whole_names_are_found_in_any_form(line):
    (name,) = whole_names(line)
    assert f"{name}.".startswith("gpt2ft.cli.")


def test_a_folders_init_holds_its_docstring_and_nothing_else():
    folders = [path for path in PACKAGE.rglob("__init__.py") if path.parent != PACKAGE]
    assert len(folders) == 11
    for path in folders:
        (only,) = ast.parse(path.read_text(encoding="utf-8")).body
        assert isinstance(only, ast.Expr) and isinstance(only.value.value, str)


def test_no_part_has_the_name_of_a_public_function():
    import gpt2ft

    functions = {name for name in gpt2ft.__all__ if callable(getattr(gpt2ft, name))}
    assert not {part_of(module_name(path)) for path in files()} & functions


def test_no_room_is_too_large():
    sizes = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in files()}
    assert {str(path): n for path, n in sizes.items() if n > LONGEST} == {}


def test_tests_mirror_the_folders_and_do_not_import_each_other():
    for path in (ROOT / "tests").rglob("test_*.py"):
        if path.parent.name not in ("tests", "whole"):
            assert (PACKAGE / path.parent.name).is_dir()
            assert is_module(f"{path.parent.name}.{path.stem.removeprefix('test_')}"), path
        for name in imports_from_outside(path):
            words = name.split(".")
            assert words[0] != "tests" or words[1] == "support", f"{path} imports {name}"
        command = f"pytest {path.relative_to(ROOT).as_posix()}"
        assert command in path.read_text(encoding="utf-8"), path


def test_benchmarks_stand_without_the_tests():
    for path in (ROOT / "benchmarks").rglob("*.py"):
        assert "tests" not in [name.split(".")[0] for name in imports_from_outside(path)], path


@pytest.mark.parametrize(
    ("part", "line", "named"),
    [
        ("loop", "from .data.batches import Batches", "data.batches"),
        ("loop", "from .models.loading import load_model", "models.loading"),
        ("loss", "from . import run", "run"),
        ("data", "def f():\n    from ..loop import train", "loop"),
        ("kernels", "import gpt2ft.models.loading", "models.loading"),
        ("system", "from ..config import TrainConfig", "config"),
        ("run", "from gpt2ft.cli.main import main", "cli.main"),
        ("generation", "from ..cli import session", "cli.session"),
    ],
)
def test_a_forbidden_import_is_found(part, line, named, tmp_path):
    folder = (PACKAGE / part).is_dir()
    path = tmp_path / (f"{part}/added.py" if folder else f"{part}.py")
    path.parent.mkdir(exist_ok=True)
    path.write_text(line, encoding="utf-8")
    found = list(imports(path, tmp_path))
    assert found == [named] and forbidden(part, found[0])
