"""`gpt2ft pilot`: which learning rate a run should have."""

from __future__ import annotations

import functools
from typing import Any

from ..config import TrainConfig
from ..system.signals import Stop
from .flags import Commands
from .run_settings import UsageError
from .train import Command, add_run_flags, run

# The pilot is for a run that begins anew.
EXCLUDED = ("resume", "fork", "step", "overwrite_output_dir")
FEWEST_RATES, MOST_RATES = 3, 9


def add_to(commands: Commands) -> None:
    """Add the command and its flags."""
    text = "find the learning rate for a run, by short runs"
    description = (
        "Find the learning rate for a run, by short runs that differ in nothing else. Takes the "
        "flags of train. Nothing is kept."
    )
    parser = commands.add_parser("pilot", help=text, description=description)
    parser.set_defaults(command=command, configuration=TrainConfig)
    text = "optimizer steps of a short run (default: a tenth of the run's, from 50 to 500)"
    names = ("--pilot_steps", "--pilot-steps")
    parser.add_argument(*names, type=int, default=None, metavar="N", help=text)
    text = (
        "learning rates to try, a factor of 3.2 apart, around --learning_rate or what is its "
        "default for the model (default: 5)"
    )
    names = ("--pilot_rates", "--pilot-rates")
    parser.add_argument(*names, type=int, default=5, metavar="N", help=text)
    add_run_flags(parser, without_help=(*EXCLUDED, "dry_run"))


def command(given: dict[str, Any]) -> int:
    """Try the rates, and recommend one; returns the exit status."""
    steps, n_rates = given.pop("pilot_steps"), given.pop("pilot_rates")
    if steps is not None and steps < 1:
        raise UsageError(f"--pilot_steps is {steps}, give a number >= 1")
    if not FEWEST_RATES <= n_rates <= MOST_RATES:
        raise UsageError(
            f"--pilot_rates is {n_rates}, give a number from {FEWEST_RATES} to {MOST_RATES}"
        )
    for name in EXCLUDED:
        if name in given:
            raise UsageError(f"--{name} is for train, leave it out")
    given["dry_run"] = True

    def load(stop: Stop) -> Command:
        from ..run.pilot import pilot

        return functools.partial(pilot, n_rates=n_rates, steps=steps, stop=stop)

    return run(given, load)
