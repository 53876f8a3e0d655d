"""From logits to tokens, and from tokens to text as it comes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import torch

from .filters import ban_repeated_ngrams, ban_sequences, filter_logits, penalize_repetition

ENDED = -1
GREEDY_BELOW = 1e-6  # a temperature under it would overflow the logits


def sample_token(logits: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Draw a token for each row of logits `(B, V)`, given numbers from [0, 1) `(B,)`.

    Inverse transform sampling: one number decides, and a token of probability 0 is never drawn.
    Returns ids `(B,)`. Raises `ValueError` if a row is not a distribution.
    """
    cumulative = logits.double().softmax(-1).cumsum(-1)
    total = cumulative[:, -1:]
    _check_finite(total)
    # Rounded up to the total itself, the product would point behind the last token.
    drawn = torch.minimum(uniform.to(total)[:, None] * total, total.nextafter(total * 0))
    return torch.searchsorted(cumulative, drawn, right=True).squeeze(-1)


def _check_finite(values: torch.Tensor) -> None:
    """Raise `ValueError` if logits cannot be sampled from: NaN is in every sum and maximum."""
    if not torch.isfinite(values).all():
        raise ValueError("the model's logits are not finite, its weights are damaged, name another")


def generate(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    do_sample: bool = True,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    typical_p: float = 1.0,
    repetition_penalty: float = 1.0,
    no_repeat_ngram_size: int = 0,
    bad_words_ids: Sequence[Sequence[int]] = (),
    seeds: Sequence[int] | None = None,
    eos_token_id: int | Collection[int] | None = None,
    use_cache: bool = True,
    autocast: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
) -> Iterator[torch.Tensor]:
    """Continue prompts of token ids; yields one token for each, `(B,)` int64 on the CPU, at a time.

    A prompt that has reached (one of) `eos_token_id`, which is yielded, gets -1 from there on; when
    all have, generation ends. Prompts may differ in length; each gets what it would get alone. Each
    draws from a `torch.Generator` of its own, seeded from `seeds` (default: from entropy).
    Temperature 0 is greedy. The filters are those of `filters`, in the order of `transformers`;
    `bad_words_ids` are sequences of ids never to be completed. Where a text outgrows the model's
    window, its older half is dropped and the rest read again. Raises `ValueError` for an empty
    prompt, a model in training mode, logits that are not finite, or if every token is banned.
    """
    if model.training:
        raise ValueError("the model is in training mode, sample within `undisturbed(model)`")
    if not prompts or not all(len(prompt) for prompt in prompts):
        raise ValueError("a prompt has no tokens, start from the end-of-text token")
    largest, rows = max(map(max, prompts)), model.get_input_embeddings().weight.shape[0]
    if largest >= rows:
        raise ValueError(
            f"a prompt has token id {largest}, the model's embedding {rows} rows, use the model's "
            "own tokenizer"
        )
    generators = [torch.Generator() for _ in prompts]
    for row, generator in enumerate(generators):
        generator.manual_seed(seeds[row]) if seeds is not None else generator.seed()
    ends = [eos_token_id] if isinstance(eos_token_id, int) else list(eos_token_id or ())
    contexts = _Contexts(model, prompts, use_cache)
    ended = torch.zeros(len(prompts), dtype=torch.bool)
    for _ in range(max_new_tokens):
        with torch.inference_mode(), autocast():
            logits = contexts.next_logits().float()
            if repetition_penalty != 1.0:
                seen = contexts.seen(logits.shape[-1]).to(logits.device)
                logits = penalize_repetition(logits, seen, repetition_penalty)
            _check_finite(logits.amax(-1))
            if no_repeat_ngram_size:
                logits = ban_repeated_ngrams(logits, contexts.texts, no_repeat_ngram_size)
            if bad_words_ids:
                logits = ban_sequences(logits, contexts.texts, bad_words_ids)
            if (logits == -torch.inf).all(-1).any():
                raise ValueError("every token is banned here, give fewer --bad_words")
            if do_sample and temperature >= GREEDY_BELOW:
                logits = filter_logits(
                    logits,
                    temperature=temperature,
                    top_k=top_k,
                    top_p=top_p,
                    min_p=min_p,
                    typical_p=typical_p,
                )
                uniform = [torch.rand((), generator=g, dtype=torch.float64) for g in generators]
                tokens = sample_token(logits, torch.stack(uniform)).cpu()
            else:
                tokens = logits.argmax(-1).cpu()
        yield tokens.masked_fill(ended, ENDED)
        ended |= torch.isin(tokens, torch.tensor(ends, dtype=torch.int64))
        if ended.all():
            return
        contexts.append(tokens, ended)


class _Contexts:
    """What the model sees of each text, and its cache of keys and values, if it has one."""

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]], use_cache: bool) -> None:
        self._model = model
        self._window = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self.texts = [list(prompt) for prompt in prompts]
        self._rows = [self._crop(list(prompt)) for prompt in prompts]
        self._use_cache = use_cache
        self._cache: Any = None
        self._mask = torch.empty(0)
        self._new: torch.Tensor | None = None
        self._seen: torch.Tensor | None = None

    def next_logits(self) -> torch.Tensor:
        """Logits of the next token, `(B, V)`: over all of the contexts, or over what is new."""
        if self._cache is None or self._new is None:
            return self._forward(*self._left_padded())
        device = self._mask.device
        positions = torch.tensor([[len(row) - 1] for row in self._rows], device=device)
        self._mask = torch.cat([self._mask, torch.ones_like(self._mask[:, :1])], dim=1)
        return self._forward(self._new[:, None].to(device), positions)

    def append(self, tokens: torch.Tensor, ended: torch.Tensor) -> None:
        """Add a token `(B,)` to every text that has not ended."""
        self._new = tokens
        for index, token in enumerate(tokens.tolist()):
            if not ended[index]:
                self.texts[index].append(token)
                row = self._rows[index]
                row.append(token)
                self._rows[index] = self._crop(row)
                if len(self._rows[index]) != len(row):
                    self._cache = None

    def seen(self, vocab_size: int) -> torch.Tensor:
        """Which tokens each text holds, prompt included: `(B, V)` bool."""
        new = [text[-1:] for text in self.texts]
        if self._seen is None:
            self._seen = torch.zeros(len(self.texts), vocab_size, dtype=torch.bool)
            new = self.texts
        for row, tokens in enumerate(new):
            self._seen[row, tokens] = True
        return self._seen

    def _crop(self, row: list[int]) -> list[int]:
        if self._window is None or len(row) <= self._window:
            return row
        return row[-max(1, self._window // 2) :]

    def _left_padded(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and positions `(B, T)`, padded on the left so that the last column is the newest."""
        width = max(len(row) for row in self._rows)
        device = self._model.device
        padding = [width - len(row) for row in self._rows]
        ids = [[0] * pad + row for pad, row in zip(padding, self._rows, strict=True)]
        mask = [[0] * pad + [1] * (width - pad) for pad in padding]
        self._mask = torch.tensor(mask, device=device)
        positions = (self._mask.cumsum(-1) - 1).clamp(min=0)
        return torch.tensor(ids, device=device), positions

    def _forward(self, input_ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        output = self._model(
            input_ids=input_ids,
            attention_mask=self._mask,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=self._use_cache,
            logits_to_keep=1,
        )
        if self._use_cache:
            self._cache = getattr(output, "past_key_values", None)
        logits: torch.Tensor = output.logits[:, -1]
        return logits


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


def end_tokens(model: Any, tokenizer: Any) -> list[int]:
    """Tokens that end a text: the tokenizer's, and those the model's generation settings name."""
    named = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ids = [named] if isinstance(named, int) else list(named or ())
    return sorted({*ids, tokenizer.eos_token_id} - {None})


def stream(
    model: Any,
    tokenizer: Any,
    prompt: str,
    *,
    seed: int | None = None,
    bad_words: Sequence[str] = (),
    **settings: Any,
) -> Iterator[str]:
    """Continue a prompt; yields the text piece by piece. Settings are those of `generate`.

    `bad_words` are never written, neither alone nor after a space.
    """
    ids = encode_prompt(tokenizer, prompt)
    decoder = TextDecoder(tokenizer, ids)
    spellings = [spelling for word in bad_words if word for spelling in (word, f" {word}")]
    ends = end_tokens(model, tokenizer)
    settings = {
        "seeds": None if seed is None else [seed],
        "eos_token_id": ends,
        "bad_words_ids": [tokenizer(s, add_special_tokens=False)["input_ids"] for s in spellings],
        **settings,
    }
    for tokens in generate(model, [ids], **settings):
        if int(tokens[0]) not in ends:
            yield decoder.push(int(tokens[0]))
    yield decoder.flush()
