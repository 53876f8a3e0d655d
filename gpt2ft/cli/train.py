"""`gpt2ft train`: fine-tune a model on a text."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Collection
from typing import Any

from ..config import TrainConfig
from ..data.built_in import BUILT_IN_TEXT
from ..run import recipe as recipes
from ..settings import names_where
from ..system.hub import HubUnavailableError
from ..system.signals import Stop, listening
from ..system.terminal import print_line
from .flags import Commands, add_flags
from .process import (
    are_several,
    ask_hub_once,
    meet,
    set_up_process,
    silence_lost_connections,
    spin_briefly,
    under_torchrun,
)
from .run_settings import train_config

Command = Callable[[TrainConfig], int]


def add_to(commands: Commands) -> None:
    """Add the command and its flags."""
    text = "fine-tune a model on a text"
    parser = commands.add_parser("train", help=text, description=TrainConfig.__doc__)
    parser.set_defaults(command=command, configuration=TrainConfig)
    add_run_flags(parser)


def add_run_flags(parser: argparse.ArgumentParser, without_help: Collection[str] = ()) -> None:
    """Add the flags of a run; those named `without_help` are taken, and not shown in the help."""
    parser.add_argument(
        "--config",
        metavar="NAME|FILE",
        help="recipe (wikitext2, quickstart) or YAML file of these settings, which flags "
        "override; without it and without a corpus: wikitext2",
    )
    either = parser.add_mutually_exclusive_group()
    for precision in ("fp16", "bf16"):
        text = f"same as --precision {precision}"
        options = {"dest": "precision", "action": "store_const", "const": precision}
        either.add_argument(f"--{precision}", help=text, **options)  # type: ignore[arg-type]
    add_flags(parser, TrainConfig, without_help=without_help)


def command(given: dict[str, Any]) -> int:
    """Carry out the run, the fork or the dry run asked for; returns the exit status."""

    def load(stop: Stop) -> Command:
        from ..run.finetune import finetune
        from ..run.forecast import dry_run
        from ..run.rewind import fork

        carry_out = fork if given.get("fork") else finetune
        return functools.partial(dry_run if given.get("dry_run") else carry_out, stop=stop)

    return run(given, load)


def run(given: dict[str, Any], load: Callable[[Stop], Command]) -> int:
    """Carry out the command for the run asked for; if none was and the hub is unreachable, for the
    quickstart."""
    spin_briefly()
    silence_lost_connections()
    with listening(second_ends=not under_torchrun()) as stop:
        config = train_config(given)
        dataset = None if config.dataset_name == BUILT_IN_TEXT else config.dataset_name
        ask_hub_once([config.loaded_model, config.tokenizer_name, dataset])
        with stop.postponed():  # an import of torch's that is interrupted aborts the process
            command = load(stop)
            # The files of a stream are read while the loop has a bar of its own.
            bars = not config.streaming
            set_up_process(config.device, config.threads, library_bars=bars)
        stop.check()
        meet(config.device, stop)
        stop.check()
        try:
            return command(config)
        except HubUnavailableError as error:
            if names_where(TrainConfig, "rules_out_fallback") & given.keys() or "config" in given:
                raise
            if are_several():  # the others may have found the hub
                raise HubUnavailableError(f"{error}, or --config quickstart") from error
            config = train_config({**given, "config": recipes.FALLBACK_RECIPE})
            print_line(f"gpt2ft: {error}")
            recipe, folder = recipes.FALLBACK_RECIPE, config.output_dir
            print_line(f"gpt2ft: running the recipe {recipe} instead, into {folder}")
            return command(config)
