"""`gpt2ft verify-resume`: check that stopping and resuming a run gives the same bits."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from ..config import TrainConfig
from ..system.signals import Stop
from .flags import Commands
from .process import launched_together
from .run_settings import UsageError
from .train import Command, add_run_flags, run

# Settings that mean nothing for a run of which nothing is kept.
OF_A_KEPT_RUN = (
    *("output_dir", "overwrite_output_dir", "resume", "logging_steps", "fsdp"),
    *("eval_steps", "save_steps", "save_total_limit", "save_best", "keep_every"),
    *("early_stopping_patience", "sample_prompts", "sample_steps", "report_to"),
    *("fork", "step", "dry_run", "json"),
)


def add_to(commands: Commands) -> None:
    """Add the command and its flags."""
    text = "check that stopping and resuming a run gives the same bits as not stopping"
    parser = commands.add_parser(
        "verify-resume", help=text, description=f"{text.capitalize()}. Nothing is kept."
    )
    parser.set_defaults(command=command, configuration=TrainConfig)
    text = "optimizer steps before the stop, and again after it (default: 3)"
    parser.add_argument("--steps", type=int, default=3, metavar="N", help=text)
    text = "numbers of processes, such as 1,2, on which the run is to give the same bits"
    parser.add_argument("--processes", metavar="N,N", help=text)
    add_run_flags(parser, without_help=OF_A_KEPT_RUN)


def command(given: dict[str, Any]) -> int:
    """Try it, on the numbers of processes if they are named; returns the exit status."""
    steps = given.pop("steps")
    if steps < 1:
        raise UsageError(f"--steps is {steps}, give a number >= 1")
    if launched_together() > 1:
        raise UsageError(
            "verify-resume is not started by torchrun: it starts processes itself, see --processes"
        )
    if "resume" in given:
        raise UsageError("--resume is for train; verify-resume makes a run of its own to resume")
    processes = given.pop("processes", None)
    if processes is not None:
        counts = _counts(processes)
        return run(given, lambda _: functools.partial(_verify_processes, counts, steps))

    def load(stop: Stop) -> Command:
        from ..run.verify_resume import verify_resume

        return functools.partial(verify_resume, steps=steps)

    return run(given, load)


def _counts(text: str) -> list[int]:
    """The numbers of `1,2`."""
    counts = [int(word) for word in text.split(",") if word.strip().isdecimal() and int(word)]
    if len(counts) != len(text.split(",")) or len(set(counts)) < 2:
        raise UsageError(f"--processes is {text}, give at least two numbers, such as 1,2")
    return counts


def _verify_processes(counts: Sequence[int], steps: int, config: TrainConfig) -> int:
    from ..run.verify_processes import verify_processes

    return verify_processes(config, counts=counts, steps=steps)
