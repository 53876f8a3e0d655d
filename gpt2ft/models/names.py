"""What a name of a model stands for: a folder, the built-in model, or one on the hub."""

from __future__ import annotations

import os
from pathlib import Path

BUILT_IN_MODEL = "gpt2-mini"
BUILT_IN_FOLDER = Path(__file__).parent / BUILT_IN_MODEL


def located(model_name: str) -> str:
    """The folder of the built-in model for its name, else the name; a folder of that name first."""
    if model_name == BUILT_IN_MODEL and not os.path.isdir(model_name):
        return str(BUILT_IN_FOLDER)
    return model_name


def is_of_hub(recorded: str) -> bool:
    """Whether a name that a run wrote down is of the hub: of folders it writes the whole path."""
    return not os.path.isabs(recorded) and recorded != BUILT_IN_MODEL
