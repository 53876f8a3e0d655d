"""Runs side by side: what was set, how well each did, and whether that is more than chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .card import difference
from .interval import Interval
from .run_folder import RunFolder
from .scores import Score

NAME_WIDTH = 28
WIDTH = 14
TOTALS = ("step", "tokens", "seconds")


@dataclass(frozen=True)
class Comparison:
    """Several runs, of which the first is the baseline."""

    runs: Sequence[RunFolder]
    settings: Mapping[str, Sequence[Any]]
    """Those that are not the same in all runs, with their value in each."""

    def best(self, run: RunFolder) -> Score | None:
        """The evaluation of a run with the lowest loss, with the losses of its parts."""
        found = run.curves.best
        if found is None:
            return None
        step = run.curves.evaluations["step"][found]
        records = [r for r in run.records if r["step"] == step and "eval_loss" in r]
        return Score.from_record(records[-1])

    def difference(self, run: RunFolder) -> Interval | None:
        """Best held-out loss of a run minus that of the first; None if the texts are others."""
        ours, theirs = self.best(run), self.best(self.runs[0])
        texts = [r.facts.get("data", {}).get("held_out") for r in (run, self.runs[0])]
        if ours is None or theirs is None or texts[0] != texts[1]:
            return None
        return difference(ours, theirs)

    def rows(self) -> list[tuple[str, list[str]]]:
        """Name, and what to show of each run."""
        rows = [(name, [_short(v) for v in values]) for name, values in self.settings.items()]
        figures: list[tuple[str, list[str]]] = [
            ("best held-out loss", [self._best_loss(run) for run in self.runs]),
            ("at step", [self._best_step(run) for run in self.runs]),
            ("difference to the first", ["", *(self._difference(r) for r in self.runs[1:])]),
            ("its 95 % interval", ["", *(self._interval(run) for run in self.runs[1:])]),
            ("steps", [_last(run, "step") for run in self.runs]),
            ("tokens", [_last(run, "tokens") for run in self.runs]),
            ("seconds in steps", [_last(run, "seconds") for run in self.runs]),
        ]
        return rows + figures

    def _best_loss(self, run: RunFolder) -> str:
        best, losses = run.curves.best, run.curves.evaluations["loss"]
        return "" if best is None else f"{losses[best]:.4f}"

    def _best_step(self, run: RunFolder) -> str:
        best, steps = run.curves.best, run.curves.evaluations["step"]
        return "" if best is None else f"{steps[best]:,}"

    def _difference(self, run: RunFolder) -> str:
        found = self.difference(run)
        return f"{found.difference:+.4f}" if found else "unknown"

    def _interval(self, run: RunFolder) -> str:
        found = self.difference(run)
        return f"{found.low:+.4f}, {found.high:+.4f}" if found else "unknown"

    def conclusions(self) -> list[str]:
        """What can be said of each run beside the first, a sentence each."""
        first, sentences = self.runs[0].name, []
        for run in self.runs[1:]:
            found = self.difference(run)
            if found is None:
                sentences.append(
                    f"{run.name} cannot be compared with {first}: they were not evaluated on the "
                    "same text, cut in the same way, or it has fewer than 10 parts"
                )
            elif found.excludes_zero:
                word = "better" if found.high < 0 else "worse"
                sentences.append(f"{run.name} is {word} than {first}")
            else:
                sentences.append(f"{run.name} and {first}: no difference that this text can show")
        return sentences

    def text(self) -> str:
        """For a terminal."""
        rows = [("", [run.name for run in self.runs]), *self.rows()]
        widths = [
            2 + max(WIDTH, *(len(values[i]) for _, values in rows)) for i in range(len(self.runs))
        ]
        lines = [
            f"{name:<{NAME_WIDTH}}" + "".join(f"{v:>{w}}" for v, w in zip(vs, widths, strict=True))
            for name, vs in rows
        ]
        return "\n".join([*lines, "", *self.conclusions()])

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        runs = []
        for number, run in enumerate(self.runs):
            best, found = run.curves.best, self.difference(run) if number else None
            at = {name: run.curves.evaluations[name] for name in ("step", "loss")}
            runs.append(
                {
                    "run": str(run.path),
                    "settings": {name: values[number] for name, values in self.settings.items()},
                    "best_held_out_loss": None if best is None else at["loss"][best],
                    "best_step": None if best is None else at["step"][best],
                    "difference": found and found._asdict(),
                    **{
                        n: (run.curves.steps[n] or [None])[-1]
                        for n in ("step", "tokens", "seconds")
                    },
                }
            )
        return {"runs": runs, "conclusions": self.conclusions()}


def _short(value: Any) -> str:
    """A setting, at most a column wide: of a path its end."""
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 2 * WIDTH else f"...{text[3 - 2 * WIDTH :]}"


def _last(run: RunFolder, name: str) -> str:
    values = run.curves.steps[name]
    return f"{values[-1]:,.0f}" if values else ""
