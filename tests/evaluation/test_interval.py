"""Coverage, and another library's interval: pytest tests/evaluation/test_interval.py"""

import numpy as np
import pytest

from gpt2ft.evaluation.interval import paired_interval


def trial(seed, units, shift=0.0):
    """Two models of equal worth but for `shift`, on the same text: heavy-tailed differences."""
    draw = np.random.default_rng(seed)
    weights = draw.integers(20, 200, units)
    baseline = draw.normal(4, 0.5, units) * weights
    difference = (draw.exponential(size=units) - 1) * np.sqrt(weights) * 0.3
    return baseline + difference + shift * weights, baseline, weights


@pytest.mark.parametrize("units", [12, 40])
def test_it_covers_no_difference_as_often_as_it_says(units):
    found = [paired_interval(*trial(seed, units), seed=seed) for seed in range(200)]
    covered = sum(interval.low <= 0 <= interval.high for interval in found)
    assert 180 <= covered <= 196  # 90 to 98 %


def test_a_true_difference_is_found():
    found = paired_interval(*trial(1, 40, shift=-0.5))
    assert found.excludes_zero and found.low < found.difference < found.high < 0
    model, baseline, weights = trial(1, 40, shift=-0.5)
    assert found.difference == pytest.approx((model - baseline).sum() / weights.sum())


def test_near_the_interval_of_large_samples():
    """With many units of equal size it is the mean, plus and minus 1.96 standard errors."""
    draw = np.random.default_rng(3)
    difference = draw.normal(0.1, 1.0, 1000)
    found = paired_interval(difference, np.zeros(1000), np.ones(1000))
    error = difference.std(ddof=1) / np.sqrt(1000)
    expected = (difference.mean() - 1.96 * error, difference.mean() + 1.96 * error)
    assert (found.low, found.high) == pytest.approx(expected, abs=0.1 * error)


def test_the_same_model_and_too_few_units():
    losses, weights = np.arange(1.0, 21.0), np.ones(20)
    assert paired_interval(losses, losses, weights) == (0, 0, 0)
    assert not paired_interval(losses, losses, weights).excludes_zero
    assert paired_interval(losses[:9], losses[:9], weights[:9]) is None


def test_the_same_seed_gives_the_same_interval():
    assert paired_interval(*trial(5, 30)) == paired_interval(*trial(5, 30))
