"""The curves of a run, from its records: of bounded size however many steps there are."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MOST_POINTS = 1000
NOTEWORTHY = 0.01  # nats; evaluations between which nothing happened may differ by less

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Curves:
    """What was measured at each step, and at each evaluation, as columns of equal length.

    A point stands for `together` steps in a row: losses are means weighted by tokens, the lowest
    and the highest loss are kept beside them. What was not finite is None.
    """

    steps: dict[str, list[Any]]
    """`step` (the last of the point's), `loss`, `lowest`, `highest`, `learning_rate`, `grad_norm`
    (the largest), `tokens_per_second`, `tokens` and `seconds` (up to there)."""
    evaluations: dict[str, list[Any]]
    """`step`, `loss`, `perplexity`, `bits_per_byte`, `accuracy`."""
    skipped: list[int]
    """Steps whose update was skipped."""
    together: int

    @property
    def best(self) -> int | None:
        """Place of the evaluation with the lowest loss."""
        losses = self.evaluations["loss"]
        finite = [i for i, loss in enumerate(losses) if loss is not None]
        return min(finite, key=lambda i: (losses[i], i), default=None)

    @property
    def overfits(self) -> bool:
        """Whether the held-out loss rose after its lowest point."""
        losses, best = self.evaluations["loss"], self.best
        if best is None or losses[-1] is None or not 0 < best < len(losses) - 1:
            return False
        return bool(losses[-1] > losses[best] + NOTEWORTHY)


def curves(records: Iterable[Record]) -> Curves:
    """The curves of the records of metrics.jsonl; of a step that was recorded twice, the last."""
    found = list(records)
    steps = {r["step"]: r for r in found if "learning_rate" in r}
    evaluations = {r["step"]: r for r in found if "eval_loss" in r}
    in_order = [steps[step] for step in sorted(steps)]
    together = max(1, -(-len(in_order) // MOST_POINTS))
    parts = [in_order[i : i + together] for i in range(0, len(in_order), together)]
    names = {"loss": "eval_loss", "perplexity": "eval_perplexity"}
    return Curves(
        _columns(parts),
        {
            "step": sorted(evaluations),
            **{
                name: [evaluations[step].get(names.get(name, name)) for step in sorted(evaluations)]
                for name in ("loss", "perplexity", "bits_per_byte", "accuracy")
            },
        },
        [r["step"] for r in in_order if r.get("skipped")],
        together,
    )


def _columns(parts: Sequence[Sequence[Record]]) -> dict[str, list[Any]]:
    names = ("step", "loss", "lowest", "highest", "learning_rate", "grad_norm")
    columns: dict[str, list[Any]] = {
        name: [] for name in (*names, "tokens_per_second", "tokens", "seconds")
    }
    tokens, seconds = 0.0, 0.0
    for part in parts:
        losses = [(r["loss"], r["n_targets"]) for r in part if r.get("loss") is not None]
        norms = [r["grad_norm"] for r in part if r.get("grad_norm") is not None]
        n = sum(r["n_targets"] for r in part)
        took = sum(r.get("seconds") or 0 for r in part)
        tokens, seconds = tokens + n, seconds + took
        weight = sum(n for _, n in losses)
        values = {
            "step": part[-1]["step"],
            "loss": _round(sum(x * n for x, n in losses) / weight) if weight else None,
            "lowest": _round(min(x for x, _ in losses)) if losses else None,
            "highest": _round(max(x for x, _ in losses)) if losses else None,
            "learning_rate": _round(part[-1]["learning_rate"]),
            "grad_norm": _round(max(norms)) if norms else None,
            "tokens_per_second": _round(n / took) if took else None,
            "tokens": int(tokens),
            "seconds": _round(seconds),
        }
        for name, value in values.items():
            columns[name].append(value)
    return columns


def _round(value: float) -> float | None:
    """To five digits: what a chart can show."""
    return float(f"{value:.5g}") if math.isfinite(value) else None
