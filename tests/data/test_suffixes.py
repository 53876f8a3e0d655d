"""pytest tests/data/test_suffixes.py"""

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2ft import index_text
from gpt2ft.data.suffixes import REACH, Span, SuffixIndex
from tests.support.stores import few, of_rows

# Smallest ids of alphabets whose ids take 1, 2 and 3 bytes; at each border one on either side.
SMALLEST = st.sampled_from([1, 250, 251, 252, 65529, 65530, 65531, 65532, 130_000])
LETTERS = st.lists(st.integers(0, 2), min_size=1, max_size=80)
# What is searched for has pieces of the text in it, some of them longer than is looked ahead.
PIECES = st.lists(st.integers(0, 3).map(lambda n: [n]) | st.tuples(st.integers(0, 79)), max_size=9)


def naive(text, query, start, boundaries):
    """How many tokens of the query from there on stand in the text, by trying every place."""
    stop = next((i for i in range(start, len(query)) if query[i] in boundaries), len(query))
    longest = 0
    for place in range(len(text)):
        n = 0
        while start + n < stop and place + n < len(text) and query[start + n] == text[place + n]:
            n += 1
        longest = max(longest, n)
    return longest


def of_ids(ids, boundaries=()):
    return SuffixIndex(of_rows([ids[:7]], [ids[7:]]), boundaries=boundaries)


@st.composite
def texts_and_queries(draw):
    smallest, letters = draw(SMALLEST), draw(LETTERS)
    query = []
    for piece in draw(PIECES):
        query += piece if isinstance(piece, list) else letters[piece[0] % len(letters) :]
    boundaries = draw(st.sampled_from([(), (smallest,)]))
    return [smallest + n for n in letters], [smallest + n for n in query], boundaries


@few
@given(texts_and_queries())
def test_matches_and_the_longest_span_are_those_of_a_naive_search(example):
    text, query, boundaries = example
    index = of_ids(text, boundaries)
    expected = [naive(text, query, start, boundaries) for start in range(len(query))]
    assert index.matches(query).tolist() == [min(n, REACH) for n in expected]
    span = index.longest(query)
    assert span.length == max(expected, default=0)
    if span.length:
        assert expected.index(span.length) == span.start
        found = text[span.position : span.position + span.length]
        assert found == query[span.start : span.start + span.length]


@few
@given(texts_and_queries(), st.integers(1, 4))
def test_followers_are_those_of_a_naive_search(example, size):
    text, query, boundaries = example
    last = query[-size:] if len(query) >= size else text[:1]
    expected = {
        text[i + len(last)]
        for i in range(len(text) - len(last))
        if text[i : i + len(last)] == last and not set(last) & set(boundaries)
    }
    index = of_ids(text, boundaries)
    assert index.followers(last).tolist() == sorted(expected - set(boundaries))


def test_long_spans_that_overlap_and_repeat():
    """A text of one token, and one that is searched for whole and with a gap."""
    assert of_ids([5] * 300).longest([5] * 200 + [6] + [5] * 250) == Span(201, 250, 50)
    rng = np.random.default_rng(0)
    text = rng.integers(1, 4, 3000).tolist()
    index = of_ids(text)
    assert index.longest(text) == Span(0, 3000, 0)
    assert index.longest([*text[:900], 9, *text[600:2000], 9]) == Span(901, 1400, 600)
    # A span that begins in the midst of another one and goes beyond its end.
    apart = of_ids([*text[:100], 9, *text[40:160]])
    assert apart.longest(text[:160]) == Span(40, 120, 101)


def test_ids_that_the_text_does_not_have():
    index = of_ids([3, 4, 5, 3, 4])
    assert index.matches([70_000, 3, 4, 5, 3, 4, 6, -1, 3]).tolist() == [0, 5, 4, 3, 2, 1, 0, 0, 1]
    assert index.longest([6, 255, 256, 65535]) == (0, 0, 0) == index.longest([])
    assert index.followers([4, 6]).tolist() == [] == index.followers([5, 3, 4]).tolist()


def test_texts_by_their_tokenizer(tokenizer, with_beginning):
    """No span goes from one document to the next."""
    for each in (tokenizer, with_beginning):
        index = index_text(["abcdef", "ghijkl"], each)
        assert index.longest(each("cdefghij", add_special_tokens=False)["input_ids"]).length == 4
        ids = each("ef", add_special_tokens=False)["input_ids"]
        assert index.followers(ids).tolist() == []


def test_a_text_without_tokens_and_the_extra_that_is_not_installed(tokenizer, monkeypatch):
    with pytest.raises(ValueError, match="the training text has no tokens"):
        of_ids([])
    monkeypatch.setitem(sys.modules, "pydivsufsort", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'gpt2ft\[copies\]'"):
        index_text(["a"], tokenizer)
