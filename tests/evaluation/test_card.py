"""pytest tests/evaluation/test_card.py"""

import json
import re

import numpy as np
import pytest

from gpt2ft.evaluation.card import Card
from gpt2ft.evaluation.scores import Score, Units


def made(loss, *, units=20, kind="blocks", spread=0.0, n=100, seed=0):
    drawn = np.random.default_rng(seed).normal(loss, spread, units)
    sums = [float(x) * n for x in drawn]
    parts = Units(kind, sums, [n] * units, [3 * n] * units)
    return Score(sum(sums) / n / units, n * units, 0.25, 3 * n * units, parts)


@pytest.mark.parametrize(
    ("model", "baseline", "words"),
    [
        (made(3.0), None, ""),
        (made(3.0, spread=0.1), made(4.0), "better by 1.0"),
        (made(4.0, spread=0.1), made(3.0), "worse by 0.9"),
        (made(3.0, spread=0.1), made(3.0, spread=0.1, seed=1), "no difference that this text"),
        (made(3.0, units=5), made(4.0, units=5), "over 5 blocks, 10 are needed"),
    ],
)
def test_better_is_only_said_where_it_is(model, baseline, words):
    card = Card(model, baseline, protocol="blocked, 32 tokens")
    assert words in card.verdict() and bool(words) == bool(card.verdict())
    assert card.verdict() in card.text()


@pytest.mark.parametrize(("loss", "word"), [(3.0, "better"), (5.0, "worse")])
def test_the_interval_is_that_of_the_difference_that_is_said(loss, word):
    """In words it has no sign: better by 1.0, between 0.9 and 1.1."""
    card = Card(made(loss, spread=0.1), made(4.0), protocol="blocked, 32 tokens")
    numbers = [float(x) for x in re.findall(r"\d\.\d{4}", card.verdict())]
    shown, low, high = numbers
    found = card.difference()
    assert card.verdict().startswith(f"{word} by ") and low < shown < high
    assert sorted((abs(found.low), abs(found.high))) == pytest.approx([low, high], abs=1e-4)


def test_other_tokenizers_are_compared_by_bytes():
    """Over documents, which are the same for both."""
    model, baseline = made(3.0, kind="documents", spread=0.1), made(4.0, kind="documents", n=99)
    baseline = Score(**{**vars(baseline), "units": Units(**{**vars(baseline.units)})})
    card = Card(model, baseline, protocol="p", same_tokens=False)
    assert "in bits per byte" in card.verdict() and "bits_per_byte" in card.as_json()["difference"]
    more = Units(**{**vars(baseline.units), "n_bytes": [x + 10 for x in baseline.units.n_bytes]})
    longer = Score(**{**vars(baseline), "units": more, "n_bytes": sum(more.n_bytes)})
    found = Card(model, longer, protocol="p", same_tokens=False).difference()
    assert found.difference == pytest.approx(model.bits_per_byte - longer.bits_per_byte)
    others = Units(**{**vars(model.units), "numbers": list(range(1, 21))})
    shifted = Score(**{**vars(model), "units": others})
    assert Card(model, shifted, protocol="p", same_tokens=False).difference() is None
    blocks = Card(made(3.0), made(4.0), protocol="p", same_tokens=False)
    assert blocks.difference() is None and "the tokenizers differ" in blocks.verdict()


def test_all_forms_have_the_same_figures():
    card = Card(made(2.0, spread=0.1), made(3.0), protocol="blocked, 32 tokens", model_name="after")
    figures = card.as_json()
    assert json.loads(json.dumps(figures)) == figures
    for text in (card.text(), card.markdown()):
        for word in ("after", "3.0000", "20.09", "blocked, 32 tokens", "25.0%", "2,000 tokens"):
            assert word in text, word
    assert figures["baseline"]["loss"] == pytest.approx(3.0) and figures["units"] == "20 blocks"
    assert "|---|---:|---:|" in card.markdown()
    alone = Card(made(2.0), None, protocol="p")
    assert "baseline" not in alone.text() + alone.markdown()


def test_a_loss_that_is_not_finite_is_no_comparison():
    broken = Score(**{**vars(made(2.0)), "loss": float("nan")})
    assert Card(broken, made(2.0), protocol="p").verdict() == "no comparison: a loss is not finite"


def test_large_numbers_stay_apart():
    text = Card(made(600.0), made(13.5578), protocol="p").text()
    assert "3.77e+260" in text.split()
