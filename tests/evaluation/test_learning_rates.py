"""pytest tests/evaluation/test_learning_rates.py"""

import numpy as np
import pytest

from gpt2ft.evaluation.learning_rates import Findings, Trial
from gpt2ft.evaluation.scores import Score, Units


def made(loss, *, spread=0.0, seed=0):
    """A score with that loss, exactly, over 20 blocks that differ from those of other seeds."""
    noise = np.random.default_rng(seed).normal(0, spread, 20) if spread else np.zeros(20)
    losses = 100 * (loss + noise - noise.mean())
    return Score(loss, 2000, 0.5, 6000, Units("blocks", losses.tolist(), [100] * 20, [300] * 20))


def findings(losses, *, own=1e-3, spread=0.01, in_order=False):
    """Of runs with these losses; None is one that diverged."""
    losses = dict(sorted(losses.items())) if in_order else losses
    trials = [
        Trial(rate, None, "diverges")
        if loss is None
        else Trial(rate, made(loss, spread=spread, seed=i))
        for i, (rate, loss) in enumerate(losses.items())
    ]
    return Findings(made(6.0), own, trials)


@pytest.mark.parametrize(
    ("losses", "rate", "why"),
    [
        ({1e-4: 5, 1e-3: 4, 1e-2: 4.5}, 1e-3, "it has the lowest held-out loss"),
        ({1e-4: 5, 1e-3: 4.001, 1e-2: 4}, 1e-3, "cannot tell it from 0.01, which has the lowest"),
        ({1e-4: 4.002, 1e-3: 4.001, 1e-2: 4, 0.1: 5}, 1e-3, "cannot tell it from 0.01"),
        ({1e-4: 5, 1e-3: 4, 1e-2: 4.001}, 1e-3, "though the text cannot tell it from 0.01"),
        ({1e-4: 4.002, 1e-3: 4.001, 1e-2: 4}, 1e-3, "cannot tell these rates apart"),
        ({1e-4: 5, 1e-2: 4, 0.1: None, 1: None}, 1e-2, "it has the lowest held-out loss"),
        ({1e-4: 4, 1e-3: None, 1e-2: None}, 1e-4, "it has the lowest held-out loss"),
        ({1e-4: None, 1e-3: None, 1e-2: None}, None, "no rate made the model better"),
    ],
)
def test_the_rule(losses, rate, why):
    found, reason = findings(losses).recommended()
    assert found == rate and why in reason


def test_where_nothing_can_be_told_apart_it_is_the_runs_own_rate():
    same = {1e-4: 4.0, 1e-3: 4.001, 1e-2: 4.002}
    assert findings(same).recommended()[0] == 1e-3
    assert findings(same, own=1e-4).recommended()[0] == 1e-4
    assert findings({**same, 1e-3: None}, own=1e-3).recommended()[0] == 1e-4


def test_a_lower_loss_that_is_chance_is_not_followed():
    """Of many runs with the same true loss the lowest one is somewhere; the rule stays."""
    for seed in range(20):
        drawn = np.random.default_rng(seed).normal(4, 0.05, (3, 20))
        trials = [
            Trial(rate, Score(row.mean(), 2000, 0.5, 6000, units(row)))
            for rate, row in zip((1e-4, 1e-3, 1e-2), drawn, strict=True)
        ]
        rate, why = Findings(made(6.0), 1e-3, trials).recommended()
        told = [found.excludes_zero for found in map_intervals(trials)]
        assert rate == 1e-3 or any(told), why


def units(row):
    return Units("blocks", (100 * row).tolist(), [100] * 20, [300] * 20)


def map_intervals(trials):
    found = Findings(made(6.0), 1e-3, trials)
    return [interval for trial in trials if (interval := found.above_best(trial))]


def test_it_goes_on_beyond_an_end():
    assert findings({1e-4: 5, 1e-3: 4, 1e-2: 4.5}).beyond() is None
    assert findings({1e-4: 3, 1e-3: 4, 1e-2: 4.5}).beyond() == 3.2e-5
    assert findings({1e-4: 5, 1e-3: 4, 1e-2: 3}).beyond() == 0.032
    assert findings({1e-4: None, 1e-3: None}).beyond() == 3.2e-5
    assert findings({5e-6: 5, 1.6e-5: 4, 5e-5: 3, 1.6e-4: 2}, own=5e-5).beyond() == 5e-4


def test_it_looks_halfway_to_the_lower_neighbour_where_that_is_the_better_side():
    falling = {1e-4: 5, 1e-3: 4.05, 3.2e-3: 4, 1e-2: 4.5}
    assert findings(falling).halfway() == 1.8e-3
    assert findings({**falling, 1.8e-3: 3.9}, in_order=True).halfway() is None
    assert findings({**falling, 1.8e-3: 4.02}, in_order=True).halfway() is None
    assert findings({**falling, 1e-2: None}).halfway() == 1.8e-3
    assert findings({**falling, 1e-2: 4.04}).halfway() is None
    assert findings({1e-3: 4, 3.2e-3: 5, 1e-2: 6}).halfway() is None
    assert findings({1e-3: None, 3.2e-3: None}).halfway() is None
