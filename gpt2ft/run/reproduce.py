"""A run made again from its record, and compared with it step by step."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..config import TrainConfig
from ..evaluation.records import METRICS, finite, read_records
from ..parallel import processes
from ..system.signals import Stop
from ..system.terminal import print_line
from .finetune import finetune
from .provenance import read_run_file
from .rewind import fork

COMPARED = ("loss", "grad_norm", "learning_rate", "n_targets", "eval_loss")
MADE_WITH = ("gpt2ft", "versions", "machine", "threads", "processes", "data", "weights")


def reproduce(folder: Path, config: TrainConfig, *, stop: Stop) -> int:
    """Make the run in `folder` again, into `config.output_dir`; returns 0 if all was the same.

    `config` is that of the run but for its folder. Says at which step, if any, the two part, and
    what differs between them. Returns 1 if they part, 128 + signal if it was stopped. Raises
    `ValueError` if the folder has no records, and what `finetune` raises.
    """
    records = read_records(folder / METRICS)
    if not any("loss" in record for record in records):
        raise ValueError(f"{folder} has no records of steps, name the output folder of a run")
    facts = read_run_file(folder)
    comparison = RecordComparison(records)
    origin = facts.get("fork")
    if origin:
        config = dataclasses.replace(config, fork=origin["of"], step=origin["step"])
    carry_out = fork if origin else finetune
    status = carry_out(config, stop=stop, watch=[comparison])
    if status:
        return status

    def judged() -> str:
        now = read_run_file(Path(config.output_dir))
        print_line(f"\n{comparison.verdict(facts, now)}")
        return "same" if comparison.same(facts, now) else ""

    return 0 if processes.on_main(judged) else 1


class RecordComparison:
    """Compares the records of a run with those of an earlier one, as they are made."""

    def __init__(self, records: Sequence[Mapping[str, Any]]) -> None:
        self._expected = {
            (r["step"], "loss" in r): r for r in records if {"loss", "eval_loss"} & {*r}
        }
        self._equal = 0
        self._parted: str | None = None

    def __call__(self, records: Sequence[Mapping[str, Any]]) -> None:
        for record in records:
            expected = self._expected.get((record["step"], "loss" in record))
            if expected is None or self._parted:
                continue
            differ = [
                f"{name} {record[name]!r}, recorded {expected.get(name)!r}"
                for name in COMPARED
                if name in record and finite(record[name]) != expected.get(name)
            ]
            if differ:
                what = "step" if "loss" in record else "the evaluation at step"
                self._parted = f"the runs part at {what} {record['step']}: {'; '.join(differ)}"
                print_line(self._parted)
            elif "loss" in record:
                self._equal += 1

    def same(self, then: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
        """Whether all steps were, and the weights at the end."""
        before, after = (facts.get("weights", {}).get("after") for facts in (then, now))
        return self._parted is None and after is not None and before == after

    def verdict(self, then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
        """What came of it, and what the two runs were made with, where that differs."""
        lines = [f"{self._equal:,} steps are the same: loss, gradient norm and learning rate"]
        if self._parted:
            lines.append(self._parted)
        after = now.get("weights", {}).get("after")
        if self.same(then, now):
            lines.append(f"the finished weights are the same, sha256 {after}")
        elif then.get("weights", {}).get("after") is None:
            lines.append("the recorded run has not finished: its weights cannot be compared")
        else:
            lines.append("the finished weights are NOT the same")
        found = differences(then, now)
        if found and not self.same(then, now):
            lines += ["what differs, and may be why:", *(f"  {line}" for line in found)]
        elif not self.same(then, now):
            lines.append("versions, machine, threads and data are the same as far as is recorded")
        return "\n".join(lines)


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What two runs were made with, where that differs: `versions torch: 2.12 then, 2.13 now`."""
    lines = []
    for name in MADE_WITH:
        a, b = (facts.get(name) for facts in (then, now))
        if isinstance(a, dict) and isinstance(b, dict):
            lines += [
                f"{name} {key}: {a.get(key)} then, {b.get(key)} now"
                for key in {**a, **b}
                if a.get(key) != b.get(key) and (name, key) != ("weights", "after")
            ]
        elif a != b:
            lines.append(f"{name}: {a} then, {b} now")
    for entry in then.get("resumed", []):
        lines.append(f"the run was resumed at step {entry['step']}")
    return lines
