"""Conversations as a model reads them: written by its chat template, and which part is an answer.

What is an answer is found by writing the beginnings of a conversation: the template's text of the
messages before an answer, with the words that ask for one, and its text up to the end of the
answer. The answer is what lies between. So the template needs no marks of its own, and what is
learned is what the model will have to write after what it will be shown.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .chats import ANSWERS, MESSAGES

if TYPE_CHECKING:  # it stands where datasets is imported, which takes half a second
    from .token_index import IntArray

PLAIN_TEMPLATE = (
    "{% for message in messages %}"
    "{{ ('' if loop.first else '\n\n') + '### ' + message['role'].capitalize() + ':\n' }}"
    "{{ message['content'] + (eos_token if message['role'] == 'assistant' else '') }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '\n\n### Assistant:\n' }}{% endif %}"
)
"""For a model that has none: text that its tokenizer knows, and its end-of-text token."""

FIXED_DATE = (
    "{%- macro strftime_now(format) -%}{{ format | replace('%d', '26') | replace('%m', '07')"
    " | replace('%b', 'Jul') | replace('%B', 'July') | replace('%Y', '2024') }}{%- endmacro %}"
)
"""Before a template that writes the date of the day: the tokens of a run must not change when it is
resumed on another day. It is the date that Llama 3 writes by default."""
SHOWN = 200  # characters in a message
TRIED = [
    {"role": "user", "content": "Question 1"},
    {"role": ANSWERS, "content": "Answer 1"},
    {"role": "user", "content": "Question 2"},
    {"role": ANSWERS, "content": "Answer 2"},
]


def give_template(tokenizer: Any) -> bool:
    """Give a tokenizer that has no chat template the plain one; returns whether it had none."""
    if getattr(tokenizer, "chat_template", None):
        return False
    if tokenizer.eos_token is None:
        raise ValueError("the tokenizer has neither a chat template nor an end-of-text token")
    tokenizer.chat_template = PLAIN_TEMPLATE
    return True


class Turn(NamedTuple):
    """An answer in a conversation."""

    shown: str
    """What the model is shown before it."""
    answer: str
    """What it is to write."""


def turns(
    tokenizer: Any, messages: Sequence[Mapping[str, Any]], tools: Sequence[Any] | None = None
) -> list[Turn]:
    """The answers of a conversation, in the words of the tokenizer's chat template.

    Raises `ValueError` if the template does not take the conversation, or asks for an answer with
    other words than those that answers begin with.
    """
    found = []
    for number, message in enumerate(messages):
        if number == 0 or message["role"] != ANSWERS:
            continue
        shown = render(tokenizer, messages[:number], tools, asks=True)
        through = render(tokenizer, messages[: number + 1], tools)
        if not through.startswith(shown):
            at = next(i for i in range(len(shown)) if shown[i] != through[i : i + 1])
            raise ValueError(
                f"the chat template asks for an answer with {shown[at:][:SHOWN]!r}, but answers "
                f"begin with {through[at:][:SHOWN]!r}: the model would learn what it never writes; "
                "use another chat template"
            )
        found.append(Turn(shown, through[len(shown) :]))
    return found


def render(
    tokenizer: Any,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Any] | None = None,
    *,
    asks: bool = False,
) -> str:
    """Messages in the words of the chat template; `asks`: with those that ask for an answer.

    Raises `ValueError` if the template does not take them.
    """
    try:
        template = tokenizer.get_chat_template(tools=tools)
        text = tokenizer.apply_chat_template(
            list(messages),
            tools=tools,
            chat_template=FIXED_DATE + template if "strftime_now" in template else template,
            tokenize=False,
            add_generation_prompt=asks,
        )
    except Exception as error:  # whatever a template raises
        shown = json.dumps(list(messages), ensure_ascii=False)[:SHOWN]
        reason = " ".join(str(error).split())
        raise ValueError(f"the chat template does not take {shown}, {reason}") from error
    return str(text)


def user_message(text: str) -> dict[str, str]:
    """A question."""
    return {"role": "user", "content": text}


def question_ids(tokenizer: Any, messages: Sequence[Mapping[str, Any]]) -> list[int]:
    """The tokens that ask for an answer to these messages."""
    return _ids(tokenizer, render(tokenizer, messages, asks=True))[0]


def stop_tokens(tokenizer: Any) -> list[int]:
    """The special token that ends an answer, in a list: the first one behind its words.

    Empty if there is none, or the template takes no plain question and answer.
    """
    words = TRIED[1]["content"]
    try:
        (turn,) = turns(tokenizer, TRIED[:2])
        end = turn.answer[turn.answer.index(words) + len(words) :]
    except ValueError:
        return []
    special = {tokenizer.eos_token_id, *tokenizer.all_special_ids}
    special |= set(getattr(tokenizer, "added_tokens_decoder", {}))
    return [token for token in _ids(tokenizer, end)[0] if token in special][:1]


def is_cut_by_turns(tokenizer: Any) -> bool:
    """Whether a conversation becomes a text for each answer, see `conversation_ids`."""
    try:
        return len(conversation_ids(tokenizer, json.dumps({MESSAGES: TRIED}))) > 1
    except ValueError:  # the template takes other conversations
        return False


def conversation_ids(
    tokenizer: Any,
    conversation: str,
    *,
    answers_only: bool = True,
    stops: Collection[int] = (),
) -> list[IntArray]:
    """Token ids `(T,)` of the texts of a conversation; `~id` for what is not learned.

    It is one text, if the tokens of its beginnings are the beginning of its tokens. With some
    templates they are not, as with Qwen 3's, which leaves out what was thought in earlier turns;
    nor with some tokenizers, which draw a line end before an answer and one in it together. Then
    each answer is a text of its own, after what the model will be shown before it: the same tokens
    as when it is used. An answer is learned up to the first of `stops`, where the model will be
    stopped. Raises as `turns` does, and if an answer is empty.
    """
    record = json.loads(conversation)
    found = turns(tokenizer, record[MESSAGES], record.get("tools"))
    shown = _ids(tokenizer, *(turn.shown for turn in found))
    through = _ids(tokenizer, *(turn.shown + turn.answer for turn in found))
    answers = []
    for turn, before, until in zip(found, shown, through, strict=True):
        after = until[len(before) :]
        if until[: len(before)] != before:
            (after,) = _ids(tokenizer, turn.answer)
        end = next((i + 1 for i, token in enumerate(after) if token in stops), len(after))
        if not tokenizer.decode(after[:end], skip_special_tokens=True).strip():
            raise ValueError(
                "a conversation has an empty answer, or one that the chat template does not "
                f"write, such as tool_calls; leave it out: {conversation[:SHOWN]}"
            )
        answers.append((before, after, end))
    (whole,) = through[-1:]
    if all(whole[: len(part)] == part for part in (*shown, *through)):
        learned = np.zeros(len(whole), bool)
        for before, _, end in answers:
            learned[len(before) : len(before) + end] = True
        return [_marked(whole, learned, answers_only)]
    return [
        _marked(
            before + after,
            np.repeat([False, True, False], [len(before), end, len(after) - end]),
            answers_only,
        )
        for before, after, end in answers
    ]


def _marked(ids: Sequence[int], learned: npt.NDArray[np.bool_], answers_only: bool) -> IntArray:
    """The ids, `~id` for those that are not learned."""
    if not answers_only:  # all but the first: there is nothing before it to predict it from
        learned = np.arange(len(ids)) > 0
    marked: IntArray = np.where(learned, ids, ~np.array(ids, np.int64))
    return marked


def _ids(tokenizer: Any, *texts: str) -> list[list[int]]:
    """Token ids of each text, as it stands."""
    ids: list[list[int]] = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    return ids
