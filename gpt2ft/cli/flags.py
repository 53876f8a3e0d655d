"""Command line flags, made from the fields of a configuration."""

from __future__ import annotations

import argparse
import ast
import contextlib
import dataclasses
import difflib
import inspect
import itertools
import typing
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn

import yaml

from ..config import TrainConfig
from ..settings import field_types
from ..system.terminal import printable

Commands: typing.TypeAlias = "argparse._SubParsersAction[Parser]"

USAGE_ERROR = 2
TRAINER_FLAGS = Path(__file__).parent / "trainer_flags.yaml"


class Parser(argparse.ArgumentParser):
    """Errors in one line; a flag of the Hugging Face Trainer is answered with what to write.

    The result holds only what was given, and no flag may be shortened.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(argument_default=argparse.SUPPRESS, allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        line = printable(" ".join(message.split()))
        self.exit(USAGE_ERROR, f"gpt2ft: error: {line}, see --help\n")

    def refuse(self, unknown: Sequence[str], kind: type[Any]) -> NoReturn:
        """Exit with what is wrong with words that are no flag of a command configured by `kind`."""
        known = [name for field in dataclasses.fields(kind) for name in _spellings(field.name)]
        for word in unknown:
            flag = word.partition("=")[0]
            if kind is TrainConfig and (sentence := trainer_flags().get(_field_name(flag))):
                whose = "of the Hugging Face Trainer or its run_clm.py, not of gpt2ft"
                self.exit(USAGE_ERROR, f"gpt2ft: error: {flag} is a flag {whose}. {sentence}\n")
            if flag.startswith("--") and (near := difflib.get_close_matches(flag, known, n=1)):
                self.exit(USAGE_ERROR, f"gpt2ft: error: no flag {flag}, did you mean {near[0]}?\n")
        self.error(f"unrecognized arguments: {' '.join(unknown)}")


def trainer_flags() -> Mapping[str, str]:
    """What to write instead of each flag of `run_clm.py` and the Trainer that is not here."""
    sentences: dict[str, str] = yaml.safe_load(TRAINER_FLAGS.read_text(encoding="utf-8"))
    return sentences


def as_switches(arguments: Sequence[str]) -> list[str]:
    """The Trainer's `--bf16 True` as `--bf16`, its `--packing False` as `--no_packing`."""
    fields = {name for name, (type_, _) in field_types(TrainConfig).items() if type_ is bool}
    switches = {*fields, "bf16", "fp16", "resume", "resume_from_checkpoint"}
    words: list[str] = []
    for word in itertools.chain.from_iterable(_flag_and_value(word) for word in arguments):
        name = _field_name(words[-1]) if words and words[-1].startswith("--") else ""
        if word.lower() not in ("true", "false") or name not in switches:
            words.append(word)
        elif word.lower() == "false":
            words[-1:] = [f"--no_{name}"] if name in fields else []
    return words


def _flag_and_value(word: str) -> list[str]:
    """`--flag=true` as two words, any other as it is."""
    flag, _, value = word.partition("=")
    return [flag, value] if value.lower() in ("true", "false") else [word]


def _field_name(flag: str) -> str:
    return flag.removeprefix("--").replace("-", "_")


def add_flags(
    parser: argparse.ArgumentParser, kind: type[Any], *, without_help: Collection[str] = ()
) -> None:
    """A flag for each field, its docstring the help; the result holds only what was given.

    Those of `without_help` are accepted, but not listed.
    """
    docs, types = field_docs(kind), field_types(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for part in kind.__mro__[:-1]:  # its own first, those of a base in a group below
        own = [name for name in vars(part).get("__annotations__", {}) if name in fields]
        title = str(part.__doc__).splitlines()[0].removesuffix(".")
        group = parser if part is kind else parser.add_argument_group(title)
        for name in own:
            doc = None if name in without_help else docs[name]
            _add_flag(group, fields[name], types[name][0], doc)


def _add_flag(
    parser: argparse._ActionsContainer, field: dataclasses.Field[Any], kind: Any, doc: str | None
) -> None:
    short, off_flag = field.metadata.get("flag"), field.metadata.get("off_flag")
    names = [*_spellings(field.name), *([short] if short else [])]
    names.sort(key=lambda name: name.startswith("--"))
    default = None if field.default in (dataclasses.MISSING, ()) else field.default
    text = argparse.SUPPRESS if doc is None else doc.replace("%", "%%")
    if doc and not isinstance(default, bool) and default is not None:
        text += f" (default: {default})"
    options: dict[str, Any] = {"dest": field.name, "help": text}
    if kind is bool:
        off = [*([off_flag] if off_flag else []), *_spellings(f"no_{field.name}")]
        # Of the two the one that changes the default is explained.
        silent = {**options, "help": argparse.SUPPRESS}
        explained = {**options, "help": (doc and field.metadata.get("off_help")) or text}
        parser.add_argument(*names, action="store_true", **(silent if default else options))
        parser.add_argument(*off, action="store_false", **(explained if default else silent))
    elif bare := field.metadata.get("value_if_bare"):
        parser.add_argument(*names, nargs="?", const=bare, metavar="PATH", **options)
    elif typing.get_origin(kind) in (list, tuple):
        metavar = "FILE" if field.name.endswith(("file", "corpus")) else "TEXT"
        # One with a short name is given once for each value, the others take several.
        options |= {"action": "append"} if short else {"action": "extend", "nargs": "+"}
        parser.add_argument(*names, metavar=metavar, **options)
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
    docs: dict[str, str] = {}
    for part in reversed(kind.__mro__[:-1]):
        body = ast.parse(inspect.getsource(part)).body[0].body  # type: ignore[attr-defined]
        docs |= {
            ast.unparse(statement.target): " ".join(doc.value.value.split())
            for statement, doc in itertools.pairwise(body)
            if isinstance(statement, ast.AnnAssign)
        }
    return docs


def typed_value(kind_of_config: type[Any], name: str, value: str) -> Any:
    """A number, switch or list as a person types it: `0.7`, `false`, `none`, `[a, "b c"]`, `a`.

    Raises `ValueError` if it does not fit the type of the field.
    """
    kind, optional = field_types(kind_of_config)[name]
    if optional and value == "none":
        return None
    if kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(value)
        number = "a whole number" if kind is int else "a number"
        raise ValueError(f"{name} is {number}, not {value}")
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError:
        parsed = value
    if kind is bool:
        if not isinstance(parsed, bool):
            raise ValueError(f"{name} is true or false, not {value}")
        return parsed
    return _typed_list(name, value, parsed)


def _typed_list(name: str, value: str, parsed: Any) -> list[str]:
    """Texts: `[a, "b c"]`, one alone, in quotation marks or without, or `none`."""
    if value == "none":
        return []
    if not isinstance(parsed, list):
        quoted = value[0] in "\"'" and isinstance(parsed, str)
        return [parsed if quoted else value]
    if not all(isinstance(part, str) for part in parsed):
        raise ValueError(f'{name} is a list of texts, write numbers as texts: ["1"]')
    return parsed
