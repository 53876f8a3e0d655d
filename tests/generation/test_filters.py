"""pytest tests/generation/test_filters.py"""

import math
from itertools import accumulate, compress

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    MinPLogitsWarper,
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from gpt2ft.generation import filters
from gpt2ft.generation.filters import (
    ban_copies,
    ban_repeated_ngrams,
    ban_sequences,
    penalize_repetition,
)
from gpt2ft.generation.sampling import GREEDY_BELOW
from tests.support.logits import probabilities_of, some_logits


def filter_logits(logits, **settings):
    """Those of the whole vocabulary, as the processors give them: -inf for what is not returned."""
    left, ids = filters.filter_logits(logits, **settings)
    assert (ids.diff(dim=-1) > 0).all()
    return torch.full_like(logits, -torch.inf).scatter(1, ids, left)


def logits_to_try():
    """Random, with ties, all equal, one far above the rest, and some already out."""
    draw = torch.Generator().manual_seed(0)
    random = torch.randn(64, 50, generator=draw) * 4
    ties = torch.randint(0, 4, (16, 50), generator=draw).float()
    single = torch.zeros(1, 50)
    single[0, 7] = 100.0
    out = random[:8].masked_fill(random[:8] < 3, -torch.inf)
    out[:, 0] = 1.0
    return torch.cat([random, ties, torch.zeros(1, 50), single, out])


def kept(logits):
    return (logits > -math.inf).tolist()


TEMPERATURES = st.sampled_from([GREEDY_BELOW, 0.01, 0.7, 1.0, 3.0, 1e6])
TOP_K = st.integers(0, 10)
TOP_P = st.floats(0, 1, exclude_min=True) | st.sampled_from([0.25, 0.5, 0.75])


@given(some_logits(), TEMPERATURES, TOP_K, TOP_P, TOP_P, TOP_P)
def test_any_filters_are_those_of_transformers(logits, temperature, top_k, top_p, min_p, typical_p):
    """All together, in their order; at least one token is left."""
    expected = TemperatureLogitsWarper(temperature)(None, logits)
    if top_k:
        expected = TopKLogitsWarper(top_k)(None, expected)
    if top_p < 1:
        expected = TopPLogitsWarper(top_p)(None, expected)
    expected = MinPLogitsWarper(min_p)(None, expected)
    if typical_p < 1:
        expected = TypicalLogitsWarper(typical_p)(None, expected)
    filtered = filter_logits(
        logits,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        typical_p=typical_p,
    )
    assert torch.equal(filtered, expected)
    assert all(any(row) for row in kept(filtered))


@given(some_logits(), TEMPERATURES, TOP_K, TOP_P)
def test_the_likeliest_token_stays(logits, temperature, top_k, top_p):
    """Whatever the settings, but those for typical ones; and it is not changed."""
    filtered = filter_logits(logits, temperature=temperature, top_k=top_k, top_p=top_p, min_p=top_p)
    assert torch.equal(filtered.max(-1).values, (logits / temperature).max(-1).values)


@given(some_logits(), st.integers(1, 10))
def test_top_k_by_counting(logits, top_k):
    """A token stays if fewer than k are likelier: of equals all or none."""
    expected = [
        [token > -math.inf and sum(other > token for other in row) < top_k for token in row]
        for row in logits.tolist()
    ]
    assert kept(filter_logits(logits, top_k=top_k)) == expected


@given(some_logits(), st.data())
def test_top_p_by_adding_up(logits, data):
    """What stays has probability p, without its least likely token it has not, and nothing that
    is left out is likelier."""
    probabilities = [probabilities_of(row) for row in logits.tolist()]
    sums = list(accumulate(sorted(probabilities[0], reverse=True)))
    near_a_sum = st.sampled_from(sums).flatmap(lambda p: st.sampled_from([p - 1e-4, p + 1e-4]))
    top_p = min(data.draw(TOP_P | near_a_sum), 1.0)
    masks = kept(filter_logits(logits, top_p=top_p))
    for row, mask in zip(probabilities, masks, strict=True):
        inside = sorted(compress(row, mask))
        outside = compress(row, [not stays for stays in mask])
        assert sum(inside) > top_p - 1e-5
        assert sum(inside[1:]) < top_p + 1e-5
        assert max(outside, default=0) <= inside[0]


@pytest.mark.parametrize("temperature", [0.3, 0.7, 1.0, 2.5])
def test_temperature_is_that_of_transformers(temperature):
    logits = logits_to_try()
    expected = TemperatureLogitsWarper(temperature)(None, logits)
    assert torch.equal(filter_logits(logits, temperature=temperature), expected)


@pytest.mark.parametrize("top_k", [1, 2, 7, 49, 50, 1000])
def test_top_k_is_that_of_transformers(top_k):
    logits = logits_to_try()
    assert torch.equal(filter_logits(logits, top_k=top_k), TopKLogitsWarper(top_k)(None, logits))


@pytest.mark.parametrize("top_p", [0.01, 0.3, 0.5, 0.9, 0.95, 0.9999])
def test_top_p_is_that_of_transformers(top_p):
    logits = logits_to_try()
    assert torch.equal(filter_logits(logits, top_p=top_p), TopPLogitsWarper(top_p)(None, logits))


def test_all_together_in_the_order_of_transformers():
    logits = logits_to_try()
    expected = logits
    for warp in (TemperatureLogitsWarper(0.6), TopKLogitsWarper(9), TopPLogitsWarper(0.8)):
        expected = warp(None, expected)
    assert torch.equal(filter_logits(logits, temperature=0.6, top_k=9, top_p=0.8), expected)
    assert torch.equal(filter_logits(logits), logits)  # and nothing by default


@pytest.mark.parametrize("penalty", [0.5, 1.3])
def test_repetition_penalty_is_that_of_transformers(penalty):
    logits = logits_to_try()[:64]
    ids = torch.randint(0, 50, (64, 12), generator=torch.Generator().manual_seed(1))
    expected = RepetitionPenaltyLogitsProcessor(penalty)(ids, logits)
    assert torch.equal(penalize_repetition(logits, ids.tolist(), penalty), expected)


@given(some_logits(), st.floats(0.1, 10), st.data())
def test_any_penalty_is_that_of_transformers(logits, penalty, data):
    """Also of a token that was seen twice, has logit 0, or is out."""
    n_rows, n_tokens = logits.shape
    text = st.lists(st.integers(0, n_tokens - 1), min_size=5, max_size=5)
    ids = torch.tensor(data.draw(st.lists(text, min_size=n_rows, max_size=n_rows)))
    expected = RepetitionPenaltyLogitsProcessor(penalty)(ids, logits)
    assert torch.equal(penalize_repetition(logits, ids.tolist(), penalty), expected)


@pytest.mark.parametrize("min_p", [0.001, 0.05, 0.5, 1.0])
def test_min_p_is_that_of_transformers(min_p):
    logits = logits_to_try()
    assert torch.equal(filter_logits(logits, min_p=min_p), MinPLogitsWarper(min_p)(None, logits))


@pytest.mark.parametrize("typical_p", [0.001, 0.2, 0.5, 0.95, 0.9999])
def test_typical_p_is_that_of_transformers(typical_p):
    logits = logits_to_try()
    expected = TypicalLogitsWarper(typical_p)(None, logits)
    assert torch.equal(filter_logits(logits, typical_p=typical_p), expected)


TEXTS = st.integers(0, 9).flatmap(
    lambda n: st.lists(st.lists(st.integers(0, 3), min_size=n, max_size=n), min_size=2, max_size=2)
)


@given(TEXTS, st.integers(1, 4))
def test_repeated_ngrams_are_those_of_transformers(texts, size):
    """Over four tokens, so that they repeat; also for texts shorter than an n-gram."""
    logits = torch.arange(8.0).reshape(2, 4)
    before = logits.clone()
    expected = NoRepeatNGramLogitsProcessor(size)(torch.tensor(texts, dtype=torch.int64), logits)
    assert torch.equal(ban_repeated_ngrams(logits, texts, size), expected)
    assert torch.equal(logits, before)


@given(TEXTS, st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=3), min_size=1, max_size=4))
def test_banned_sequences_are_those_of_transformers(texts, banned):
    logits = torch.arange(8.0).reshape(2, 4)
    processor = NoBadWordsLogitsProcessor(banned)
    expected = processor(torch.tensor(texts, dtype=torch.int64), logits)
    assert torch.equal(ban_sequences(logits, texts, banned), expected)


class Text(list):
    """What `ban_copies` needs of a text, by looking at every place of it."""

    def followers(self, ids):
        n = len(ids)
        return [self[i + n] for i in range(len(self) - n) if self[i : i + n] == list(ids)]


TOKENS = st.lists(st.integers(0, 2), max_size=12)


@given(TOKENS, st.lists(TOKENS, min_size=1, max_size=3), st.integers(1, 4))
def test_what_would_copy_too_much_is_banned_and_nothing_else(corpus, texts, longest):
    logits = torch.zeros(len(texts), 3)
    allowed = kept(ban_copies(logits, texts, Text(corpus), longest))
    for row, text in enumerate(texts):
        for token in range(3):
            end = [*text, token][-longest - 1 :]
            places = range(len(corpus) - longest)
            copies = any(corpus[i : i + longest + 1] == end for i in places)
            assert allowed[row][token] != copies
    assert kept(logits) == [[True] * 3] * len(texts)
