"""Fine-tune GPT-2 and other causal language models, and generate text with them.

Whatever takes long to import (torch, transformers, datasets) is imported where it is used, so that
`--help` and usage errors answer at once.
"""

from __future__ import annotations

import argparse
import functools
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable, Collection, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .. import __version__
from ..checkpoint.folders import is_finished
from ..checkpoint.manifest import MANIFEST, read_json
from ..config import TrainConfig
from ..data.built_in import BUILT_IN_TEXT
from ..generation.config import GenerateConfig
from ..models.built_in import located
from ..run import recipe as recipes
from ..settings import names_where
from ..system.hub import HubUnavailableError, go_offline_if_unreachable
from ..system.signals import Stop, Stopped, listening
from ..system.terminal import discard_output, error_line, print_line, printable
from .flags import USAGE_ERROR, Parser, add_flags, as_switches
from .process import (
    are_several,
    launched_together,
    meet,
    set_up_process,
    silence_lost_connections,
    spin_briefly,
    under_torchrun,
    whose_error,
)
from .prompts import Prompt, read_prompts
from .run_settings import UsageError, train_config

FAILED = 1
# Settings that mean nothing for a run of which nothing is kept.
OF_A_KEPT_RUN = (
    *("output_dir", "overwrite_output_dir", "resume", "logging_steps", "fsdp"),
    *("eval_steps", "save_steps", "save_total_limit"),
)
Command = Callable[[TrainConfig], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: `gpt2ft train`, `generate`, `verify-resume`; returns the exit status.

    `arguments` are those after the program's name; None takes them from `sys.argv`.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    return _guarded(lambda: _command(given), debug="--debug" in given)


def _command(arguments: Sequence[str]) -> int:
    """Carry out what the arguments ask for; returns the exit status."""
    parser = make_parser()
    known, unknown = parser.parse_known_args(as_switches(arguments))
    given = vars(known)
    command = given.pop("command")
    if unknown:
        parser.refuse(unknown, GenerateConfig if command is _generate else TrainConfig)
    status: int = command(given)
    return status


def make_parser() -> Parser:
    """The flags of all commands; what was given, and which `command` is to be called with it."""
    parser = Parser(prog="gpt2ft", description=__doc__.splitlines()[0], allow_abbrev=False)
    text = "show the versions of gpt2ft and of what it stands on"
    parser.add_argument("--version", action=_Version, nargs=0, dest=argparse.SUPPRESS, help=text)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    options: dict[str, Any] = {"argument_default": argparse.SUPPRESS, "allow_abbrev": False}

    text = "fine-tune a model on a text"
    train = commands.add_parser("train", help=text, description=TrainConfig.__doc__, **options)
    train.set_defaults(command=_train)
    text = "continue texts with a model"
    generate = commands.add_parser(
        "generate", help=text, description=GenerateConfig.__doc__, **options
    )
    generate.set_defaults(command=_generate)
    add_flags(generate, GenerateConfig)
    text = "check that stopping and resuming a run gives the same bits as not stopping"
    verify = commands.add_parser(
        "verify-resume", help=text, description=f"{text.capitalize()}. Nothing is kept.", **options
    )
    verify.set_defaults(command=_verify_resume)
    text = "optimizer steps before the stop, and again after it (default: 3)"
    verify.add_argument("--steps", type=int, default=3, metavar="N", help=text)
    text = "numbers of processes, such as 1,2, on which the run is to give the same bits"
    verify.add_argument("--processes", metavar="N,N", help=text)
    _add_run_flags(train)
    _add_run_flags(verify, without_help=OF_A_KEPT_RUN)
    return parser


def _add_run_flags(parser: argparse.ArgumentParser, without_help: Collection[str] = ()) -> None:
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


class _Version(argparse.Action):
    """Shows the versions of this and of what it stands on."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
        shown = f"gpt2ft {__version__} (Python {platform.python_version()}, {libraries})"
        print(shown)
        parser.exit()


def _train(given: dict[str, Any]) -> int:
    def load(stop: Stop) -> Command:
        from ..run.finetune import finetune

        return functools.partial(finetune, stop=stop)

    return _run(given, load)


def _verify_resume(given: dict[str, Any]) -> int:
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
        return _run(given, lambda _: functools.partial(_verify_processes, counts, steps))

    def load(stop: Stop) -> Command:
        from ..run.verify_resume import verify_resume

        return functools.partial(verify_resume, steps=steps)

    return _run(given, load)


def _counts(text: str) -> list[int]:
    """The numbers of `1,2`."""
    counts = [int(word) for word in text.split(",") if word.strip().isdecimal() and int(word)]
    if len(counts) != len(text.split(",")) or len(set(counts)) < 2:
        raise UsageError(f"--processes is {text}, give at least two numbers, such as 1,2")
    return counts


def _verify_processes(counts: Sequence[int], steps: int, config: TrainConfig) -> int:
    from ..run.verify_processes import verify_processes

    return verify_processes(config, counts=counts, steps=steps)


def _run(given: dict[str, Any], load: Callable[[Stop], Command]) -> int:
    """Carry out the command for the run asked for; if none was and the hub is unreachable, for the
    quickstart."""
    spin_briefly()
    silence_lost_connections()
    with listening(second_ends=not under_torchrun()) as stop:
        config = train_config(given)
        dataset = None if config.dataset_name == BUILT_IN_TEXT else config.dataset_name
        _ask_hub_once([config.loaded_model, config.tokenizer_name, dataset])
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


def _generate(given: dict[str, Any]) -> int:
    try:
        config = GenerateConfig(**given)
        name = config.model_name_or_path or newest_finished_run(Path.cwd())
    except ValueError as error:
        raise UsageError(str(error)) from error
    if config.model_name_or_path is None:
        _note_choice(name)
    prompts = [Prompt(text) for text in config.prompt]
    prompts += read_prompts(config.prompt_file) if config.prompt_file else []
    _ask_hub_once([name, config.tokenizer_name])
    spin_briefly()
    with listening() as stop, stop.postponed():  # as for training
        from .generate import continue_texts

        set_up_process(config.device, config.threads)
    stop.check()
    return continue_texts(config, name, prompts)


def newest_finished_run(folder: Path) -> str:
    """The folder in `folder` whose run was finished last. Raises `ValueError` if there is none."""
    finished = [path for path in folder.iterdir() if path.is_dir() and is_finished(path)]
    if not finished:
        raise ValueError(
            f"no folder in {folder} holds a finished run: name a model, for example "
            "--model_name_or_path gpt2-mini, which is built in"
        )
    return str(max(finished, key=lambda path: (path / MANIFEST).stat().st_mtime))


def _note_choice(folder: str) -> None:
    """Say on standard error which run the model is of, where nobody named one."""
    manifest = Path(folder) / MANIFEST
    step = read_json(manifest).get("step")
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(manifest.stat().st_mtime))
    text = f"the model is {Path(folder).name}, finished {when} at step {step}"
    print(f"gpt2ft: {printable(text)}", file=sys.stderr)


def _ask_hub_once(names: Sequence[str | None]) -> None:
    """Ask the hub once, if any of the names is neither a folder nor built in."""
    if any(name is not None and not os.path.isdir(located(name)) for name in names):
        go_offline_if_unreachable()


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
