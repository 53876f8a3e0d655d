"""The command line: flags made from the configurations, and errors in one line.

Whatever takes long to import (torch, transformers, datasets) is imported where it is used, so that
`--help` and usage errors answer at once.
"""

from __future__ import annotations

import functools
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from ..config import GenerateConfig, TrainConfig
from ..run import recipe as recipes
from ..system.hub import BUILT_IN_TEXT, HubUnavailableError, go_offline_if_unreachable, located
from ..system.signals import Stop, Stopped, listening
from ..system.terminal import discard_output, error_line, printable, say, silence_libraries
from .flags import USAGE_ERROR, make_parser
from .prompts import Prompt, read_prompts

FAILED = 1
# Naming any of these is a choice: the run is that one or none, without the fallback.
RULE_OUT_FALLBACK = (
    "config",
    "model_name_or_path",
    "model_type",
    "tokenizer_name",
    "config_overrides",
    "dataset_name",
    "dataset_config_name",
    "dataset_split",
    "train_file",
    "resume",
)


def main() -> NoReturn:
    """The installed command: `gpt2ft train ...`, `generate ...`, `verify-resume ...`."""
    commands = {
        "train": train_main,
        "generate": generate_main,
        "verify-resume": verify_resume_main,
    }
    if len(sys.argv) > 1 and sys.argv[1] in commands:
        sys.exit(commands[sys.argv[1]](sys.argv[2:]))
    if sys.argv[1:] in (["-h"], ["--help"]):
        print(f"usage: gpt2ft {'|'.join(commands)} [options], see gpt2ft train --help")
        sys.exit(0)
    what = " ".join(["no command", *map(printable, sys.argv[1:2])])
    print(f"gpt2ft: error: {what}, give {', '.join(commands)}", file=sys.stderr)
    sys.exit(USAGE_ERROR)


def train_main(arguments: Sequence[str] | None = None) -> int:
    """Fine-tune; returns the exit status."""
    with listening() as stop:
        given = vars(make_parser(TrainConfig, "train").parse_args(arguments))
        return _guarded(lambda: _train(given, stop), debug=given.get("debug", False))


def generate_main(arguments: Sequence[str] | None = None) -> int:
    """Generate; returns the exit status."""
    given = vars(make_parser(GenerateConfig, "generate").parse_args(arguments))
    return _guarded(lambda: _generate(given), debug=given.get("debug", False))


def verify_resume_main(arguments: Sequence[str] | None = None) -> int:
    """Try whether a run stopped and resumed ends the same; returns the exit status."""
    parser = make_parser(TrainConfig, "verify-resume")
    parser.description = (
        "Whether resuming is exact, tried with the settings of a run; nothing is kept."
    )
    text = "optimizer steps before the stop, and again after it (default: 3)"
    parser.add_argument("--steps", type=int, default=3, metavar="N", help=text)
    with listening() as stop:
        given = vars(parser.parse_args(arguments))
        return _guarded(lambda: _verify_resume(given, stop), debug=given.get("debug", False))


class UsageError(ValueError):
    """What was asked for does not make sense; nothing was done."""


def _train(given: dict[str, Any], stop: Stop) -> int:
    def load() -> Callable[[TrainConfig], int]:
        from ..run.finetune import finetune

        return finetune

    return _with_fallback(given, stop, load)


def _verify_resume(given: dict[str, Any], stop: Stop) -> int:
    steps = given.pop("steps")
    if steps < 1:
        raise UsageError(f"--steps is {steps}, give a number >= 1")
    if "resume" in given:
        raise UsageError("--resume is for train, verify-resume resumes a run of its own, leave it")

    def load() -> Callable[[TrainConfig], int]:
        from ..run.verify_resume import verify_resume

        return functools.partial(verify_resume, steps=steps)

    return _with_fallback(given, stop, load)


def _with_fallback(
    given: dict[str, Any], stop: Stop, load: Callable[[], Callable[[TrainConfig], int]]
) -> int:
    """The command on the run asked for, or on the quickstart if none was and the hub is away."""
    config = _train_config(given)
    dataset = None if config.dataset_name == BUILT_IN_TEXT else config.dataset_name
    _ask_hub_once([config.loaded_model, config.tokenizer_name, dataset])
    with stop.postponed():  # an import of torch's that is interrupted aborts the process
        silence_libraries()
        command = load()
    stop.check()
    try:
        return command(config)
    except HubUnavailableError as error:
        if any(name in given for name in RULE_OUT_FALLBACK):
            raise
        config = _train_config({**given, "config": recipes.FALLBACK_RECIPE})
        say(f"gpt2ft: {error}")
        recipe, folder = recipes.FALLBACK_RECIPE, config.output_dir
        say(f"gpt2ft: running the recipe {recipe} instead, into {folder}")
        return command(config)


def _train_config(given: dict[str, Any]) -> TrainConfig:
    """Defaults, under the recipe or the run being resumed, under the flags."""
    given = dict(given)
    recipe = given.pop("config", None)
    try:
        if "resume" in given and recipe is None:
            base = _resumed_config(given)
        elif recipe is None and ("train_file" in given or "dataset_name" in given):
            base = {}
        else:
            base = recipes.load_recipe(recipe or recipes.DEFAULT_RECIPE)
        config = TrainConfig(**recipes.with_overrides(base, given))
        config.validate()
    except (ValueError, FileNotFoundError) as error:
        raise UsageError(str(error)) from error
    return config


def _resumed_config(given: dict[str, Any]) -> dict[str, Any]:
    """What the run to be resumed was configured with, so that no flag need be repeated."""
    if given["resume"] != "auto":
        folders = [str(Path(given["resume"]).parent)]
    elif "output_dir" in given:
        folders = [given["output_dir"]]
    else:
        folders = recipes.known_output_dirs()
    found = [folder for folder in folders if (Path(folder) / recipes.SETTINGS_FILE).is_file()]
    for folder in () if found else folders:
        if settings := _settings_in_checkpoint(folder):
            return {**settings, "output_dir": folder}
    if not found and given["resume"] != "auto":
        raise ValueError(
            f"--resume {given['resume']} is no checkpoint of a run, name one as "
            "OUTPUT_DIR/checkpoint-500"
        )
    if not found:
        raise ValueError(f"--resume finds no run in {', '.join(folders)}, name --output_dir")
    newest = max(found, key=lambda folder: (Path(folder) / recipes.SETTINGS_FILE).stat().st_mtime)
    saved = recipes.load_recipe(str(Path(newest) / recipes.SETTINGS_FILE))
    return {**saved, "output_dir": newest}


def _settings_in_checkpoint(folder: str) -> dict[str, Any]:
    """What the newest whole checkpoint there was configured with, where config.yaml is gone."""
    from ..checkpoint.checkpoints import find_checkpoint, recorded_run

    path, _ = find_checkpoint(folder)
    settings: dict[str, Any] = recorded_run(path).get("config", {}) if path else {}
    return settings


def _generate(given: dict[str, Any]) -> int:
    config = GenerateConfig(**given)
    try:
        config.validate()
        name = config.model_name_or_path or newest_finished_run(Path.cwd())
    except ValueError as error:
        raise UsageError(str(error)) from error
    prompts = [Prompt(text) for text in config.prompt]
    prompts += read_prompts(config.prompt_file) if config.prompt_file else []
    _ask_hub_once([name])
    with listening() as stop, stop.postponed():  # as for training
        silence_libraries()
        from .generate import infer
    stop.check()
    return infer(config, name, prompts)


def newest_finished_run(folder: Path) -> str:
    """The run in `folder` that was finished last, in the recipes' output folders or the default.

    Raises `ValueError` if there is none.
    """
    # checkpoint.is_finished knows more, but loads torch, and this is also asked before an error.
    manifests = [folder / name / "manifest.json" for name in recipes.known_output_dirs()]
    finished = [manifest for manifest in manifests if manifest.is_file()]
    if not finished:
        folders = ", ".join(recipes.known_output_dirs())
        raise ValueError(f"no finished run in {folders}, name --model_name_or_path")
    return str(max(finished, key=lambda path: path.stat().st_mtime).parent)


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
        say(f"{stopped}; nothing is lost, give the same command again")
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
        print(f"gpt2ft: error: {printable(error_line(error))}", file=sys.stderr)
        return USAGE_ERROR if isinstance(error, UsageError) else FAILED
