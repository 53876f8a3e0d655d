"""The card: what a model makes of a text, beside a baseline, and how sure the difference is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .interval import FEWEST_UNITS, Interval, paired_interval

if TYPE_CHECKING:  # a report needs no torch
    from .scores import Score

CARD = "card.json"
PERCENT = "95 %"


@dataclass(frozen=True)
class Card:
    """A model's score on a text, with the baseline's, if there is one."""

    model: Score
    baseline: Score | None
    protocol: str
    """How the text was cut, in words: `blocked, 128 tokens`."""
    model_name: str = "model"
    baseline_name: str = "baseline"
    same_tokens: bool = True
    """Whether both have the same tokenizer; else only bits per byte can be compared."""

    @property
    def measure(self) -> str:
        """What the difference is of, as the attribute of `Score`."""
        return "loss" if self.same_tokens else "bits_per_byte"

    def difference(self) -> Interval | None:
        """Model minus baseline, with its interval; None if there is nothing to draw units from."""
        return difference(self.model, self.baseline, by_bytes=not self.same_tokens)

    def verdict(self) -> str:
        """What can be said of the difference, in a sentence."""
        if self.baseline is None:
            return ""
        units = self.model.units
        over = f"over {len(units.losses):,} {units.kind}"
        found = self.difference()
        if not math.isfinite(self.model.loss - self.baseline.loss):
            return "no comparison: a loss is not finite"
        if found is None and (self.same_tokens or units.kind == "documents"):
            return f"how sure that is cannot be said {over}, {FEWEST_UNITS} are needed"
        if found is None:
            return "how sure that is cannot be said: the tokenizers differ, and documents are few"
        what = "loss" if self.same_tokens else "bits per byte"
        if not found.excludes_zero:
            bounds = f"{found.low:+.4f} to {found.high:+.4f}"
            return (
                f"no difference that this text can show: the change in {what} is {bounds} "
                f"({PERCENT} interval {over})"
            )
        word = "better" if found.high < 0 else "worse"
        least, most = sorted((abs(found.low), abs(found.high)))
        return (
            f"{word} by {abs(found.difference):.4f} in {what} ({PERCENT} interval {over}: "
            f"{least:.4f} to {most:.4f})"
        )

    def rows(self) -> list[tuple[str, str, str]]:
        """Name, the baseline's value and the model's, of each figure."""
        both = (self.baseline, self.model)
        shown = {
            "loss": [f"{s.loss:.4f}" if s else "" for s in both],
            "perplexity": [short(s.perplexity) if s else "" for s in both],
            "bits per byte": [f"{s.bits_per_byte:.4f}" if s else "" for s in both],
            "accuracy": [f"{s.accuracy:.1%}" if s else "" for s in both],
        }
        return [(name, was, now) for name, (was, now) in shown.items()]

    def text(self) -> str:
        """For a terminal."""
        score = self.model
        columns = (self.baseline_name, self.model_name) if self.baseline else ("", self.model_name)
        lines = [f"{'held-out text':<16}{columns[0]:>12}{columns[1]:>12}"]
        lines += [f"{name:<16}{was:>12}{now:>12}" for name, was, now in self.rows()]
        if not self.baseline:
            lines = [line[:16] + line[28:] for line in lines]
        of_what = f"{score.n_targets:,} tokens, {score.n_bytes:,} bytes; {self.protocol}"
        return "\n".join([*lines, of_what, *filter(None, [self.verdict()])])

    def markdown(self) -> str:
        """For a page: a table, and what can be said of it."""
        score = self.model
        if self.baseline:
            head = f"| held-out text | {self.baseline_name} | {self.model_name} |\n|---|---:|---:|"
            rows = [f"| {' | '.join(row)} |" for row in self.rows()]
        else:
            head = f"| held-out text | {self.model_name} |\n|---|---:|"
            rows = [f"| {name} | {now} |" for name, _, now in self.rows()]
        of_what = f"{score.n_targets:,} tokens, {score.n_bytes:,} bytes; {self.protocol}."
        verdict = f" {self.verdict().capitalize()}." if self.baseline else ""
        return "\n".join([head, *rows, "", of_what + verdict])

    def as_json(self) -> dict[str, Any]:
        """For programs, and for the report of a run."""
        found = self.difference()
        units = self.model.units
        return {
            "protocol": self.protocol,
            "units": f"{len(units.losses)} {units.kind}",
            "model_name": self.model_name,
            "model": _numbers(self.model),
            "baseline_name": self.baseline_name if self.baseline else None,
            "baseline": _numbers(self.baseline) if self.baseline else None,
            "difference": found
            and {self.measure: found.difference, "low": found.low, "high": found.high},
            "verdict": self.verdict(),
        }


def difference(model: Score, baseline: Score | None, *, by_bytes: bool = False) -> Interval | None:
    """The difference in loss, or in bits per byte, with its interval, over the units of a text.

    None where the two were not scored on the same units, or these are too few.
    """
    if baseline is None:
        return None
    ours, theirs = model.units, baseline.units
    if by_bytes:
        if ours.kind != "documents" or theirs.kind != ours.kind:
            return None
        weights, scale = ours.n_bytes, 1 / math.log(2)
        # A tokenizer may add or drop a space: each mean is over the bytes that its own tokens have.
        own = sum(ours.n_bytes) / max(1, sum(theirs.n_bytes))
    else:
        weights, scale, own = ours.n_targets, 1.0, 1.0
        if ours.n_targets != theirs.n_targets:
            return None
    if ours.numbers != theirs.numbers or len(ours.losses) != len(theirs.losses):
        return None
    found = paired_interval(ours.losses, [own * loss for loss in theirs.losses], weights)
    return found and Interval(*(scale * number for number in found))


def short(perplexity: float) -> str:
    """With two decimals as long as that fits a column."""
    return f"{perplexity:,.2f}" if perplexity < 1e7 else f"{perplexity:.2e}"


def _numbers(score: Score) -> dict[str, float]:
    names = ("loss", "perplexity", "bits_per_byte", "accuracy", "n_targets", "n_bytes")
    return {name: getattr(score, name) for name in names}
