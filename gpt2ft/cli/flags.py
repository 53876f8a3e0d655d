"""Command line flags, made from the fields of a configuration."""

from __future__ import annotations

import argparse
import ast
import contextlib
import dataclasses
import inspect
import itertools
import typing
from typing import Any, Literal, NoReturn

import yaml

from ..config import TrainConfig, field_types
from ..system.terminal import printable

USAGE_ERROR = 2


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        line = printable(" ".join(message.split()))
        self.exit(USAGE_ERROR, f"gpt2ft: error: {line}, see --help\n")


def make_parser(kind: type[Any], command: str) -> argparse.ArgumentParser:
    """A flag for each field, its docstring the help; the result holds only what was given."""
    parser = _Parser(
        prog=f"gpt2ft {command}",
        description=kind.__doc__,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    docs, types = field_docs(kind), field_types(kind)
    if kind is TrainConfig:
        parser.add_argument(
            "--config",
            metavar="NAME|FILE",
            help="recipe (wikitext2, quickstart) or YAML file of these settings, which flags "
            "override; without it and without a corpus: wikitext2",
        )
        for precision in ("fp16", "bf16"):
            parser.add_argument(
                f"--{precision}",
                dest="precision",
                action="store_const",
                const=precision,
                help=f"same as --precision {precision}",
            )
    for field in dataclasses.fields(kind):
        _add_flag(parser, field, types[field.name][0], docs[field.name])
    return parser


def _add_flag(
    parser: argparse.ArgumentParser, field: dataclasses.Field[Any], kind: Any, doc: str
) -> None:
    names = _spellings(field.name)
    default = None if field.default is dataclasses.MISSING else field.default
    if not isinstance(default, bool) and default is not None:
        doc += f" (default: {default})"
    options: dict[str, Any] = {"dest": field.name, "help": doc.replace("%", "%%")}
    if kind is bool:
        greedy = ["--greedy"] if field.name == "do_sample" else []
        off = [*greedy, *_spellings(f"no_{field.name}")]
        on = [*(["-i"] if field.name == "interactive" else []), *names]
        # The one that is no default is explained.
        silent = {**options, "help": argparse.SUPPRESS}
        parser.add_argument(*on, action="store_true", **(silent if default else options))
        parser.add_argument(*off, action="store_false", **(options if default else silent))
    elif field.name == "resume":
        parser.add_argument(*names, nargs="?", const="auto", metavar="PATH", **options)
    elif field.name == "prompt":
        parser.add_argument("-p", *names, action="append", metavar="TEXT", **options)
    elif typing.get_origin(kind) is list:
        metavar = "FILE" if field.name.endswith("file") else "TEXT"
        parser.add_argument(*names, nargs="+", action="extend", metavar=metavar, **options)
    elif typing.get_origin(kind) is Literal:
        parser.add_argument(*names, choices=typing.get_args(kind), **options)
    else:
        metavar = {int: "N", float: "X", str: "TEXT"}[kind]
        parser.add_argument(*names, type=kind, metavar=metavar, **options)


def _spellings(name: str) -> list[str]:
    """`--a_b` and `--a-b`."""
    return list(dict.fromkeys([f"--{name}", f"--{name.replace('_', '-')}"]))


def field_docs(kind: type[Any]) -> dict[str, str]:
    """Docstring of each field, the line below it, as `--help` shows it."""
    body = ast.parse(inspect.getsource(kind)).body[0].body  # type: ignore[attr-defined]
    return {
        ast.unparse(statement.target): " ".join(doc.value.value.split())
        for statement, doc in itertools.pairwise(body)
        if isinstance(statement, ast.AnnAssign)
    }


def typed_value(kind_of_config: type[Any], name: str, value: str) -> Any:
    """A number, switch or list as a person types it: `0.7`, `false`, `none`, `[a, "b c"]`, `a`.

    Raises `ValueError` if it is none of the field's.
    """
    kind, optional = field_types(kind_of_config)[name]
    if optional and value == "none":
        return None
    if kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(value)
        raise ValueError(f"{name} takes a number, not {value}")
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError:
        parsed = value
    if kind is bool and not isinstance(parsed, bool):
        raise ValueError(f"{name} is true or false, not {value}")
    if kind is bool or (isinstance(parsed, list) and all(isinstance(p, str) for p in parsed)):
        return parsed
    return [value]
