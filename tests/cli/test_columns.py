"""pytest tests/cli/test_columns.py"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2ft.cli.columns import bars, n_cells, side_by_side, wrap

TEXTS = st.text("ab  \n\t漢e\u0301é", max_size=60)


@given(TEXTS, st.integers(2, 20))
def test_lines_fit_and_hold_the_text(text, cells):
    """In order, nothing lost but the space at a break; wide characters count as two cells."""
    lines = list(wrap(text, cells))
    assert all(n_cells(line) <= cells for line in lines)
    assert "".join("".join(lines).split()) == "".join(text.split())


def test_words_are_kept_whole():
    assert list(wrap("the quick brown fox", 10)) == ["the quick", "brown fox"]
    assert list(wrap("a incomprehensibilities", 10)) == ["a", "incomprehe", "nsibilitie", "s"]
    assert list(wrap("漢字漢字漢", 4)) == ["漢字", "漢字", "漢"]


@given(st.lists(TEXTS, min_size=1, max_size=4), st.integers(38, 90))
def test_columns_are_within_the_terminal(texts, width):
    shown = side_by_side(["a rather long name of a model"] * len(texts), texts, width)
    assert all(n_cells(line) <= width for line in shown.split("\n"))


def test_columns():
    assert side_by_side(["m1", "a b"], ["x y z w", "漢字 q"], 10).split("\n") == [
        "m1        a b",
        "────────  ────────",
        "x y z w   漢字 q",
    ]


@pytest.mark.parametrize("width", [20, 40, 200])
def test_bars_are_in_proportion_and_within_the_terminal(width):
    lines = bars(["'a'", "'bc'"], [0.75, 0.25], width).split("\n")
    assert [line.split()[:2] for line in lines] == [["'a'", "75.00%"], ["'bc'", "25.00%"]]
    long, short = (line.count("█") for line in lines)
    assert short > 0 and abs(long - 3 * short) <= 2
    assert all(n_cells(line) <= max(width, 23) for line in lines)
