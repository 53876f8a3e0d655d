"""`gpt2ft reproduce`: make a run again from its record, and compare."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..settings import setting
from ..system.signals import Stop
from .flags import Commands, add_flags
from .run_settings import UsageError, settings_of_run
from .train import Command, run


@dataclass(frozen=True)
class ReproduceConfig:
    """Make a run again in another folder, and say at which step, if any, the two part."""

    output: str | None = setting(None, flag="-o")
    """Folder for the new run; default: RUN-reproduced."""
    device: str | None = None
    """cpu, cuda, cuda:1, mps; default: as the run had."""
    threads: int | None = None
    """Threads that compute on a CPU; default: as many as the run had."""
    debug: bool = False
    """Show the traceback of an error."""


def add_to(commands: Commands) -> None:
    """Add the command and its flags."""
    text = "make a run again from its record, and compare the two step by step"
    parser = commands.add_parser("reproduce", help=text, description=ReproduceConfig.__doc__)
    parser.set_defaults(command=command, configuration=ReproduceConfig)
    parser.add_argument("run", metavar="RUN", help="output folder of a run")
    add_flags(parser, ReproduceConfig)


def command(given: dict[str, Any]) -> int:
    """Make the run again; returns the exit status, 1 if the two part."""
    folder = Path(given.pop("run"))
    config = ReproduceConfig(**given)
    try:
        settings = settings_of_run(str(folder))
    except ValueError as error:
        raise UsageError(str(error)) from error
    settings |= {
        "output_dir": config.output or f"{folder if folder.name else folder.resolve()}-reproduced",
        "report_to": [],
    }
    for name in ("device", "threads"):
        if getattr(config, name) is not None:
            settings[name] = getattr(config, name)

    def load(stop: Stop) -> Command:
        from ..run.reproduce import reproduce

        return functools.partial(reproduce, folder, stop=stop)

    return run(settings, load)
