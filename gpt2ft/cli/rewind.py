"""`gpt2ft rewind`: the model that a run had after any of its steps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..settings import setting
from ..system.signals import listening
from .flags import Commands, add_flags
from .process import set_up_process, spin_briefly
from .run_settings import UsageError, settings_of_run


@dataclass(frozen=True)
class RewindConfig:
    """The model that a run had after any of its steps, bit for bit.

    It is trained again from the checkpoint before that step.
    """

    step: int | None = None
    """The step, at or after that of the oldest checkpoint."""
    output: str | None = setting(None, flag="-o")
    """Folder for the model; default: RUN-step-N."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps; auto: CUDA, else MPS, else the CPU."""
    threads: int | None = None
    """Threads that compute on a CPU; default: as many as the run had."""
    debug: bool = False
    """Show the traceback of an error."""


def add_to(commands: Commands) -> None:
    """Add the command and its flags."""
    text = "get the model that a run had after any of its steps"
    parser = commands.add_parser("rewind", help=text, description=RewindConfig.__doc__)
    parser.set_defaults(command=command, configuration=RewindConfig)
    parser.add_argument("run", metavar="RUN", help="output folder of a run")
    add_flags(parser, RewindConfig)


def command(given: dict[str, Any]) -> int:
    """Train again up to the step, and save the model; returns the exit status."""
    folder = Path(given.pop("run"))
    config = RewindConfig(**given)
    if config.step is None or config.step < 1:
        raise UsageError("name the step with --step N, a number >= 1")
    try:
        settings = settings_of_run(str(folder))
    except ValueError as error:
        raise UsageError(str(error)) from error
    target = Path(
        config.output or f"{folder if folder.name else folder.resolve()}-step-{config.step}"
    )
    spin_briefly()
    with listening() as stop:
        with stop.postponed():  # an import of torch's that is interrupted aborts the process
            from ..run.rewind import rewind

            set_up_process(config.device, config.threads or settings.get("threads"))
        stop.check()
        return rewind(folder, config.step, target, stop=stop)
