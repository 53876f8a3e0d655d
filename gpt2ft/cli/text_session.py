"""The terminal loop: the beginning of a text is typed, the model goes on with it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch

from ..generation.kv_cache import Contexts
from ..generation.text import (
    Continuation,
    TextDecoder,
    begin,
    encode_prompt,
    generate,
)
from ..system.terminal import printable
from .columns import bars, side_by_side
from .session import Session

PROBABLE_TOKENS = 10


class TextSession(Session):
    """The texts written so far, each the beginning that was typed and how the model went on."""

    GREETING = (
        "Type the beginning of a text. Ctrl-C stops a text, /quit leaves, /help lists commands."
    )
    HINT = 'A line is the beginning of a text; several lines between two lines of """.'

    NOTHING_YET = "there is no text yet, type the beginning of one"

    def say(self, typed: str) -> None:
        """Continue a text."""
        self._write_on(begin(self._model.tokenizer, typed, self._config.seed), shown=typed)

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

    def _ids(self, text: Continuation) -> list[int]:
        """The tokens of a text as it was shown."""
        if text.stop_reason == "stop_string":
            return encode_prompt(self._model.tokenizer, text.prompt + text.text)
        ended = text.stop_reason == "end_of_text"
        return text.prompt_ids + (text.tokens[:-1] if ended else text.tokens)


def _shown(tokenizer: Any, text: list[int], token: int) -> str:
    """A token after a text, in quotation marks; or its name, if it writes nothing."""
    decoder = TextDecoder(tokenizer, text)
    written = decoder.push(token) + decoder.flush()
    return repr(written) if written else str(tokenizer.convert_ids_to_tokens(token))
