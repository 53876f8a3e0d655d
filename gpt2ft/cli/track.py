"""`gpt2ft track`: give the records of a run to a tracker afterwards."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import TRACKERS
from ..settings import setting
from ..system.terminal import print_line
from .flags import Commands, add_flags
from .run_settings import UsageError, settings_of_run


@dataclass(frozen=True)
class TrackConfig:
    """Give the records of a run, finished or not, to trackers."""

    report_to: list[str] = setting(list)
    """tensorboard, wandb, trackio; each needs the extra of its name."""
    debug: bool = False
    """Show the traceback of an error."""


def add_to(commands: Commands) -> None:
    """Add the command and its flags."""
    text = "give the records of a run to TensorBoard, Weights & Biases or trackio"
    parser = commands.add_parser("track", help=text, description=TrackConfig.__doc__)
    parser.set_defaults(command=command, configuration=TrackConfig)
    parser.add_argument("run", metavar="RUN", help="output folder of a run")
    add_flags(parser, TrackConfig)


def command(given: dict[str, Any]) -> int:
    """Replay the records; returns the exit status."""
    folder = Path(given.pop("run"))
    config = TrackConfig(**given)
    if not config.report_to or not set(config.report_to) <= set(TRACKERS) - {"none"}:
        raise UsageError("name a tracker, --report_to tensorboard, wandb or trackio")
    try:
        settings = settings_of_run(str(folder))
    except ValueError as error:
        raise UsageError(str(error)) from error
    from ..evaluation.run_folder import read_run_folder
    from ..run.trackers import tracked

    records = read_run_folder(folder).records
    with tracked(config.report_to, folder, settings, first_step=0) as trackers:
        for tracker in trackers:
            tracker(records)
    print_line(f"{len(records):,} records of {folder} are in {', '.join(config.report_to)}")
    return 0
