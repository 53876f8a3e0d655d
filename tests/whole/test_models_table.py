"""The table of models is true: pytest tests/whole/test_models_table.py -m slow"""

import re
from pathlib import Path

import pytest

from benchmarks.models import TYPES, header, of_folder, of_type, row
from gpt2ft.models.names import BUILT_IN_MODEL

PAGE = Path(__file__).parent.parent.parent / "docs" / "how-to" / "models.md"
LINES = re.findall(r"^\|.*\|$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)


def line(name):
    """The row of the page that has that name."""
    return next(line for line in LINES if line.startswith(f"| {name} |"))


def test_the_page_has_every_row_and_column():
    names = [line.split("|")[1].strip() for line in LINES]
    assert names[2 : 2 + len(TYPES)] == list(TYPES)
    assert "\n".join(LINES[:2]) == header()


@pytest.mark.slow
@pytest.mark.parametrize("name", TYPES)
def test_a_type(name):
    assert row(of_type(name)) == line(name)


@pytest.mark.slow
def test_real_weights():
    assert row(of_folder(BUILT_IN_MODEL)) == line(BUILT_IN_MODEL)
