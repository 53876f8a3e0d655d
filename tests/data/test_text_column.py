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
        ("c", ["text"], ["text"], "s has no column c but text, name --text_column"),
        (None, ["a", "b"], ["a", "b"], "s has no column text but a, b, name --text_column"),
        (None, [], [], "s has no column text but nothing, name --text_column"),
        (None, ["a"], ["a", "text"], "s has numbers or others in its column text, not strings"),
        ("n", ["text"], ["text", "n"], "s has numbers or others in its column n, not strings"),
    ],
)
def test_a_column_that_is_not_there_or_holds_no_strings(wanted, strings, names, message):
    with pytest.raises(ValueError, match=message):
        choose_column("s", wanted, strings, names)
