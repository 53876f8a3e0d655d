"""`gpt2ft export`: a model in the form that other programs run, checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..checkpoint.folders import checkpoint_folders, is_finished
from ..models.gguf_header import is_gguf
from ..run.recipe import SETTINGS_FILE
from ..settings import setting
from ..system.signals import listening
from .flags import Commands, add_flags
from .process import ask_hub_once, say_dequantised, set_up_process, spin_briefly
from .run_settings import UsageError


@dataclass(frozen=True)
class ExportConfig:
    """Write a model into one file that llama.cpp and Ollama run.

    The file is read again and compared with the model before it gets its name: one that computes
    something else is deleted.
    """

    to: Literal["gguf"] = "gguf"
    """The form of the file."""
    type: Literal["f16", "q8_0"] = "f16"
    """How weights are kept: f16 in 16 bits, q8_0 in 8.5, half the size."""
    output: str | None = setting(None, flag="-o")
    """The file; default: MODEL-TYPE.gguf."""
    ollama: bool = False
    """Write a Modelfile beside it, with which Ollama takes the file."""
    threads: int | None = setting(None, at_least=1)
    """Threads that compute; default: one for each core."""
    debug: bool = False
    """Show the traceback of an error."""


def add_to(commands: Commands) -> None:
    """Add the command and its flags."""
    text = "write a model into a GGUF file for llama.cpp and Ollama, and check it"
    parser = commands.add_parser("export", help=text, description=ExportConfig.__doc__)
    parser.set_defaults(command=command, configuration=ExportConfig)
    text = "model: the output folder of a run, any other folder, a name on the hub, or gpt2-mini"
    parser.add_argument("model", metavar="MODEL", help=text)
    add_flags(parser, ExportConfig)


def command(given: dict[str, Any]) -> int:
    """Write and check the file; returns the exit status."""
    name = given.pop("model")
    config = ExportConfig(**given)
    folder = Path(name)
    if (folder / SETTINGS_FILE).is_file() and not is_finished(folder):
        saved = [f"name its checkpoint, {path}" for path in checkpoint_folders(folder)[:1]]
        ways = [f"go on with it, gpt2ft train --output_dir {folder} --resume", *saved]
        raise UsageError(f"the run in {folder} has not finished: {', or '.join(ways)}")
    target = Path(config.output) if config.output else _beside(folder, config.type)
    ask_hub_once([name])
    spin_briefly()
    with listening() as stop:
        with stop.postponed():  # an import of torch's that is interrupted aborts the process
            from ..run.export import export

            set_up_process("cpu", config.threads)
        stop.check()
        say_dequantised([name])
        return export(name, target, type=config.type, ollama=config.ollama, stop=stop)


def _beside(folder: Path, type: str) -> Path:
    """MODEL-TYPE.gguf beside a folder; of another model, in the current folder."""
    if not folder.is_dir():
        folder = Path(folder.stem if is_gguf(folder.name) else folder.name)
    elif folder.name in ("", ".."):
        folder = folder.resolve()
    return folder.with_name(f"{folder.name}-{type}.gguf")
