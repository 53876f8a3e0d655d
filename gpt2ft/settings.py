"""What a field of a configuration means besides its value, and the bounds of that value."""

from __future__ import annotations

import dataclasses
import math
import operator
import typing
from typing import Any

HOLDS = {">=": operator.ge, ">": operator.gt, "<=": operator.le, "<": operator.lt}


def setting(
    default: Any,
    *,
    path: bool = False,
    may_change: bool = False,
    of_command: bool = False,
    rules_out_fallback: bool = False,
    one_of: str | None = None,
    flag: str | None = None,
    off_flag: str | None = None,
    off_help: str | None = None,
    value_if_bare: str | None = None,
    at_least: float = -math.inf,
    above: float = -math.inf,
    at_most: float = math.inf,
    below: float = math.inf,
) -> Any:
    """A field of a configuration: its default, or a function that makes it, and what it means.

    `path`: it may name a file or folder. `may_change`: it may differ when a run is resumed, because
    it cannot change the trained weights, or its effect is compared instead (the tokens), or
    changing it is the purpose of resuming. `of_command`: it belongs to one command, not to the run.
    `rules_out_fallback`: if it is given, the quickstart does not run instead of this run.
    `one_of`: of the settings of that group a run has one; given on the command line, it clears
    the others that a recipe sets. `flag`: a second name, `-p`. `off_flag`: a second name
    for turning it off, `off_help`: the help text for that. `value_if_bare`: what the flag means
    without a value. `at_least`, `above`, `at_most`, `below`: bounds of a number, see
    `check_bounds`.
    """
    bounds = ((">=", at_least), (">", above), ("<=", at_most), ("<", below))
    meaning = {
        "path": path,
        "may_change": may_change,
        "of_command": of_command,
        "rules_out_fallback": rules_out_fallback,
        "one_of": one_of,
        "flag": flag,
        "off_flag": off_flag,
        "off_help": off_help,
        "value_if_bare": value_if_bare,
        "bounds": [(sign, bound) for sign, bound in bounds if math.isfinite(bound)],
    }
    if callable(default):
        return dataclasses.field(default_factory=default, metadata=meaning)
    return dataclasses.field(default=default, metadata=meaning)


def names_where(kind: type[Any], meaning: str) -> frozenset[str]:
    """Names of the fields of a configuration that were given that meaning, see `setting`."""
    return frozenset(f.name for f in dataclasses.fields(kind) if f.metadata.get(meaning))


def alternatives(kind: type[Any]) -> list[tuple[str, ...]]:
    """Groups of fields of which a run has one, see `setting`."""
    groups: dict[str, tuple[str, ...]] = {}
    for f in dataclasses.fields(kind):
        if group := f.metadata.get("one_of"):
            groups[group] = (*groups.get(group, ()), f.name)
    return list(groups.values())


def check_bounds(config: Any) -> None:
    """Raise `ValueError` unless every field is None or within its bounds; NaN never is."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        for sign, bound in field.metadata.get("bounds", ()):
            if value is not None and not HOLDS[sign](value, bound):
                raise ValueError(f"--{field.name} is {value}, give a number {sign} {bound}")


def field_types(kind: type[Any]) -> dict[str, tuple[Any, bool]]:
    """Type of each field, and whether None is allowed: `{"seed": (int, False), ...}`."""
    types = {}
    for name, hint in typing.get_type_hints(kind).items():
        options = [option for option in typing.get_args(hint) if option is not type(None)]
        optional = type(None) in typing.get_args(hint)
        types[name] = (options[0] if optional else hint, optional)
    return types


def check_utf8(config: Any, *names: str) -> None:
    """Raise `ValueError` unless every text in the fields named can be written as UTF-8."""
    for name in names:
        for text in getattr(config, name):
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise ValueError(f"--{name} {text!r} is not UTF-8, convert it") from error


def check_encoding(name: str) -> None:
    """Raise `ValueError` unless Python knows a text encoding of that name."""
    try:
        is_text = "".encode(name) is not None
    except (LookupError, ValueError):
        is_text = False
    if not is_text:
        raise ValueError(f"--encoding {name} is none that Python knows; try cp1252 or utf-16")
