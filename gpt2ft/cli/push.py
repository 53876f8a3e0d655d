"""`gpt2ft push`: a finished run to the hub, with a card made from it."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checkpoint.folders import is_finished
from ..run.recipe import SETTINGS_FILE
from ..system.signals import listening
from ..system.terminal import print_line
from .flags import Commands, add_flags
from .run_settings import UsageError

LICENSES = "mit, apache-2.0, cc-by-4.0, cc-by-sa-4.0, cc-by-nc-4.0, gpl-3.0, llama3.2, other"


@dataclass(frozen=True)
class PushConfig:
    """Send the model of a finished run to the Hugging Face hub, with a card made from the run.

    Model, tokenizer and card are sent. Checkpoints, records, settings and the text that it was
    trained on stay here.
    """

    license: str | None = None
    """Licence of the model, as the hub calls it: mit, apache-2.0, cc-by-4.0, ...; default: it is
    asked for."""
    private: bool = False
    """Make the repository private."""
    dry_run: bool = False
    """Show what would be sent, and the card; send nothing."""
    debug: bool = False
    """Show the traceback of an error."""


def add_to(commands: Commands) -> None:
    """Add the command and its flags."""
    text = "send the model of a finished run to the Hugging Face hub, with a card"
    parser = commands.add_parser("push", help=text, description=PushConfig.__doc__)
    parser.set_defaults(command=command, configuration=PushConfig)
    parser.add_argument("folder", metavar="RUN", help="the output folder of a finished run")
    text = "name of the model on the hub: USER/MODEL"
    parser.add_argument("name", metavar="NAME", help=text)
    add_flags(parser, PushConfig)


def command(given: dict[str, Any]) -> int:
    """Show what is sent, and send it; returns the exit status."""
    folder, name = Path(given.pop("folder")), given.pop("name")
    config = PushConfig(**given)
    if not (folder / SETTINGS_FILE).is_file():
        raise UsageError(f"{folder} is not the output folder of a run")
    if not is_finished(folder):
        resume = f"gpt2ft train --output_dir {folder} --resume"
        raise UsageError(f"the run in {folder} has not finished: go on with it, {resume}")
    license = config.license or _ask_for_license()
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", license):
        raise UsageError(f"--license {license} is none, give for example one of {LICENSES}")
    with listening() as stop:
        from ..run.push import packed, push

        parcel = packed(folder, name, license)
        print_line(parcel.text())
        if config.dry_run:
            print_line(f"\nthe card, README.md:\n\n{parcel.card}\nnothing was sent")
            return 0
        return push(parcel, private=config.private, stop=stop)


def _ask_for_license() -> str:
    """What is typed. Raises `UsageError` where nobody can type."""
    if not sys.stdin.isatty():
        raise UsageError(f"give --license, for example one of {LICENSES}")
    print_line(f"Under which licence may others use the model? For example: {LICENSES}")
    try:
        return input("licence: ").strip()
    except EOFError:
        raise UsageError("no licence was given") from None
