"""What a page asks for: a text to be written on, read from JSON and checked."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..generation.config import Sampling
from ..settings import field_types

LARGEST_SEED = 2**63 - 1
ROLES = ("system", "user", "assistant")
IN_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


@dataclass(frozen=True)
class TextRequest:
    """A text, of which there is the beginning, and how it is written on."""

    model: int
    """Number of the model."""
    prompt: str
    """The beginning; nothing if there are messages."""
    messages: list[dict[str, str]]
    """A conversation that ends with a question; empty if there is a prompt."""
    fixed: list[int]
    """Token ids that follow the beginning, and stay."""
    seed: int | None
    """The seed to draw with; None: a new one."""
    sampling: Sampling
    score_fixed: bool
    """Whether the probabilities of the fixed tokens are asked for."""

    @classmethod
    def from_json(cls, body: bytes, defaults: Sampling) -> TextRequest:
        """Read a request; settings that it does not name are those of `defaults`.

        Raises `ValueError` with what is wrong with it.
        """
        try:
            values = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"the request is not JSON, {error}") from error
        names = {field.name for field in dataclasses.fields(cls)} - {"sampling"} | {"settings"}
        if not isinstance(values, dict) or not values.keys() <= names:
            raise ValueError(f"a request is an object with {', '.join(sorted(names))}")
        messages = _messages(values.get("messages"))
        prompt = _typed("prompt", values.get("prompt", ""), str)
        if messages and prompt:
            raise ValueError("give a prompt or messages, not both")
        seed = values.get("seed")
        if seed is not None and not 0 <= _typed("seed", seed, int) <= LARGEST_SEED:
            raise ValueError(f"seed is {seed}, give a number from 0 to {LARGEST_SEED}")
        return cls(
            model=_typed("model", values.get("model", 0), int),
            prompt=_text("prompt", prompt),
            messages=messages,
            fixed=_ids(values.get("fixed", [])),
            seed=seed,
            sampling=_changed(defaults, values.get("settings", {})),
            score_fixed=_typed("score_fixed", values.get("score_fixed", False), bool),
        )


def _typed(name: str, value: Any, kind: type[Any]) -> Any:
    """The value; a whole number serves for any. Raises `ValueError` if its type is another."""
    if kind is float and type(value) is int:
        value = float(value) if abs(value) < 2**53 else value
    if type(value) is not kind:
        raise ValueError(f"{name} is {IN_WORDS[kind]}, not {json.dumps(value)[:80]}")
    return value


def _text(name: str, text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} has half a character, which is not UTF-8") from error
    return text


def _messages(value: Any) -> list[dict[str, str]]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise ValueError("messages is a list")
    for message in value:
        if not isinstance(message, dict) or message.keys() != {"role", "content"}:
            raise ValueError("each of the messages is an object with role and content")
        if message["role"] not in ROLES:
            raise ValueError(f"the role of a message is one of {', '.join(ROLES)}")
        _text("a message", _typed("the content of a message", message["content"], str))
    if not value or value[-1]["role"] != "user":
        raise ValueError("messages end with a question, whose role is user")
    return value


def _ids(value: Any) -> list[int]:
    if not isinstance(value, list) or not all(type(x) is int and 0 <= x < 2**31 for x in value):
        raise ValueError("fixed is a list of token ids")
    return value


def _changed(defaults: Sampling, given: Any) -> Sampling:
    """The settings with those given. Raises `ValueError` for an unknown one or a wrong value."""
    if not isinstance(given, Mapping):
        raise ValueError("settings is an object")
    types = field_types(Sampling)
    for name in given:
        if name not in types:
            raise ValueError(f"{str(name)[:80]} is no setting, they are {', '.join(types)}")
    values: dict[str, Any] = {}
    for name, value in given.items():
        kind = types[name][0]
        values[name] = _typed(name, value, kind) if kind in IN_WORDS else _texts(name, value)
    return dataclasses.replace(defaults, **values)


def _texts(name: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise ValueError(f"{name} is a list of texts")
    return tuple(value)
