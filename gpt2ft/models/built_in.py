"""The model that comes with this package."""

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
