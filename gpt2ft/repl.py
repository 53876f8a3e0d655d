"""The terminal loop: a prompt is typed, the model goes on with it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

HISTORY = "~/.gpt2ft_history"
PROMPT = "gpt2ft> "
GREETING = "Type the beginning of a text. Ctrl-C stops a text, Ctrl-D leaves."


def interact(continue_text: Callable[[str], Iterable[str]], write: Callable[[str], None]) -> int:
    """Ask for prompts and write how `continue_text` continues each, until the end of input.

    With a terminal there is line editing and a history kept between runs. Returns the exit status:
    0, or 130 for Ctrl-C at the prompt.
    """
    terminal = sys.stdin.isatty()
    if terminal:
        write(GREETING + "\n")
    with _line_editing() if terminal else contextlib.nullcontext():
        while True:
            try:
                prompt = input(PROMPT if terminal else "")
            except EOFError:
                write("\n" if terminal else "")
                return 0
            except KeyboardInterrupt:
                write("\n")
                return 130
            with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C stops the text, not the program
                write(prompt)
                try:
                    for piece in continue_text(prompt):
                        write(piece)
                except ValueError as error:  # of this prompt; the next may be better
                    write(f"gpt2ft: error: {error}")
            write("\n\n")


@contextlib.contextmanager
def _line_editing() -> Iterator[None]:
    """Arrow keys and history, where the readline module is there."""
    try:
        import readline
    except ImportError:
        yield
        return
    history = Path(HISTORY).expanduser()
    with contextlib.suppress(OSError):
        readline.read_history_file(history)
    readline.set_history_length(1000)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            readline.write_history_file(history)
