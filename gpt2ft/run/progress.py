"""What a run shows while it trains: the progress bar and log lines; and metrics.jsonl."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ..evaluation.records import append_records
from ..loop import StepResult, TrainState
from ..system.terminal import bar, print_line

Watch = Callable[[Sequence[dict[str, Any]]], None]
"""What is called with records, those of steps or of an evaluation, as they are made."""

SECONDS_BETWEEN_REFRESHES = 0.5
FIRST_STEPS = 4  # by which the whole run is forecast; the first of them warms up


class TrainingReport:
    """Progress bar, a line every `logging_steps`, and a record of every step in metrics.jsonl.

    Losses stay on the device until a line is due or the bar is refreshed. Without a path nothing is
    recorded: where several processes train, one does it. Each of `watch` gets the records too.
    """

    def __init__(
        self,
        path: Path | None,
        state: TrainState,
        *,
        max_steps: int,
        logging_steps: int,
        watch: Sequence[Watch] = (),
    ) -> None:
        self._path = path
        self._watch = watch
        self._max_steps = max_steps
        self._logging_steps = logging_steps
        self._pending: list[StepResult] = []  # not yet read back from the device
        self._window: list[dict[str, Any]] = []  # recorded since the last line
        self._since = (time.monotonic(), state.tokens)
        self._refreshed = 0.0
        self._last_step = time.monotonic()
        self._seconds_of: list[float] = []  # of the steps that are pending
        self.first_seconds: list[float] = []
        """Seconds of each of the `FIRST_STEPS`, as far as they are done."""
        self.seconds = 0.0
        """Of all steps so far."""
        self.paused_seconds = 0.0
        """Of all that was not a step: evaluations, samples, saves."""
        self._bar = bar(max_steps, "training", unit="step", initial=state.step)

    def step(self, result: StepResult, state: TrainState) -> None:
        """Take note of a step; log if a line is due."""
        now = time.monotonic()
        self._pending.append(result)
        self._seconds_of.append(now - self._last_step)
        self.seconds += now - self._last_step
        self.first_seconds += [now - self._last_step][: FIRST_STEPS - len(self.first_seconds)]
        self._last_step = now
        self._bar.update(state.step - self._bar.n)
        if state.step % self._logging_steps == 0 or state.step >= self._max_steps:
            self.log(state)
        elif not self._bar.disable and time.monotonic() > self._refreshed:
            self._refreshed = time.monotonic() + SECONDS_BETWEEN_REFRESHES
            rate = self._tokens_per_second(state)
            self._bar.set_postfix_str(  # reads the loss back from the device
                f"loss {result.loss.item():.3f}, lr {result.learning_rate:.1e}, {rate:,.0f} tok/s"
            )

    def flush(self) -> None:
        """Read back what is pending, and record it."""
        if not self._pending:
            return
        tensors = ("loss", "grad_norm", "skipped")
        columns = {
            name: torch.stack([getattr(result, name) for result in self._pending]).tolist()
            for name in tensors
        }
        records = [
            {
                "step": result.step,
                "learning_rate": result.learning_rate,
                "n_targets": result.n_targets,
                "seconds": round(self._seconds_of[i], 4),
                **{name: columns[name][i] for name in tensors},
            }
            for i, result in enumerate(self._pending)
        ]
        self.record(*records)
        self._window += records
        self._pending.clear()
        self._seconds_of.clear()

    def log(self, state: TrainState) -> None:
        """One line for all steps since the last: their mean loss, weighted by tokens."""
        self.flush()
        if not self._window:
            return
        finite = [record for record in self._window if math.isfinite(record["loss"])]
        n_targets = sum(record["n_targets"] for record in finite)
        loss_sum = sum(record["loss"] * record["n_targets"] for record in finite)
        mean = loss_sum / n_targets if n_targets else math.nan
        skipped = sum(record["skipped"] for record in self._window)
        last = self._window[-1]
        left = (self._max_steps - state.step) * self._seconds() / len(self._window)
        print_line(
            f"step {state.step:>6}/{self._max_steps}  loss {mean:.4f}  "
            f"lr {last['learning_rate']:.2e}  grad_norm {last['grad_norm']:.2f}  "
            f"{self._tokens_per_second(state):,.0f} tok/s  {tqdm.format_interval(left)} left"
            + (f"  skipped {skipped}" if skipped else "")
        )
        self._window.clear()
        self._since = (time.monotonic(), state.tokens)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out of the rate the time that goes into something else than steps."""
        start = time.monotonic()
        yield
        paused = time.monotonic() - start
        self._since = (self._since[0] + paused, self._since[1])
        self._last_step += paused
        self.paused_seconds += paused
        self._bar.unpause()

    def record(self, *records: dict[str, Any]) -> None:
        """Append to metrics.jsonl."""
        if self._path is None:
            return
        append_records(self._path, *records)
        for watch in self._watch:
            watch(records)

    def close(self) -> None:
        """Record what is left, and remove the bar."""
        with contextlib.suppress(OSError):  # it may be for that error that the run ends
            self.flush()
        self._bar.close()

    def _seconds(self) -> float:
        return max(1e-9, time.monotonic() - self._since[0])

    def _tokens_per_second(self, state: TrainState) -> float:
        return (state.tokens - self._since[1]) / self._seconds()
