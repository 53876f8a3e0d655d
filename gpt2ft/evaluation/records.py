"""What a run records of its steps, evaluations and samples, a line of JSON each; and reading it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from ..system import durable

METRICS = "metrics.jsonl"
"""Of each step: `step` (from 1), `loss` (mean over its targets, nats), `learning_rate`,
`grad_norm`, `n_targets`, `skipped`, `seconds`. Of each evaluation: `step`, `eval_loss`,
`eval_perplexity`, `n_targets` and more, see `card`. What is not finite is null."""
SAMPLES = "samples.jsonl"
"""Of each text that the model wrote on the way: `step`, `prompt`, `text` (without the prompt),
`seed`."""


def append_records(path: Path, *records: dict[str, Any]) -> None:
    """Append records to a file, durably."""
    durable.append(path, "".join(_line(record) for record in records).encode())


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records of a file that has them; half a line, from a crash, is left out."""
    records = []
    for line in path.read_bytes().split(b"\n") if path.is_file() else ():
        try:
            record = json.loads(line)
        except ValueError:  # half a line, or half a character
            continue
        if isinstance(record, dict) and "step" in record:
            records.append(record)
    return records


def copy_records(source: Path, target: Path) -> None:
    """Take over the records of another folder, if it has some."""
    if source.is_file():
        durable.replace(target, source.read_bytes())


def forget_after(path: Path, step: int) -> list[dict[str, Any]]:
    """Drop from a file what a run that resumes at `step` will do again; returns the rest."""
    kept = [record for record in read_records(path) if record["step"] <= step]
    if path.is_file():
        durable.replace(path, "".join(_line(record) for record in kept).encode())
    return kept


def finite(value: Any) -> Any:
    """A value for JSON, which has no number for what is not finite: there None."""
    if isinstance(value, dict):
        return {name: finite(item) for name, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _line(record: dict[str, Any]) -> str:
    """A record as a line of JSON."""
    return json.dumps(finite(record), ensure_ascii=False) + "\n"
