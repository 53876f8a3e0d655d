"""From prompts to texts: what a model writes on from them, as it comes or in batches."""

from __future__ import annotations

import contextlib
import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ..models.probe import window
from .config import Sampling
from .filters import Followers
from .kv_cache import Prefix
from .sampling import DEFAULT, generate_tokens


@dataclass
class Continuation:
    """A prompt, and what a model writes on from it."""

    prompt: str
    seed: int
    """The seed it is drawn with: the same model, prompt, seed and settings give the same text."""
    prompt_ids: list[int]
    tokens: list[int] = field(default_factory=list)
    """What was drawn, with the token or the stop string that ended it."""
    text: str = ""
    """What was written: without the end-of-text token, and up to a stop string."""
    log_probability: float = 0.0
    """Natural logarithm of the probability of all `tokens`, by the model without any filter."""
    stop_reason: Literal["end_of_text", "stop_string", "max_new_tokens"] | None = None
    """What ended it; None if it was interrupted."""


def generate(
    model: Any,
    tokenizer: Any,
    prompts: str | Sequence[str],
    sampling: Sampling = DEFAULT,
    *,
    seed: int | Sequence[int | None] | None = None,
    num_return_sequences: int = 1,
    batch_size: int = 8,
    corpus: Followers | None = None,
) -> Iterator[Continuation]:
    """Continue prompts, `batch_size` at a time: a `Continuation` of each, in their order.

    `seed` is one for each prompt, or the same for all (default: from entropy). A prompt's text does
    not depend on the others. With `num_return_sequences`, each prompt is continued so many times,
    with `seed`, `seed + 1`, and so on. `sampling` says how tokens are chosen and how many;
    `corpus`, made by `index_text`, is what its `max_verbatim` is about. Raises `ValueError` as
    `generate_tokens` does.
    """
    prompts = [prompts] if isinstance(prompts, str) else prompts
    seeds = seed if isinstance(seed, Sequence) else [seed] * len(prompts)
    todo = (
        begin(tokenizer, prompt, None if first is None else first + n)
        for prompt, first in zip(prompts, seeds, strict=True)
        for n in range(num_return_sequences)
    )
    return complete(model, tokenizer, todo, sampling, batch_size=batch_size, corpus=corpus)


def complete(
    model: Any,
    tokenizer: Any,
    texts: Iterable[Continuation],
    sampling: Sampling,
    *,
    batch_size: int,
    corpus: Followers | None = None,
) -> Iterator[Continuation]:
    """Continue texts that hold only a prompt, `batch_size` at a time; yields them when complete."""
    todo = iter(texts)
    while batch := list(itertools.islice(todo, batch_size)):
        for _ in extend(model, tokenizer, batch, sampling, corpus=corpus):
            pass
        yield from batch


def stream(
    model: Any,
    tokenizer: Any,
    prompt: str,
    sampling: Sampling = DEFAULT,
    *,
    seed: int | None = None,
    corpus: Followers | None = None,
) -> Iterator[str]:
    """Continue a prompt; yields the text piece by piece.

    `sampling` says how tokens are chosen and how many; `seed` is drawn from entropy by default;
    `corpus` is that of `generate`. Raises `ValueError` as `generate_tokens` does.
    """
    text = begin(tokenizer, prompt, seed)
    for (piece,) in extend(model, tokenizer, [text], sampling, corpus=corpus):
        yield piece


def begin(tokenizer: Any, prompt: str, seed: int | None) -> Continuation:
    """A text of which there is only the prompt."""
    seed = random.SystemRandom().randrange(2**31) if seed is None else seed
    return Continuation(prompt, seed, encode_prompt(tokenizer, prompt))


def extend(
    model: Any,
    tokenizer: Any,
    texts: Sequence[Continuation],
    sampling: Sampling,
    *,
    corpus: Followers | None = None,
    prefix: Prefix | None = None,
    autocast: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
) -> Iterator[list[str]]:
    """Continue B texts that hold only a prompt; yields, after each token, B pieces of new text.

    A text is complete when all pieces were taken; interrupted, it holds what came until then.
    `corpus`, `prefix` and `autocast` are those of `generate_tokens`.
    """
    words = [spelling for word in sampling.bad_words if word for spelling in (word, f" {word}")]
    ends = end_tokens(model, tokenizer)
    writers = [_Writer(tokenizer, text, sampling.stop_strings, ends) for text in texts]
    steps = generate_tokens(
        model,
        [text.prompt_ids for text in texts],
        sampling,
        seeds=[text.seed for text in texts],
        eos_token_id=ends,
        bad_words_ids=[tokenizer(word, add_special_tokens=False)["input_ids"] for word in words],
        corpus=corpus,
        prefix=prefix,
        autocast=autocast,
    )
    for step in steps:
        rows = zip(writers, step.tokens.tolist(), step.log_probabilities.tolist(), strict=True)
        yield [writer.push(token, probability) for writer, token, probability in rows]
        for row, text in enumerate(texts):
            step.ended[row] |= text.stop_reason is not None
    yield [writer.finish() for writer in writers]


def window_note(model: Any, text: Continuation) -> str:
    """What to say of a text that is longer than the model's window; empty if it is not."""
    size = window(model)
    if size is None or len(text.prompt_ids) + len(text.tokens) <= size:
        return ""
    return (
        f"the text is longer than the model's window of {size:,} tokens, from there on it sees the "
        f"newest {size // 2:,} to {size:,}"
    )


class _Writer:
    """Turns the tokens of a text to what can be shown of it."""

    def __init__(
        self,
        tokenizer: Any,
        text: Continuation,
        stop_strings: Sequence[str],
        end_tokens: Sequence[int],
    ) -> None:
        self._text = text
        self._decoder = TextDecoder(tokenizer, text.prompt_ids)
        self._stops = [string for string in stop_strings if string]
        self._ends = end_tokens
        self._held = ""  # what may be the beginning of a stop string

    def push(self, token: int, log_probability: float) -> str:
        """Add a token, unless the text has ended; returns what is new of it for certain."""
        text = self._text
        if text.stop_reason is not None:
            return ""
        text.tokens.append(token)
        text.log_probability += log_probability
        if token in self._ends:
            text.stop_reason = "end_of_text"
            return self._release(self._decoder.flush(), last=True)
        return self._release(self._decoder.push(token))

    def finish(self) -> str:
        """No more tokens come; returns what was held back."""
        if self._text.stop_reason is not None:
            return ""
        piece = self._release(self._decoder.flush(), last=True)
        self._text.stop_reason = self._text.stop_reason or "max_new_tokens"
        return piece

    def _release(self, piece: str, *, last: bool = False) -> str:
        held = self._held + piece
        found = [index for stop in self._stops if (index := held.find(stop)) >= 0]
        if found:
            self._text.stop_reason = "stop_string"
            piece, self._held = held[: min(found)], ""
        else:
            keep = 0 if last else max((_overlap(held, stop) for stop in self._stops), default=0)
            piece, self._held = held[: len(held) - keep], held[len(held) - keep :]
        self._text.text += piece
        return piece


def _overlap(text: str, stop: str) -> int:
    """Length of the longest beginning of `stop` that `text` ends with."""
    return next(n for n in range(min(len(text), len(stop)), -1, -1) if text.endswith(stop[:n]))


class TextDecoder:
    """Token ids to text, one at a time, that never shows half a character.

    A character may be split over several byte-level tokens; it is held back until it is whole.
    """

    def __init__(self, tokenizer: Any, prompt: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        # The end of the prompt is decoded along: a token's leading space depends on what is before.
        self._ids = list(prompt[-4:])
        self._context = 0
        self._shown = len(self._ids)  # ids whose text has been given out

    def push(self, token: int) -> str:
        """Text that this token makes whole, often its own, sometimes none."""
        self._ids.append(token)
        text = self._fresh()
        if text.endswith("�"):
            return ""
        self._context, self._shown = self._shown, len(self._ids)
        return text

    def flush(self) -> str:
        """What is still held back; half a character as the replacement character."""
        text = self._fresh()
        self._shown = len(self._ids)
        return text

    def _fresh(self) -> str:
        before = self._decode(self._ids[self._context : self._shown])
        return self._decode(self._ids[self._context :])[len(before) :]

    def _decode(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text


def encode_prompt(tokenizer: Any, prompt: str) -> list[int]:
    """Token ids of a prompt, with what the tokenizer puts before a text; never empty.

    An empty prompt starts from the end-of-text token. Raises `ValueError` if there is none.
    """
    bare: list[int] = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    ids: list[int] = list(tokenizer(prompt)["input_ids"])
    end = tokenizer.eos_token_id
    if ids and ids[-1] == end and bare[-1:] != [end]:
        ids.pop()  # some tokenizers end every text; this one goes on
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else end
    if not ids and start is None:
        raise ValueError("the prompt is empty and the tokenizer has no end-of-text token")
    return ids or [start]


def add_end_tokens(model: Any, tokens: Sequence[int]) -> None:
    """Let these tokens end a text of the model too, wherever it is loaded again."""
    settings = model.generation_config
    named = settings.eos_token_id
    ends = [named] if isinstance(named, int) else list(named or ())
    settings.eos_token_id = [*ends, *(token for token in tokens if token not in ends)]


def end_tokens(model: Any, tokenizer: Any) -> list[int]:
    """Tokens that end a text: the tokenizer's, and those the model's generation settings name."""
    named = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ids = [named] if isinstance(named, int) else list(named or ())
    return sorted({*ids, tokenizer.eos_token_id} - {None})
