"""`gpt2ft copies`: how much of a model's texts is copied from its training text."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..generation.config import Sampling
from ..models.gguf_header import is_gguf
from ..models.names import located
from ..settings import check_bounds, setting
from .flags import Commands, add_flags
from .generate import is_of_run
from .process import ask_hub_once, set_up_process, spin_briefly
from .run_settings import UsageError

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json")


@dataclass(frozen=True)
class CopiesConfig(Sampling):
    """How much of a model's texts, or of texts in a file, is copied from a training text."""

    train_file: tuple[str, ...] = ()
    """Files or globs with the training text; default: that of the run, if the model or the samples
    are in a run's folder."""
    validation_file: tuple[str, ...] = ()
    """Files or globs with text to compare with, which the model was not trained on."""
    validation_split_percentage: float = setting(5.0, at_least=0, below=100)
    """Percent of --train_file to hold out, to compare with, if there is no --validation_file; it
    should be that of the training; 0 holds nothing out."""
    text_column: str | None = None
    """Column that holds the text; default: text, else the only column of strings."""
    tokenizer_name: str | None = None
    """Tokenizer: a folder, or a name on the hub; default: the model's, or the one in the folder of
    the samples."""
    num_samples: int = setting(20, at_least=1, at_most=10**6)
    """Texts to draw from a model, each from a prompt that is drawn from the held-out text."""
    prompt_file: str | None = None
    """File with prompts for a model instead, one text each: one a line, or .jsonl with {"prompt":
    "...", "seed": 1}."""
    seed: int = setting(0, at_least=0, below=2**62)
    """Seed of the prompts, the texts and the pieces of held-out text to compare with."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps; auto: CUDA, else MPS, else the CPU."""
    json: bool = False
    """Print one JSON object instead of text."""
    debug: bool = False
    """Show the traceback of an error."""

    def __post_init__(self) -> None:
        """Raise `ValueError` with what is wrong, the value and what to do."""
        super().__post_init__()
        check_bounds(self)


def add_to(commands: Commands) -> None:
    """Add the command and its flags."""
    text = "find what a model's texts copy from its training text"
    parser = commands.add_parser("copies", help=text, description=CopiesConfig.__doc__)
    parser.set_defaults(command=command, configuration=CopiesConfig)
    text = "a model (a folder, a name on the hub, or gpt2-mini), or a file of texts: .jsonl with "
    text += '{"prompt": "...", "text": "..."}, as generate --json writes it, or one text'
    parser.add_argument("source", metavar="MODEL|SAMPLES", help=text)
    add_flags(parser, CopiesConfig)


def command(given: dict[str, Any]) -> int:
    """Measure copies, and show them; returns the exit status."""
    source = given.pop("source")
    try:
        config = CopiesConfig(**given)
        tokenizer = tokenizer_for(config, source)
        folder = folder_of(source)
        if not (config.train_file or is_of_run(str(folder))):
            raise ValueError(
                f"{folder} is not the folder of a run: name the training text, --train_file FILE"
            )
    except ValueError as error:
        raise UsageError(str(error)) from error
    ask_hub_once([tokenizer])
    spin_briefly()
    set_up_process(config.device, None)
    from .measure_copies import measure

    return measure(config, source, tokenizer)


def are_samples(source: str) -> bool:
    """Whether it is a file of texts, and no model."""
    return os.path.isfile(source) and not is_gguf(source)


def folder_of(source: str) -> Path:
    """The folder of a model, or of a file of samples."""
    return Path(source).parent if are_samples(source) else Path(located(source))


def tokenizer_for(config: CopiesConfig, source: str) -> str:
    """The name of the tokenizer. Raises `ValueError` for samples that have none beside them."""
    if config.prompt_file and are_samples(source):
        raise ValueError("--prompt_file is for a model, leave it out for a file of samples")
    if config.tokenizer_name:
        return config.tokenizer_name
    if not are_samples(source):
        return source
    folder = folder_of(source)
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise ValueError(
            f"there is no tokenizer beside {source}: name one, for example --tokenizer_name gpt2"
        )
    return str(folder)
