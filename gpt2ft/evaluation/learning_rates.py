"""What runs that differ in their learning rate alone say of it, as far as a text can tell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .card import difference
from .interval import Interval
from .scores import Score

FACTOR = 10**0.5  # between neighbouring rates: 0.0001, 0.00032, 0.001
CLOSE = FACTOR**1.8  # between the neighbours of a rate, where one of them was found halfway


def rate_at(middle: float, exponent: float) -> float:
    """The rate so many factors from the middle, to two digits: that is enough for a rate."""
    return float(f"{middle * FACTOR**exponent:.2g}") if exponent else middle


@dataclass(frozen=True)
class Trial:
    """A short run with one learning rate, and what came of it."""

    rate: float
    score: Score | None
    """Of its model on the held-out text; None if there is no finite one."""
    trouble: str = ""
    """Why the rate is of no use; empty if it may be."""

    @property
    def loss(self) -> float:
        """Held-out loss, nats per token; infinite if there is none."""
        return self.score.loss if self.score else math.inf


@dataclass(frozen=True)
class Findings:
    """What short runs say of learning rates."""

    before: Score
    """Of the model that all of them began with."""
    own_rate: float
    """The rate that the run would have without them."""
    trials: Sequence[Trial] = ()
    """In the order of their rates."""

    @property
    def best(self) -> Trial | None:
        """The one with the lowest held-out loss, of those without trouble."""
        return min(self._useful, key=lambda trial: trial.loss, default=None)

    @property
    def _useful(self) -> list[Trial]:
        return [trial for trial in self.trials if not trial.trouble]

    def above_best(self, trial: Trial) -> Interval | None:
        """How much higher its loss is than the lowest, with its interval; None for the best one."""
        if not self.best or trial is self.best or trial.score is None:
            return None
        return difference(trial.score, self.best.score)

    def recommended(self) -> tuple[float | None, str]:
        """The rate to train with, None if no rate is of use, and why that one.

        It is the rate with the lowest held-out loss, or the next lower one of those tried where the
        text cannot tell the two apart: longer runs have lower best rates (Bjorck et al. 2025,
        "Scaling Optimal LR Across Token Horizons"). Where the text cannot tell any rate from the
        best one, it is the rate that the run would have anyway, if that is one of them.
        """
        if self.best is None:
            return None, "no rate made the model better than it was before training"
        best = self.best.rate
        tied = [best]
        for trial in self._useful:
            interval = self.above_best(trial)
            if interval and not interval.excludes_zero:
                tied.append(trial.rate)
        if len(tied) == len(self._useful) > 1 and self.own_rate in tied:
            return self.own_rate, (
                "the held-out text cannot tell these rates apart, and this one is the run's own"
            )
        lower = max((t.rate for t in self._useful if t.rate < best), default=None)
        if lower in tied:
            return lower, (
                f"the held-out text cannot tell it from {best:g}, which has the lowest loss, and "
                "longer runs have lower best rates"
            )
        others = ", ".join(f"{rate:g}" for rate in sorted(tied[1:]))
        untold = f", though the text cannot tell it from {others}" if others else ""
        return best, f"it has the lowest held-out loss{untold}"

    def beyond(self) -> float | None:
        """The next rate beyond the range, if the lowest loss is at an end of it; else None."""
        lowest = min(self.trials, key=lambda trial: trial.loss)
        exponent = round(math.log(lowest.rate / self.own_rate, FACTOR))
        if lowest is self.trials[0]:  # also where all of them diverge
            return rate_at(self.own_rate, exponent - 1)
        return rate_at(self.own_rate, exponent + 1) if lowest is self.trials[-1] else None

    def halfway(self) -> float | None:
        """The rate between the best one and the next lower, if the best one may well be there.

        That is where the next lower rate did better than the next higher one. On the other side it
        is not looked for, as the run is longer. None too if neighbours are closer already.
        """
        rates = [trial.rate for trial in self.trials]
        place = rates.index(self.best.rate) if self.best else 0
        if not 0 < place < len(rates) - 1 or rates[place + 1] / rates[place - 1] < CLOSE:
            return None
        below, above = self.trials[place - 1], self.trials[place + 1]
        exponent = round(math.log(rates[place] / self.own_rate, FACTOR))
        return rate_at(self.own_rate, exponent - 0.5) if below.loss < above.loss else None
