"""Reports of runs: what they were set to, and the pages that show it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import __version__
from ..config import TrainConfig
from ..evaluation.compare import Comparison
from ..evaluation.report import page
from ..evaluation.run_folder import REPORT, RunFolder, read_run_folder
from ..system import durable
from .recipe import SETTINGS_FILE, load_recipe

UNSAID = ("output_dir", "threads", "micro_batches_per_step")  # where and how, not what


def write_report(folder: Path, output: Path | None = None) -> Path:
    """Write the report of the run in a folder; returns where it is.

    Raises `ValueError` if there is no run, `OSError` if it cannot be written.
    """
    run = read_run_folder(folder)
    settings = recorded_settings(run)
    defaults = vars(TrainConfig())
    chosen = {
        name: [value]
        for name, value in settings.items()
        if name not in UNSAID and value != defaults.get(name)
    }
    html = page([run], version=__version__, settings=chosen, command=_command(run))
    output = output or folder / REPORT
    durable.replace(output, html.encode())
    return output


def compared(runs: Sequence[RunFolder]) -> Comparison:
    """Runs side by side, the first of them the baseline."""
    return Comparison(runs, differing_settings(runs))


def write_comparison(comparison: Comparison, output: Path) -> None:
    """Write the page of several runs with their curves laid over each other."""
    html = page(
        comparison.runs,
        version=__version__,
        settings=comparison.settings,
        differences=comparison.text(),
    )
    durable.replace(output, html.encode())


def recorded_settings(run: RunFolder) -> dict[str, Any]:
    """All settings of a run; empty if they were not written down, or by another version."""
    path = run.path / SETTINGS_FILE
    try:
        return load_recipe(str(path)) if path.is_file() else {}
    except ValueError:
        return {}


def differing_settings(runs: Sequence[RunFolder]) -> Mapping[str, Sequence[Any]]:
    """Settings that are not the same in all runs, with their value in each."""
    each = [recorded_settings(run) for run in runs]
    names = [name for name in vars(TrainConfig()) if name not in UNSAID]
    return {
        name: [settings.get(name, "") for settings in each]
        for name in names
        if len({json.dumps(settings.get(name)) for settings in each}) > 1
    }


def _command(run: RunFolder) -> str:
    """What makes the run again: its own command line, or the one that goes by its record."""
    return "\n".join(
        filter(None, [run.facts.get("command"), f"gpt2ft reproduce {shlex.quote(str(run.path))}"])
    )
