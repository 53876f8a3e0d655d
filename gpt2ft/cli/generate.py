"""`gpt2ft generate`: continue texts with a model."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from ..checkpoint.folders import is_finished
from ..checkpoint.manifest import MANIFEST, read_json
from ..data.prompts import Prompt, read_prompts
from ..generation.config import GenerateConfig
from ..run.recipe import SETTINGS_FILE
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
    ask_hub_once([name, config.tokenizer_name])
    spin_briefly()
    with listening() as stop, stop.postponed():  # as for training
        from .continue_texts import continue_texts

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
