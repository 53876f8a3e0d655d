"""`gpt2ft generate`: continue texts with a model."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from ..checkpoint.folders import is_finished
from ..checkpoint.manifest import MANIFEST, read_json
from ..data.prompts import Prompt, read_prompts
from ..generation.config import GenerateConfig
from ..run.recipe import SETTINGS_FILE, load_recipe
from ..system.signals import listening
from ..system.terminal import printable
from .flags import Commands, add_flags
from .process import ask_hub_once, set_up_process, spin_briefly
from .run_settings import UsageError


def add_to(commands: Commands) -> None:
    """Add the command and its flags."""
    text = "continue texts with a model"
    parser = commands.add_parser("generate", help=text, description=GenerateConfig.__doc__)
    parser.set_defaults(command=command, configuration=GenerateConfig)
    add_flags(parser, GenerateConfig)


def command(given: dict[str, Any]) -> int:
    """Continue the texts asked for; returns the exit status."""
    try:
        config = GenerateConfig(**given)
        name = config.model_name_or_path or newest_finished_run(Path.cwd())
        if config.max_verbatim and not config.corpus and not is_of_run(name):
            raise ValueError(
                f"--max_verbatim {config.max_verbatim} needs the text not to copy, as {name} is "
                "not the folder of a run: add --corpus FILE"
            )
    except ValueError as error:
        raise UsageError(str(error)) from error
    if config.model_name_or_path is None:
        _note_choice(name)
    prompts = [Prompt(text) for text in config.prompt]
    prompts += read_prompts(config.prompt_file) if config.prompt_file else []
    baseline = config.baseline or (tuned_from(name) if config.web else None)
    if config.web:
        check_web()
    ask_hub_once([name, baseline, config.tokenizer_name])
    spin_briefly()
    with listening() as stop, stop.postponed():  # as for training
        if config.web:
            from .play import play
        else:
            from .continue_texts import continue_texts

        set_up_process(config.device, config.threads)
    stop.check()
    if config.web:
        return play(config, name, baseline)
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


def check_web() -> None:
    """Raise `UsageError` if what serves the page is not installed."""
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise UsageError(f"--web needs a library: pip install 'gpt2ft[web]' ({error})") from error


def tuned_from(name: str) -> str | None:
    """The model that the run in a folder of that name fine-tuned; None if it began with none."""
    if not is_of_run(name):
        return None
    base: str | None = load_recipe(os.path.join(name, SETTINGS_FILE)).get("model_name_or_path")
    return base


def is_of_run(name: str) -> bool:
    """Whether a model of that name is in the output folder of a run, which names its text."""
    return (Path(name) / SETTINGS_FILE).is_file()


def _note_choice(folder: str) -> None:
    """Say on standard error which run the model is of, where nobody named one."""
    manifest = Path(folder) / MANIFEST
    step = read_json(manifest).get("step")
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(manifest.stat().st_mtime))
    text = f"the model is {Path(folder).name}, finished {when} at step {step}"
    print(f"gpt2ft: {printable(text)}", file=sys.stderr)
