"""The settings of the run that was asked for: flags, over those of a recipe or a run to resume."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from ..checkpoint.folders import find_checkpoint, recorded_run
from ..config import TrainConfig
from ..run import recipe as recipes


class UsageError(ValueError):
    """What was asked for does not make sense; nothing was done."""


def train_config(given: dict[str, Any]) -> TrainConfig:
    """The run's settings: flags override the recipe or the resumed run, which override defaults."""
    given = dict(given)
    recipe = given.pop("config", None)
    try:
        if recipe is None and given.get("resume") == "auto":
            base = _first_or_resumed(given)
        elif given.get("fork"):
            base = _forked_config(given)
        elif recipe is None and "resume" in given:
            base = _resumed_config(given)
        elif recipe is None and ("train_file" in given or "dataset_name" in given):
            base = {}
        else:
            base = recipes.load_recipe(recipes.DEFAULT_RECIPE if recipe is None else recipe)
        config = TrainConfig(**recipes.with_overrides(base, given))
        config.validate()
    except (ValueError, FileNotFoundError) as error:
        raise UsageError(str(error)) from error
    return config


def _first_or_resumed(given: dict[str, Any]) -> dict[str, Any]:
    """The settings of the run that there is, or if there is none yet, of its first start."""
    first = train_config({name: value for name, value in given.items() if name != "resume"})
    try:
        return _resumed_config({**given, "resume": "newest", "output_dir": first.output_dir})
    except NoRunError:
        return dataclasses.asdict(first)


class NoRunError(ValueError):
    """There is no run to resume."""


def _resumed_config(given: dict[str, Any]) -> dict[str, Any]:
    """What the run to be resumed was configured with, so that no flag need be repeated."""
    named = given["resume"] != "newest"
    if named:
        folders = [str(Path(given["resume"]).parent)]
    elif "output_dir" in given:
        folders = [given["output_dir"]]
    else:
        folders = recipes.known_output_dirs()
    found = [folder for folder in folders if (Path(folder) / recipes.SETTINGS_FILE).is_file()]
    for folder in () if found else folders:
        if settings := _settings_in_checkpoint(folder):
            return {**settings, "output_dir": folder}
    if not found and named:
        raise ValueError(
            f"--resume {given['resume']} is no checkpoint of a run, name one as "
            "OUTPUT_DIR/checkpoint-500"
        )
    if not found:
        raise NoRunError(f"--resume finds no run in {', '.join(folders)}, name --output_dir")
    newest = max(found, key=lambda folder: (Path(folder) / recipes.SETTINGS_FILE).stat().st_mtime)
    saved = recipes.load_recipe(str(Path(newest) / recipes.SETTINGS_FILE))
    return {**saved, "output_dir": newest}


def _forked_config(given: dict[str, Any]) -> dict[str, Any]:
    """The settings of the run to be forked."""
    if "output_dir" not in given or Path(given["output_dir"]) == Path(given["fork"]):
        raise ValueError("--fork needs a folder of its own, name --output_dir")
    return settings_of_run(given["fork"])


def settings_of_run(folder: str) -> dict[str, Any]:
    """What the run in a folder was configured with. Raises `ValueError` if there is none."""
    file = Path(folder) / recipes.SETTINGS_FILE
    settings = recipes.load_recipe(str(file)) if file.is_file() else _settings_in_checkpoint(folder)
    if not settings:
        raise ValueError(f"{folder} holds no run, name the output folder of one")
    return settings


def _settings_in_checkpoint(folder: str) -> dict[str, Any]:
    """What the newest valid checkpoint there was configured with, where config.yaml is gone."""
    path, _ = find_checkpoint(folder)
    settings: dict[str, Any] = recorded_run(path).get("config", {}) if path else {}
    return settings
