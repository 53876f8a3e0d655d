"""Lines that are typed: editing, completion, a history kept between runs; or lines from a pipe."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HISTORY = "~/.gpt2ft_history"
HISTORY_LINES = 1000
PROMPT, MORE = "gpt2ft> ", "... "
BLOCK = '"""'

Ask = Callable[[str], str]
Complete = Callable[[str], list[str]]


def read_text(ask: Ask) -> str:
    """A line, or several between three quotation marks, which may stand on lines of their own.

    Raises `EOFError` at the end of input.
    """
    line = ask(PROMPT)
    if not line.startswith(BLOCK):
        return line
    lines = [line.removeprefix(BLOCK)]
    with contextlib.suppress(EOFError):
        while BLOCK not in lines[-1]:
            lines.append(ask(MORE))
    text = "\n".join(lines).partition(BLOCK)[0]
    return text.removeprefix("\n").removesuffix("\n")


@contextlib.contextmanager
def line_input(complete: Complete) -> Iterator[Ask]:
    """A function that asks for a line.

    At a terminal with prompt_toolkit, else readline, if they are there; `complete` is given what is
    typed so far and returns what its last word may become. From a pipe, the next line as it is.
    """
    if not sys.stdin.isatty():
        yield lambda prompt: input()
        return
    history = _History(Path(HISTORY).expanduser())
    ask = _prompt_toolkit(history, complete) or _readline(history, complete) or input

    def ask_and_remember(prompt: str) -> str:
        line = ask(prompt)
        history.add(line)
        return line

    yield ask_and_remember


class _History:
    """Lines typed, in a file, each written at once: a window that is closed loses none."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.lines: list[str] = []
        with contextlib.suppress(OSError):
            self.lines = path.read_text("utf-8", errors="replace").splitlines()[-HISTORY_LINES:]

    def add(self, line: str) -> None:
        if not line or "\n" in line or line in self.lines[-1:]:
            return
        self.lines = [*self.lines, line][-HISTORY_LINES:]
        with contextlib.suppress(OSError):
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
            with open(os.open(self._path, flags, 0o600), "a", encoding="utf-8") as file:
                file.write(line + "\n")


def _prompt_toolkit(history: _History, complete: Complete) -> Ask | None:
    try:
        import prompt_toolkit
        from prompt_toolkit.completion import Completer, Completion
        from prompt_toolkit.history import InMemoryHistory
    except ImportError:
        return None

    class Words(Completer):
        def get_completions(self, document: Any, complete_event: Any) -> Iterator[Completion]:
            typed = document.text_before_cursor
            for word in complete(typed):
                yield Completion(word, start_position=-len(typed.rpartition(" ")[2]))

    session: prompt_toolkit.PromptSession[str] = prompt_toolkit.PromptSession(
        history=InMemoryHistory(history.lines), completer=Words(), complete_while_typing=False
    )
    return session.prompt


def _readline(history: _History, complete: Complete) -> Ask | None:
    try:
        import readline
    except ImportError:
        return None
    for line in history.lines:
        readline.add_history(line)

    def nth(word: str, n: int) -> str | None:
        words = complete(readline.get_line_buffer()[: readline.get_endidx()])
        return words[n] if n < len(words) else None

    readline.set_completer_delims(" ")
    readline.set_completer(nth)
    libedit = "libedit" in (readline.__doc__ or "")
    readline.parse_and_bind("bind ^I rl_complete" if libedit else "tab: complete")
    return input
