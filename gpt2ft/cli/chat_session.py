"""The terminal loop for conversations: a question is typed, the model answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..data.chat_template import question_ids, user_message
from ..data.chats import ANSWERS
from ..generation.text import begin
from ..models.probe import window
from .session import Session

Message = dict[str, str]


class ChatSession(Session):
    """A conversation: questions, each with its answer, and what the model is told before them."""

    GREETING = (
        "Ask something. Ctrl-C stops an answer, /reset begins anew, /quit leaves, /help lists "
        "commands."
    )
    HINT = 'A line is a question; several lines between two lines of """.'
    NOTHING_YET = "there is no question yet, ask one"

    _system: Sequence[Message] = ()
    _noted_forgotten = False

    def say(self, typed: str) -> None:
        """Answer a question."""
        if typed.strip():
            self._ask(typed, self._config.seed)

    def _ask(self, question: str, seed: int | None) -> None:
        ids, forgotten = self._shown_to_the_model(question)
        text = begin(self._model.tokenizer, question, seed)
        text.prompt_ids = ids
        self._write_on(text, shown="")
        if forgotten and not self._noted_forgotten:
            self._noted_forgotten = True
            self.write("\n(the model's window is full: it no longer sees the oldest questions)")

    def _messages(self, first: int) -> list[Message]:
        """The conversation from that question on, after the system message."""
        messages = [*self._system]
        for text in self._texts[first:]:
            messages += [user_message(text.prompt), {"role": ANSWERS, "content": text.text}]
        return messages

    def _shown_to_the_model(self, question: str) -> tuple[list[int], bool]:
        """As much of the conversation as leaves room for an answer, the question at its end; and
        whether earlier questions are left out."""
        size = window(self._model.model)
        for first in range(len(self._texts) + 1):
            messages = [*self._messages(first), user_message(question)]
            ids = question_ids(self._model.tokenizer, messages)
            if size is None or len(ids) + self._config.max_new_tokens <= size:
                break
        return ids, first > 0

    def do_system(self, text: str) -> None:
        """/system [TEXT]|tell the model this before the conversation, which begins anew"""
        self._system = [{"role": "system", "content": text}] if text else []
        self._forget()
        self.write("a new conversation" + (", after the system message" if text else ""))

    def do_retry(self, _: str) -> None:
        """/retry|answer the last question again, with the next seed"""
        last, seconds = self._current(), self._seconds[-1]
        self.do_undo("")
        try:
            self._ask(last.prompt, last.seed + 1)
        except ValueError:  # of another model, that may be: the old answer stays
            self._texts.append(last)
            self._seconds.append(seconds)
            raise

    def do_undo(self, _: str) -> None:
        """/undo|take back the last question and its answer"""
        self._current()
        self._texts.pop()
        self._seconds.pop()

    def do_reset(self, _: str) -> None:
        """/reset|begin a new conversation, with the settings of the start"""
        self._forget()
        self._config = self._first
        self.write("conversation forgotten, settings as at the start")

    def do_load(self, name: str) -> None:
        """/load NAME|go on with another model"""
        if not name:
            raise ValueError("/load needs the name of a model: a folder, or a name on the hub")
        self._model = self._load(str(Path(name).expanduser()))
        self.write(f"loaded {name}")

    def do_save(self, path: str) -> None:
        """/save FILE|add the conversation to the end of a file"""
        self._current()
        if not path:
            raise ValueError("/save needs the name of a file")
        with Path(path).expanduser().open("a", encoding="utf-8") as file:
            for message in self._messages(0):
                file.write(f"{message['role']}: {message['content']}\n\n")
        self.write(f"saved to {path}")

    def _forget(self) -> None:
        self._texts.clear()
        self._seconds.clear()
        self._noted_forgotten = False
