"""pytest tests/data/test_text_column.py"""

import pytest

from gpt2ft.data.text_column import choose_column


@pytest.mark.parametrize(
    "wanted, strings, names, chosen",
    [
        (None, ["a", "text"], ["a", "text"], "text"),
        (None, ["b"], ["a", "b"], "b"),
        ("b", ["text", "b"], ["text", "b"], "b"),
    ],
)
def test_the_one_wanted_else_text_else_the_only_one_of_strings(wanted, strings, names, chosen):
    assert choose_column("s", wanted, strings, names) == chosen


@pytest.mark.parametrize(
    "wanted, strings, names, message",
    [
        (
            "c",
            ["text"],
            ["text"],
            "s has no column c; its columns: text; add for example --text_column text",
        ),
        (
            None,
            ["a", "b"],
            ["a", "b"],
            "s has no column text; its columns: a, b; add for example --text_column b",
        ),
        (None, [], [], "s has no column text; its columns: none$"),
        (None, ["a"], ["a", "text"], "s has no strings in its column text"),
        ("n", ["text"], ["text", "n"], "s has no strings in its column n"),
    ],
)
def test_a_column_that_is_not_there_or_holds_no_strings(wanted, strings, names, message):
    with pytest.raises(ValueError, match=message):
        choose_column("s", wanted, strings, names)
