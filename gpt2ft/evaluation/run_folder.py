"""What a run left in its output folder, for reports and comparisons."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checkpoint.manifest import CheckpointError, read_json
from .card import CARD
from .curves import Curves, curves
from .records import METRICS, SAMPLES, read_records

RUN_FILE = "run.json"
COPIES = "copies.json"
"""In a run's folder: `samples`, of each its `prompt`, `text` and what `measure_copies` found;
`model` and `human`, the summaries of the samples and of as much held-out text; `leakage`;
`train_tokens`; `sampling`, how the samples were drawn, null if they are from a file; and
`model_sha256`, by which a reader knows whether the run was trained on since."""
REPORT = "report.html"


@dataclass(frozen=True)
class RunFolder:
    """A run, finished or not. What it did not write is empty."""

    path: Path
    records: list[dict[str, Any]]
    samples: list[dict[str, Any]]
    card: dict[str, Any]
    facts: dict[str, Any]
    """Of run.json: versions, machine, hashes, times."""
    copies: dict[str, Any]
    curves: Curves

    @property
    def name(self) -> str:
        return self.path.resolve().name


def read_run_folder(path: str | Path) -> RunFolder:
    """Read a run's folder. Raises `ValueError` if there are no records of a run in it."""
    folder = Path(path)
    records = read_records(folder / METRICS)
    if not records:
        raise ValueError(
            f"{folder} holds no {METRICS} with records, name the output folder of a run"
        )
    card, facts, copies = (read_object(folder / name) for name in (CARD, RUN_FILE, COPIES))
    samples = read_records(folder / SAMPLES)
    return RunFolder(folder, records, samples, card, facts, copies, curves(records))


def read_object(path: Path) -> dict[str, Any]:
    """An object of a JSON file, empty if there is none or it is damaged."""
    try:
        return read_json(path)
    except CheckpointError:
        return {}
