"""`gpt2ft evaluate`: how good a model is on a text, and whether it is better than another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..evaluation.config import EvaluateConfig
from ..system.signals import listening
from ..system.terminal import print_line
from .flags import Commands, add_flags
from .process import ask_hub_once, say_dequantised, set_up_process, spin_briefly
from .run_settings import UsageError


def add_to(commands: Commands) -> None:
    """Add the command and its flags."""
    text = "say how good a model is on a text, and whether it is better than another"
    parser = commands.add_parser("evaluate", help=text, description=EvaluateConfig.__doc__)
    parser.set_defaults(command=command, configuration=EvaluateConfig)
    text = "model: the output folder of a run, any other folder, a .gguf file, a name "
    text += "on the hub, or gpt2-mini"
    parser.add_argument("model", metavar="MODEL", help=text)
    add_flags(parser, EvaluateConfig)


def command(given: dict[str, Any]) -> int:
    """Evaluate, and print the card; returns the exit status."""
    name = given.pop("model")
    try:
        config = EvaluateConfig(**given)
    except ValueError as error:
        raise UsageError(str(error)) from error
    ask_hub_once([name, config.baseline, config.dataset_name])
    spin_briefly()
    with listening() as stop:
        with stop.postponed():  # as for training
            from ..run.evaluation import evaluated

            set_up_process(config.device, config.threads)
        stop.check()
        say_dequantised([name, config.baseline])
        card, text = evaluated(name, config, stop=stop)
    if config.json:
        named = {"model_path": name, "baseline_path": config.baseline, "text": text}
        print(json.dumps({**named, **card.as_json()}, indent=1))
    elif config.markdown:
        print_line(card.markdown())
    else:
        baseline = f", baseline {config.baseline}" if config.baseline else ""
        print_line(f"model  {Path(name)}{baseline}\ntext   {text}\n\n{card.text()}")
    return 0
