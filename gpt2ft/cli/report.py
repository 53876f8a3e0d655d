"""`gpt2ft report`, `compare`, `plot`: runs as a page, side by side, as a picture."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..settings import setting
from ..system.terminal import print_line
from .flags import Commands, add_flags
from .run_settings import UsageError


@dataclass(frozen=True)
class ReportConfig:
    """Write the report of a run, finished or not: one page that opens from disk."""

    output: str | None = setting(None, flag="-o")
    """File to write; default: report.html in the run's folder."""
    debug: bool = False
    """Show the traceback of an error."""


@dataclass(frozen=True)
class CompareConfig:
    """Say how runs differ, in settings and in what came of them."""

    html: str | None = None
    """Also write a page with the curves laid over each other, into this file."""
    json: bool = False
    """Write the comparison as JSON."""
    debug: bool = False
    """Show the traceback of an error."""


@dataclass(frozen=True)
class PlotConfig:
    """Draw training and held-out loss of runs, for papers."""

    output: str = setting("loss.png", flag="-o")
    """File to write: .png, .svg or .pdf."""
    width: float = 5.5
    """Width in inches."""
    debug: bool = False
    """Show the traceback of an error."""


def add_to(commands: Commands) -> None:
    """Add the commands and their flags."""
    _add(commands, "report", "write a page that shows a run", ReportConfig, _report, several=False)
    text = "say how runs differ, and which is better"
    _add(commands, "compare", text, CompareConfig, _compare, several=True)
    _add(commands, "plot", "draw the losses of runs", PlotConfig, _plot, several=True)


def _add(
    commands: Commands,
    name: str,
    text: str,
    kind: type[Any],
    command: Callable[[dict[str, Any]], int],
    *,
    several: bool,
) -> None:
    parser = commands.add_parser(name, help=text, description=kind.__doc__)
    parser.set_defaults(command=command, configuration=kind)
    words = "output folders of runs" if several else "output folder of a run"
    options: dict[str, Any] = {"nargs": "+"} if several else {}
    parser.add_argument("runs", metavar="RUN", help=words, **options)
    add_flags(parser, kind)


def _report(given: dict[str, Any]) -> int:
    folder = Path(given.pop("runs"))
    config = ReportConfig(**given)
    from ..run.reporting import write_report

    path = write_report(folder, Path(config.output) if config.output else None)
    print_line(f"the report is in {path}")
    return 0


def _compare(given: dict[str, Any]) -> int:
    folders = given.pop("runs")
    config = CompareConfig(**given)
    if len(folders) < 2:
        raise UsageError("name at least two runs to compare, of one there is `gpt2ft report`")
    from ..evaluation.run_folder import read_run_folder
    from ..run.reporting import compared, write_comparison

    comparison = compared([read_run_folder(folder) for folder in folders])
    if config.json:
        print(json.dumps(comparison.as_json(), indent=1))
    else:
        print_line(comparison.text())
    if config.html:
        write_comparison(comparison, Path(config.html))
        if not config.json:
            print_line(f"\nthe page is in {config.html}")
    return 0


def _plot(given: dict[str, Any]) -> int:
    folders = given.pop("runs")
    config = PlotConfig(**given)
    from ..evaluation.plot import plot_losses
    from ..evaluation.run_folder import read_run_folder

    plot_losses([read_run_folder(f) for f in folders], Path(config.output), width=config.width)
    print_line(f"the picture is in {config.output}")
    return 0
