"""From logits to tokens: draws, and texts that grow by a token at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple

import torch

from .config import Sampling
from .filters import (
    Followers,
    ban_copies,
    ban_repeated_ngrams,
    ban_sequences,
    filter_logits,
    penalize_repetition,
)
from .kv_cache import Contexts, Prefix

ENDED = -1
DEFAULT = Sampling()
GREEDY_BELOW = 1e-6  # a temperature under it would overflow the logits


class Step(NamedTuple):
    """The next token of each of B texts; all on the CPU."""

    tokens: torch.Tensor
    """Token ids `(B,)`, -1 for a text that had ended before."""
    log_probabilities: torch.Tensor
    """What the model itself, before any filter, gave them: natural logarithms `(B,)`."""
    ended: torch.Tensor
    """Which texts end with this token, or did before: `(B,)` bool. Write True to end one."""


def sample_token(logits: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Draw a token for each row of logits `(B, V)`, given numbers from [0, 1) `(B,)`.

    Inverse transform sampling: one number decides, and a token of probability 0 is never drawn.
    Summed in fp64: on the logits' device, or on the CPU for MPS, which has no fp64. Returns ids
    `(B,)`, on the device of the logits. Raises `ValueError` if a row is not a distribution.
    """
    device = logits.device
    if device.type == "mps":
        logits = logits.cpu()
    cumulative = logits.double().softmax(-1).cumsum(-1)
    total = cumulative[:, -1:]
    _check_finite(total)
    # Rounded up to the total itself, the product would point behind the last token.
    drawn = torch.minimum(uniform.to(total)[:, None] * total, total.nextafter(total * 0))
    return torch.searchsorted(cumulative, drawn, right=True).squeeze(-1).to(device)


def _check_finite(values: torch.Tensor) -> None:
    """Raise `ValueError` if logits cannot be sampled from: NaN is in every sum and maximum."""
    if not torch.isfinite(values).all():
        raise ValueError("the model's logits are not finite, its weights are damaged, name another")


def choose_tokens(
    logits: torch.Tensor,
    texts: Sequence[Sequence[int]],
    generators: Sequence[torch.Generator],
    sampling: Sampling,
    *,
    bad_words_ids: Sequence[Sequence[int]] = (),
    corpus: Followers | None = None,
) -> torch.Tensor:
    """The next token `(B,)` of B texts of token ids, given their logits `(B, V)`.

    Each draws from its own generator. The filters are those of `filters`, in the order of
    `transformers`; `bad_words_ids` are sequences of ids never to be completed; `corpus` is what
    `max_verbatim` is about; temperature 0 is greedy. Raises `ValueError` for logits that are not
    finite, if every token is banned, or for `max_verbatim` without a corpus.
    """
    if sampling.repetition_penalty != 1.0:
        logits = penalize_repetition(logits, texts, sampling.repetition_penalty)
    _check_finite(logits.amax(-1))
    if sampling.no_repeat_ngram_size:
        logits = ban_repeated_ngrams(logits, texts, sampling.no_repeat_ngram_size)
    if bad_words_ids:
        logits = ban_sequences(logits, texts, bad_words_ids)
    if sampling.max_verbatim:
        if corpus is None:
            raise ValueError(
                "max_verbatim needs the text that is not to be copied, give --corpus FILE "
                "(in Python corpus=)"
            )
        logits = ban_copies(logits, texts, corpus, sampling.max_verbatim)
    bans = sampling.no_repeat_ngram_size or bad_words_ids or sampling.max_verbatim
    if bans and (logits.amax(-1) == -torch.inf).any():
        raise ValueError(
            "every token is banned here, give fewer --bad_words, or a larger --max_verbatim"
            if sampling.max_verbatim
            else "every token is banned here, give fewer --bad_words"
        )
    if not sampling.do_sample or sampling.temperature < GREEDY_BELOW:
        return logits.argmax(-1)
    logits, ids = filter_logits(
        logits,
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        min_p=sampling.min_p,
        typical_p=sampling.typical_p,
    )
    uniform = [torch.rand((), generator=g, dtype=torch.float64) for g in generators]
    drawn = sample_token(logits, torch.stack(uniform))
    return ids.gather(-1, drawn[:, None]).squeeze(-1)


def generate_tokens(
    model: Any,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling = DEFAULT,
    *,
    seeds: Sequence[int] | None = None,
    eos_token_id: int | Collection[int] | None = None,
    bad_words_ids: Sequence[Sequence[int]] = (),
    corpus: Followers | None = None,
    use_cache: bool = True,
    prefix: Prefix | None = None,
    autocast: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
) -> Iterator[Step]:
    """Continue prompts of token ids, by one token each at a time, until all have ended.

    A text ends with (one of) `eos_token_id`, or when the caller says so. Prompts may differ in
    length; each gets what it would get alone, drawn by a generator seeded from `seeds` (default:
    from entropy). `bad_words_ids` are sequences of ids that are never completed; the strings of
    `sampling`, `bad_words` and `stop_strings`, need a tokenizer and are not looked at here, see
    `generate`. `corpus`, made by `index_text`, is what `max_verbatim` is about. A text that
    outgrows the model's window loses its older half, and the rest is read again. `prefix` keeps
    what was read for the next call with one prompt.

    The model may be any causal module from ids `(B, T)` to logits `(B, T, V)`, plain or as
    `.logits`; masks, positions and a cache are passed if its `forward` takes them. Raises
    `ValueError` for an empty prompt, a model in training mode, and as `choose_tokens` does.
    """
    _check(model, prompts)
    generators = [torch.Generator() for _ in prompts]
    for row, generator in enumerate(generators):
        generator.manual_seed(seeds[row]) if seeds is not None else generator.seed()
    ends = [eos_token_id] if isinstance(eos_token_id, int) else list(eos_token_id or ())
    contexts = Contexts(model, prompts, use_cache=use_cache, prefix=prefix)
    ended = torch.zeros(len(prompts), dtype=torch.bool)
    for _ in range(sampling.max_new_tokens):
        with torch.inference_mode(), autocast():
            logits = contexts.next_logits().float()
            tokens = choose_tokens(
                logits,
                contexts.texts,
                generators,
                sampling,
                bad_words_ids=bad_words_ids,
                corpus=corpus,
            )
            chosen = logits.gather(-1, tokens[:, None]).squeeze(-1)
            log_probabilities = (chosen - logits.logsumexp(-1)).cpu()
        tokens = tokens.cpu().masked_fill(ended, ENDED)
        ended = ended | torch.isin(tokens, torch.tensor(ends, dtype=torch.int64))
        yield Step(tokens, log_probabilities, ended)
        if ended.all():
            return
        contexts.append(tokens, ended)


def _check(model: Any, prompts: Sequence[Sequence[int]]) -> None:
    if model.training:
        raise ValueError("the model is in training mode, sample within `undisturbed(model)`")
    if not prompts or not all(len(prompt) for prompt in prompts):
        raise ValueError("a prompt has no tokens, start from the end-of-text token")
    if not hasattr(model, "get_input_embeddings"):
        return
    largest, rows = max(map(max, prompts)), model.get_input_embeddings().weight.shape[0]
    if largest >= rows:
        raise ValueError(
            f"a prompt has token id {largest}, but the model's embedding has {rows} rows: use the "
            "model's own tokenizer"
        )
