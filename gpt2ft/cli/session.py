"""What every loop in the terminal has: commands, settings, and a text that comes as it is made."""

from __future__ import annotations

import abc
import dataclasses
import glob
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from ..generation.config import GenerateConfig, Sampling
from ..generation.ready_model import ReadyModel
from ..generation.text import Continuation, extend, window_note
from ..system.terminal import error_line
from .flags import typed_value
from .line_input import line_input, read_text

LEAVING = ("quit", "exit", "/exit")
SETTINGS = (*(field.name for field in dataclasses.fields(Sampling)), "seed")


def interact(session: Session) -> int:
    """Answer what is typed until the end of input; returns the exit status.

    Ctrl-C stops a text, or drops a line; where there is no terminal it ends the loop with 130.
    """
    terminal = sys.stdin.isatty()
    if terminal:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever started it may ignore it
        session.write(session.GREETING + "\n")
    with line_input(session.complete) as ask:
        while True:
            try:
                session.answer(read_text(ask))
            except EOFError:
                session.write("\n" if terminal else "")
                return 0
            except KeyboardInterrupt:
                if not terminal:
                    session.write("\n")
                    return 130
            except BrokenPipeError:
                raise
            except Exception as error:  # of this text or command; the next may be better
                session.write(f"gpt2ft: error: {error_line(error)}")
            session.write("\n\n")


class Session(abc.ABC):
    """What was written so far, with which model and settings; and the commands, `do_...`."""

    GREETING: str
    """What is shown at the start."""
    HINT: str
    """What a line is, for /help."""
    NOTHING_YET: str
    """What a command says that needs a text, if there is none."""

    def __init__(
        self,
        config: GenerateConfig,
        model: ReadyModel,
        load: Callable[[str], ReadyModel],
        write: Callable[[str], None],
    ) -> None:
        """`load` loads a model of that name, `write` shows text."""
        self.write = write
        self._first, self._config = config, config
        self._model, self._load = model, load
        self._texts: list[Continuation] = []  # the current one last
        self._seconds: list[list[float]] = []  # for each text, from its start to each token
        self._noted_window = False

    @abc.abstractmethod
    def say(self, typed: str) -> None:
        """Answer what was typed and is no command."""

    def answer(self, line: str) -> None:
        """Answer a line; or carry out its command, if it begins with a single slash.

        Raises `EOFError` if the line says to leave, `ValueError` if it cannot be done.
        """
        line = "/quit" if line.strip() in LEAVING else line
        if line.startswith("/") and "\n" not in line and not line.startswith("//"):
            name, _, argument = line[1:].partition(" ")
            command = getattr(self, f"do_{name}", None)
            if command is None:
                raise ValueError(
                    f"unknown command /{name}; /help lists commands, // begins a text with /"
                )
            command(argument.strip())
        else:
            self.say(line[1:] if line.startswith("//") else line)

    def complete(self, typed: str) -> list[str]:
        """What the last word of a line may become."""
        *before, word = typed.split(" ")
        if not before:
            words = [f"/{name}" for name in self._commands()]
        elif typed.startswith("/set "):
            words = list(SETTINGS) if len(before) == 1 else []
        else:
            words = [
                path + "/" * os.path.isdir(path) for path in glob.glob(glob.escape(word) + "*")
            ]
        return sorted(found for found in words if found.startswith(word) and typed.startswith("/"))

    def do_help(self, _: str) -> None:
        """/help|this list"""
        lines = [self.HINT]
        for command in self._commands().values():
            usage, what = command.__doc__.split("|")
            lines.append(f"{usage:<22}{what}")
        self.write("\n".join(lines))

    def do_quit(self, _: str) -> None:
        """/quit|leave; the words quit and exit, and Ctrl-D, leave too"""
        raise EOFError

    def do_set(self, argument: str) -> None:
        """/set NAME VALUE|change a setting: /set temperature 0.7; /settings lists them"""
        name, _, value = argument.partition(" ")
        if name not in SETTINGS:
            wrong = f"unknown setting {name}" if name else "/set needs a name and a value"
            raise ValueError(f"{wrong}; the settings are {', '.join(SETTINGS)}")
        if not value.strip():
            raise ValueError(f"/set {name} needs a value; /settings shows the present ones")
        changed = dataclasses.replace(
            self._config, **{name: typed_value(GenerateConfig, name, value.strip())}
        )
        self._config = changed
        self.write(f"{name} = {_shown_setting(changed, name)}")

    def do_settings(self, _: str) -> None:
        """/settings|the model and every setting"""
        lines = [f"{'model':<22}{self._model.name}"]
        lines += [f"{name:<22}{_shown_setting(self._config, name)}" for name in SETTINGS]
        self.write("\n".join(lines))

    def do_seed(self, argument: str) -> None:
        """/seed [N]|show the last seed; N: use seed N from now on; none: a new one each time"""
        if argument:
            self.do_set(f"seed {argument}")
        else:
            self.write(f"the text has seed {self._current().seed}")

    def do_stats(self, _: str) -> None:
        """/stats|tokens per second of the last text, and the time to its first token"""
        self._current()
        first, *rest = self._seconds[-1] or [0.0]
        rate = len(rest) / (rest[-1] - first) if rest and rest[-1] > first else 0.0
        n = len(self._seconds[-1])
        self.write(f"{n} tokens: the first after {first:.3f} s, then {rate:.1f} a second")

    def _commands(self) -> dict[str, Any]:
        shared_first = [name for kind in reversed(type(self).__mro__) for name in vars(kind)]
        names = [name for name in dict.fromkeys(shared_first) if name.startswith("do_")]
        return {name.removeprefix("do_"): getattr(self, name) for name in names}

    def _current(self) -> Continuation:
        if not self._texts:
            raise ValueError(self.NOTHING_YET)
        return self._texts[-1]

    def _write_on(self, text: Continuation, *, shown: str) -> None:
        """Let the model write on; what came stays, even if it is stopped."""
        model = self._model
        seconds: list[float] = []
        self._texts.append(text)
        self._seconds.append(seconds)
        self.write(shown)
        start = time.perf_counter()
        pieces = extend(
            model.model,
            model.tokenizer,
            [text],
            self._config.sampling,
            corpus=model.corpus,
            prefix=model.prefix,
        )
        try:
            for (piece,) in pieces:
                if len(text.tokens) > len(seconds):
                    seconds.append(time.perf_counter() - start)
                self.write(piece)
        except ValueError:
            self._texts.pop()
            self._seconds.pop()
            raise
        if not self._noted_window and (note := window_note(model.model, text)):
            self._noted_window = True
            self.write(f"\n({note})")


def _shown_setting(config: GenerateConfig, name: str) -> str:
    """A setting as it can be typed after /set."""
    value = getattr(config, name)
    return str(list(value) if isinstance(value, tuple) else value)
