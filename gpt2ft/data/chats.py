"""Conversations as records: their spellings in files, and the one used here.

A conversation is a list of messages as chat templates take them, `{"role": "user", "content":
"..."}`. In a data set it is a JSON text in the column `messages`:
`{"messages": [...], "tools": [...]}`.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MESSAGES = "messages"
SHAREGPT = "conversations"

ANSWERS = "assistant"
ROLES = {
    "human": "user",
    "gpt": ANSWERS,
    "chatgpt": ANSWERS,
    "model": ANSWERS,
    "function_call": ANSWERS,
    "observation": "tool",
}
"""Other names of roles, mostly those of ShareGPT."""
KNOWN_ROLES = ("system", "developer", "user", ANSWERS, "tool")
EXAMPLE = '{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", ...}]}'


@dataclass(frozen=True)
class Columns:
    """The columns that a user named."""

    text: str | None = None
    prompt: str | None = None
    completion: str | None = None

    def hold_conversations(self, record: Mapping[str, Any]) -> bool:
        """Whether records such as this one are conversations."""
        if self.prompt or self.completion:
            return True
        lists = (_parsed(record.get(name)) for name in (MESSAGES, SHAREGPT))
        return self.text is None and any(isinstance(each, list) for each in lists)


def _parsed(value: Any) -> Any:
    """A list that is written as JSON in a text, as tables have it; any other value as it is."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        with contextlib.suppress(ValueError):
            return json.loads(value)
    return value


def conversation(record: Mapping[str, Any], columns: Columns, place: str) -> str:
    """The conversation of a record, as JSON. Raises `ValueError`, naming `place`."""
    if columns.prompt or columns.completion:
        words = [_words(record, column, place) for column in (columns.prompt, columns.completion)]
        messages = [
            {"role": role, "content": word}
            for role, word in zip(("user", ANSWERS), words, strict=True)
        ]
        return json.dumps({MESSAGES: messages}, ensure_ascii=False)
    name = MESSAGES if record.get(MESSAGES) is not None else SHAREGPT
    turns = _parsed(record.get(name))
    if not isinstance(turns, Sequence) or isinstance(turns, str) or not turns:
        raise ValueError(f"{place} has no list of {name}, write {EXAMPLE}")
    messages = [_message(turn, place) for turn in turns]
    if not any(message["role"] == ANSWERS for message in messages[1:]):
        shown = json.dumps(messages, ensure_ascii=False)[:200]
        raise ValueError(
            f"{place} has no answer to learn, no message of the role {ANSWERS} after another: "
            f"{shown}; leave it out"
        )
    tools = _parsed(record.get("tools"))
    if tools and not isinstance(tools, list):
        raise ValueError(
            f"{place} has tools that are no list: {json.dumps(tools)[:40]}, correct it"
        )
    found = {MESSAGES: messages, **({"tools": tools} if tools else {})}
    return json.dumps(found, ensure_ascii=False)


def _words(record: Mapping[str, Any], column: str | None, place: str) -> str:
    if column is None:
        raise ValueError("--prompt_column and --completion_column go together, give both")
    if column not in record:
        raise ValueError(f"{place} has no column {column}; its columns: {', '.join(record)}")
    if not isinstance(record[column], str):
        shown = json.dumps(record[column], default=str)[:40]
        raise ValueError(f"{place} has no text in its column {column}, but {shown}, correct it")
    return str(record[column])


def _message(turn: Any, place: str) -> dict[str, Any]:
    """One message, its role by its usual name and its content as a text."""
    fields = dict(turn) if isinstance(turn, Mapping) else {}
    role = fields.pop("role", None) or fields.pop("from", None)
    if "content" not in fields and "value" in fields:
        fields["content"] = fields.pop("value")
    role = ROLES.get(role, role) if isinstance(role, str) else role
    if role not in KNOWN_ROLES:
        known = ", ".join((*KNOWN_ROLES, *ROLES))
        raise ValueError(f"{place} has a message of the role {role!r}, give one of {known}")
    content = fields.pop("content", None)
    if isinstance(content, Sequence) and not isinstance(content, str):
        content = _of_parts(content, place)
    fields = {name: value for name, value in fields.items() if value not in (None, "", [])}
    if not isinstance(content, str) and not (content is None and fields.get("tool_calls")):
        shown = json.dumps(content, default=str)[:40]
        raise ValueError(f"{place} has a message whose content is {shown}, write a text")
    return {"role": role, "content": content or "", **fields}


def _of_parts(parts: Sequence[Any], place: str) -> str:
    """`[{"type": "text", "text": "..."}]` as a text."""
    for part in parts:
        if not (isinstance(part, Mapping) and isinstance(part.get("text"), str)):
            shown = json.dumps(part, default=str)[:40]
            raise ValueError(f"{place} has a message with a part that is no text, {shown}")
    return "".join(part["text"] for part in parts)


def all_words(conversation: str) -> str:
    """All that is said in a conversation, a paragraph each."""
    return "\n\n".join(message["content"] for message in json.loads(conversation)[MESSAGES])
