"""What a run on conversations does besides a run on texts."""

from __future__ import annotations

from typing import Any

from ..data.chat_template import (
    PLAIN_TEMPLATE,
    is_cut_by_turns,
    question_ids,
    stop_tokens,
    user_message,
)
from ..data.prompts import Prompt
from ..generation.text import add_end_tokens


def prepare_for_chats(model: Any, tokenizer: Any) -> list[str]:
    """Let texts end where an answer ends; returns what is to be said of the chat template."""
    stops, notes = stop_tokens(tokenizer), []
    add_end_tokens(model, stops)
    if tokenizer.chat_template == PLAIN_TEMPLATE:
        notes.append(
            "the model has no chat template, and gets a plain one: ### User:, ### Assistant:"
        )
    if is_cut_by_turns(tokenizer):
        notes.append(
            "the chat template writes earlier turns otherwise than the last one, or the tokenizer "
            "cuts them otherwise: each answer is a text of its own"
        )
    if not stops:
        notes.append("the chat template ends an answer with no special token")
    return notes


def question(tokenizer: Any, prompt: Prompt) -> Prompt:
    """What a model is shown before it answers the prompt."""
    ids = question_ids(tokenizer, [user_message(prompt.text)])
    return Prompt(tokenizer.decode(ids, skip_special_tokens=True), prompt.seed, tuple(ids))
