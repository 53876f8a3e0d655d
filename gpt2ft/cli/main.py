"""Fine-tune GPT-2 and other causal language models, and generate text with them.

Each command has a file of its own beside this one. Whatever takes long to import (torch,
transformers, datasets) is imported where it is used, so that `--help` and usage errors answer at
once.
"""

from __future__ import annotations

import argparse
import platform
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

from .. import __version__
from ..system.signals import Stopped
from ..system.terminal import discard_output, error_line, print_line, printable
from . import (
    cache,
    copies,
    evaluate,
    export,
    generate,
    pilot,
    push,
    report,
    reproduce,
    rewind,
    track,
    train,
    verify_resume,
)
from .flags import USAGE_ERROR, Parser, as_switches
from .process import whose_error
from .run_settings import UsageError

COMMANDS = (
    *(train, pilot, generate, evaluate, report, copies, track),
    *(export, push, rewind, reproduce, verify_resume, cache),
)
FAILED = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: `gpt2ft train`, `generate`, and so on; returns the exit status.

    `arguments` are those after the program's name; None takes them from `sys.argv`.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    return _guarded(lambda: _command(given), debug="--debug" in given)


def _command(arguments: Sequence[str]) -> int:
    """Carry out what the arguments ask for; returns the exit status."""
    parser = make_parser()
    known, unknown = parser.parse_known_args(as_switches(arguments))
    given = vars(known)
    command, configuration = given.pop("command"), given.pop("configuration")
    if unknown:
        parser.refuse(unknown, configuration)
    status: int = command(given)
    return status


def make_parser() -> Parser:
    """The flags of all commands; the result holds what was given, the `command` to be called with
    it, and the class of its `configuration`."""
    parser = Parser(prog="gpt2ft", description=__doc__.splitlines()[0])
    text = "show the versions of gpt2ft and of what it stands on"
    parser.add_argument("--version", action=_Version, nargs=0, dest=argparse.SUPPRESS, help=text)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_to(commands)
    return parser


class _Version(argparse.Action):
    """Shows the versions of this and of what it stands on."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
        shown = f"gpt2ft {__version__} (Python {platform.python_version()}, {libraries})"
        print(shown)
        parser.exit()


def _guarded(command: Callable[[], int], *, debug: bool) -> int:
    """Run a command; an error becomes one line on standard error, and an exit status."""
    try:
        for stream in (sys.stdin, sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(encoding="utf-8", errors="replace")
        return command()
    except Stopped as stopped:
        print_line(f"{stopped}; nothing is lost, give the same command again")
        return 128 + stopped.signal
    except KeyboardInterrupt:
        print("gpt2ft: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read the output has gone
        discard_output()
        return 141
    except Exception as error:
        if debug:
            print(printable(traceback.format_exc()), file=sys.stderr)
            return USAGE_ERROR if isinstance(error, UsageError) else FAILED
        status = USAGE_ERROR if isinstance(error, UsageError) else FAILED
        if (whose := whose_error(error_line(error), is_usage=status == USAGE_ERROR)) is not None:
            # At once: the lines of several processes must not run into each other.
            sys.stderr.write(f"gpt2ft: error{whose}: {printable(error_line(error))}\n")
        return status
