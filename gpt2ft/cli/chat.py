"""The terminal loop: the beginning of a text is typed, the model goes on with it."""

from __future__ import annotations

import dataclasses
import glob
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..generation.config import GenerateConfig, Sampling
from ..generation.kv_cache import Contexts
from ..generation.ready_model import ReadyModel
from ..generation.text import (
    Continuation,
    TextDecoder,
    begin,
    encode_prompt,
    extend,
    generate,
    window_note,
)
from ..system.terminal import error_line, printable
from .columns import bars, side_by_side
from .flags import typed_value
from .line_input import line_input, read_text

GREETING = "Type the beginning of a text. Ctrl-C stops a text, /quit leaves, /help lists commands."
LEAVING = ("quit", "exit", "/exit")
SETTINGS = (*(field.name for field in dataclasses.fields(Sampling)), "seed")
PROBABLE_TOKENS = 10


def interact(conversation: Conversation) -> int:
    """Answer what is typed until the end of input; returns the exit status.

    Ctrl-C stops a text, or drops a line; where there is no terminal it ends the loop with 130.
    """
    terminal = sys.stdin.isatty()
    if terminal:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever started it may ignore it
        conversation.write(GREETING + "\n")
    with line_input(conversation.complete) as ask:
        while True:
            try:
                conversation.answer(read_text(ask))
            except EOFError:
                conversation.write("\n" if terminal else "")
                return 0
            except KeyboardInterrupt:
                if not terminal:
                    conversation.write("\n")
                    return 130
            except BrokenPipeError:
                raise
            except Exception as error:  # of this text or command; the next may be better
                conversation.write(f"gpt2ft: error: {error_line(error)}")
            conversation.write("\n\n")


class Conversation:
    """The texts written so far, with which model and settings; and the commands, `do_...`."""

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

    def answer(self, line: str) -> None:
        """Continue the line as a text; or carry out its command, if it begins with a single slash.

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
            text = line[1:] if line.startswith("//") else line
            self._write_on(begin(self._model.tokenizer, text, self._config.seed), shown=text)

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
        lines = ['A line is the beginning of a text; several lines between two lines of """.']
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

    def do_retry(self, _: str) -> None:
        """/retry|write the last text again, with the next seed"""
        last = self._current()
        again = Continuation(last.prompt, last.seed + 1, last.prompt_ids)
        self._write_on(again, shown=again.prompt)

    def do_continue(self, more: str) -> None:
        """/continue [TEXT]|go on with the text, after TEXT if given"""
        last = self._current()
        more = f" {more}" if more else ""
        ids = self._ids(last) + self._model.tokenizer(more, add_special_tokens=False)["input_ids"]
        longer = Continuation(last.prompt + last.text + more, last.seed + 1, ids)
        self._write_on(longer, shown=more)

    def do_undo(self, _: str) -> None:
        """/undo|take back the last text, continuation or retry"""
        self._current()
        self._texts.pop()
        self._seconds.pop()
        last = self._texts[-1] if self._texts else None
        self.write(last.prompt + last.text if last else "no text is left")

    def do_reset(self, _: str) -> None:
        """/reset|forget all texts, and go back to the settings of the start"""
        self._texts.clear()
        self._seconds.clear()
        self._config = self._first
        self.write("texts forgotten, settings as at the start")

    def do_seed(self, argument: str) -> None:
        """/seed [N]|show the last seed; N: use seed N from now on; none: a new one each time"""
        if argument:
            self.do_set(f"seed {argument}")
        else:
            self.write(f"the text has seed {self._current().seed}")

    def do_load(self, path: str) -> None:
        """/load PATH|go on with another model"""
        if not path:
            raise ValueError("/load needs the name of a model: a folder, or a name on the hub")
        self._model = self._load(os.path.expanduser(path))
        for text in self._texts:  # its tokenizer may be another
            text.prompt_ids = encode_prompt(self._model.tokenizer, text.prompt)
            text.tokens = self._model.tokenizer(text.text, add_special_tokens=False)["input_ids"]
        self.write(f"loaded {path}")

    def do_compare(self, paths: str) -> None:
        """/compare PATH...|the same prompt and seed through this model and others"""
        last, names = self._current(), paths.split()
        if not names:
            raise ValueError(
                "/compare needs the names of one or more models: folders, or hub names"
            )
        texts, sampling = [], self._config.sampling
        for name in [None, *names]:
            other = self._load(os.path.expanduser(name)) if name else self._model
            (text,) = generate(
                *(other.model, other.tokenizer, last.prompt, sampling),
                seed=last.seed,
                corpus=other.corpus,
            )
            texts.append(printable(last.prompt + text.text))
        width = shutil.get_terminal_size().columns
        self.write(side_by_side([self._model.name, *names], texts, width))

    def do_save(self, path: str) -> None:
        """/save FILE|add the text to the end of a file"""
        text = self._current()
        if not path:
            raise ValueError("/save needs the name of a file")
        with Path(path).expanduser().open("a", encoding="utf-8") as file:
            file.write(f"{text.prompt}{text.text}\n\n")
        self.write(f"saved to {path}")

    def do_stats(self, _: str) -> None:
        """/stats|tokens per second of the last text, and the time to its first token"""
        self._current()
        first, *rest = self._seconds[-1] or [0.0]
        rate = len(rest) / (rest[-1] - first) if rest and rest[-1] > first else 0.0
        n = len(self._seconds[-1])
        self.write(f"{n} tokens: the first after {first:.3f} s, then {rate:.1f} a second")

    def do_probs(self, _: str) -> None:
        """/probs|the ten most probable next tokens, whatever temperature, top_k and the like are"""
        model = self._model
        text = self._ids(self._current())
        contexts = Contexts(model.model, [text], prefix=model.prefix)
        with torch.inference_mode():
            probabilities = contexts.next_logits()[0].float().softmax(-1)
        shares, ids = probabilities.topk(min(PROBABLE_TOKENS, len(probabilities)))
        labels = [_shown(model.tokenizer, text, token) for token in ids.tolist()]
        self.write(bars(labels, shares.tolist(), shutil.get_terminal_size().columns))

    def _commands(self) -> dict[str, Any]:
        names = [name for name in vars(Conversation) if name.startswith("do_")]
        return {name.removeprefix("do_"): getattr(self, name) for name in names}

    def _current(self) -> Continuation:
        if not self._texts:
            raise ValueError("there is no text yet, type the beginning of one")
        return self._texts[-1]

    def _ids(self, text: Continuation) -> list[int]:
        """The tokens of a text as it was shown."""
        if text.stop_reason == "stop_string":
            return encode_prompt(self._model.tokenizer, text.prompt + text.text)
        ended = text.stop_reason == "end_of_text"
        return text.prompt_ids + (text.tokens[:-1] if ended else text.tokens)

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


def _shown(tokenizer: Any, text: list[int], token: int) -> str:
    """A token after a text, in quotation marks; or its name, if it writes nothing."""
    decoder = TextDecoder(tokenizer, text)
    written = decoder.push(token) + decoder.flush()
    return repr(written) if written else str(tokenizer.convert_ids_to_tokens(token))


def _shown_setting(config: GenerateConfig, name: str) -> str:
    """A setting as it can be typed after /set."""
    value = getattr(config, name)
    return str(list(value) if isinstance(value, tuple) else value)
