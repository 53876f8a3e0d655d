"""How sure a difference between two models is: a paired bootstrap over the units of a text."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

FEWEST_UNITS = 10
RESAMPLES = 4000
LEVEL = 0.95
AT_ONCE = 250  # resamples that are drawn together


class Interval(NamedTuple):
    """A difference of two means, model minus baseline, and where it lies with 95 % confidence."""

    difference: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


def paired_interval(
    model: npt.ArrayLike, baseline: npt.ArrayLike, weights: npt.ArrayLike, *, seed: int = 0
) -> Interval | None:
    """Interval of the difference between two weighted means over the same units.

    `model (U,)` and `baseline (U,)` are sums of losses in each unit, a document or block of the
    text; `weights (U,)` is what they are divided by, such as the number of tokens. Units are drawn
    with replacement, both models' together: what makes a unit hard for both cancels out. The
    interval is that of the bootstrap-t method (Efron and Tibshirani 1993, chapter 12.5), which
    holds for few units too, where the percentiles of the differences themselves are too narrow. The
    same seed gives the same interval. None if there are fewer than 10 units.
    """
    difference = np.asarray(model, np.float64) - np.asarray(baseline, np.float64)
    weights = np.asarray(weights, np.float64)
    units = len(difference)
    if units < FEWEST_UNITS:
        return None
    mean, error = _ratio(difference[None], weights[None])
    if not error[0] > 0:  # the same difference everywhere, such as none
        return Interval(float(mean[0]), float(mean[0]), float(mean[0]))
    drawn, scaled = np.random.default_rng(seed), []
    for _ in range(0, RESAMPLES, AT_ONCE):
        chosen = drawn.integers(0, units, (AT_ONCE, units))
        means, errors = _ratio(difference[chosen], weights[chosen])
        with np.errstate(divide="ignore", invalid="ignore"):
            scaled.append((means - mean) / errors)
    t = np.concatenate(scaled)
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(t[np.isfinite(t)], [tail, 1 - tail])
    return Interval(
        float(mean[0]), float(mean[0] - high * error[0]), float(mean[0] - low * error[0])
    )


def _ratio(sums: Array, weights: Array) -> tuple[Array, Array]:
    """Sum by sum of weights for each row of `(R, U)`, and the standard error of that."""
    units, total = sums.shape[1], weights.sum(1)
    ratio = sums.sum(1) / total
    squares = np.square(sums - ratio[:, None] * weights).sum(1)
    return ratio, np.sqrt(squares * units / (units - 1)) / total
