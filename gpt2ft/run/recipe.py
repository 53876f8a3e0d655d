"""Settings from YAML and to YAML: recipes, and the record of a run that resuming goes by."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import reprlib
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml

from ..config import TrainConfig
from ..models.gguf_header import is_gguf
from ..settings import alternatives, field_types, names_where

RECIPES = Path(__file__).parent / "recipes"
MAX_RECIPE_BYTES = 4 << 20
DEFAULT_RECIPE = "wikitext2"
FALLBACK_RECIPE = "quickstart"
SETTINGS_FILE = "config.yaml"  # of a run, in its output folder

HEADER = "# The settings of this run, every value written out; --resume reads them.\n"


def load_recipe(name_or_file: str) -> dict[str, Any]:
    """Values of a recipe: one of the package's by its name, or any YAML file of the same keys.

    Raises `FileNotFoundError` if there is none, `ValueError` for a key or type that does not fit.
    """
    path = RECIPES / f"{name_or_file}.yaml"
    if not path.is_file():
        path = Path(name_or_file)
    if not path.is_file():
        known = ", ".join(sorted(recipe.stem for recipe in RECIPES.glob("*.yaml")))
        raise FileNotFoundError(f"no recipe or file {name_or_file}, recipes are {known}")
    if path.stat().st_size > MAX_RECIPE_BYTES:
        raise ValueError(f"{path} has {path.stat().st_size} bytes, no recipe is that large")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not YAML, {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} is no recipe, write lines of `name: value`")
    types = field_types(TrainConfig)
    values = {name: _typed(path, types, name, value) for name, value in values.items()}
    for group in alternatives(TrainConfig):
        if all(values.get(name) for name in group):
            raise ValueError(f"{path} sets both {' and '.join(group)}, remove one of them")
    return values


def _typed(path: Path, types: Mapping[str, tuple[Any, bool]], name: str, value: Any) -> Any:
    if name not in types:
        raise ValueError(f"{path} sets {name}, which is no setting, see --help")
    kind, optional = types[name]
    if typing.get_origin(kind) is list and isinstance(value, str):
        value = [value]
    if kind is float and isinstance(value, (int, str)) and not isinstance(value, bool):
        with contextlib.suppress(ValueError):  # YAML reads 5e-5 as a string
            value = float(value)
    if typing.get_origin(kind) is Literal:
        fits = value in typing.get_args(kind)
    elif typing.get_origin(kind) is list:
        fits = isinstance(value, list) and all(isinstance(item, str) for item in value)
    else:
        fits = isinstance(value, kind) and not (kind is int and isinstance(value, bool))
    if not fits and not (optional and value is None):
        # Not repr: a few lines of YAML, whose aliases repeat each other, can be a billion words.
        short = reprlib.Repr()
        short.maxlevel, short.maxstring = 2, 80
        raise ValueError(f"{path} sets {name} to {short.repr(value)}, give {_in_words(kind)}")
    return value


def _in_words(kind: Any) -> str:
    """What a value of that type is."""
    if typing.get_origin(kind) is Literal:
        *most, last = typing.get_args(kind)
        return f"{', '.join(most)} or {last}"
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
    return words.get(kind, "a list of texts")


def with_overrides(base: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe's values, with those given on the command line over them.

    Raises `ValueError` if two settings that exclude each other were given.
    """
    values = dict(base)
    for group in alternatives(TrainConfig):
        named = [name for name in group if given.get(name)]
        if len(named) > 1:
            raise ValueError(f"--{named[0]} and --{named[1]} exclude each other, give one")
        if named:
            values.update(dict.fromkeys(group))
            if named == ["model_name_or_path"]:  # the overrides were for the recipe's new model
                values["config_overrides"] = None
    if given.get("num_train_epochs") and not given.get("max_steps"):
        values["max_steps"] = None  # which would win
    accumulation = given.get("gradient_accumulation_steps")
    if accumulation and accumulation != base.get("gradient_accumulation_steps"):
        values["micro_batches_per_step"] = None  # which would win, too
    if given.get("optimizer", base.get("optimizer", "adamw")) != base.get("optimizer", "adamw"):
        values["learning_rate"] = None  # it was for the other optimizer
    values.update(given)
    return {name: [] if name == "train_file" and not v else v for name, v in values.items()}


def settings_of(config: TrainConfig) -> dict[str, Any]:
    """The settings that make a run what it is, paths made absolute."""
    settings = dataclasses.asdict(config)
    for name in names_where(TrainConfig, "of_command"):
        del settings[name]
    settings["model_name_or_path"] = config.loaded_model
    for name in names_where(TrainConfig, "path"):
        value = settings[name]
        if isinstance(value, list):
            settings[name] = [os.path.abspath(item) for item in value]
        elif value is not None and (os.path.isdir(value) or is_gguf(value)):
            settings[name] = os.path.abspath(value)
    return settings


def to_yaml(config: TrainConfig) -> str:
    """The resolved configuration as YAML, for the run's folder."""
    return HEADER + yaml.safe_dump(settings_of(config), sort_keys=False, allow_unicode=True)


def changed_settings(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs from the run being resumed and could change its result, a phrase each."""

    paths = names_where(TrainConfig, "path")
    may_change = names_where(TrainConfig, "may_change")

    def same(name: str) -> bool:
        then = saved.get(name, "unknown")
        if name in paths and isinstance(then, str) and isinstance(now[name], str):
            return bool(os.path.abspath(then) == os.path.abspath(now[name]))
        return bool(then == now[name])

    return [
        f"{name}: {saved.get(name, 'unknown')} then, {now[name]} now"
        for name in now
        if name not in may_change and not same(name)
    ]


def known_output_dirs() -> list[str]:
    """Where runs go that were not told where: those of the recipes, and the default."""
    recipes = sorted(RECIPES.glob("*.yaml"))
    return [*(load_recipe(path.stem)["output_dir"] for path in recipes), TrainConfig.output_dir]
