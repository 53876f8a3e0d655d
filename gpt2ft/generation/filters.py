"""Which tokens may be drawn: logits in, logits out, -inf where a token may not.

Each does the same as the logits processor of its name in `transformers`; `ban_copies` has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch


class Followers(Protocol):
    """A text that knows what stands after any tokens in it, as `gpt2ft.index_text` makes one."""

    def followers(self, ids: Sequence[int]) -> Any:
        """The token ids that follow these ids anywhere in it, as an array."""


def penalize_repetition(
    logits: torch.Tensor, texts: Sequence[Sequence[int]], penalty: float
) -> torch.Tensor:
    """Make the tokens of B texts less probable in logits `(B, V)` (CTRL, Keskar et al., 2019).

    Positive logits are divided by the penalty, negative ones multiplied.
    """
    seen = torch.zeros(logits.shape, dtype=torch.bool)
    for row, text in enumerate(texts):
        seen[row, list(text)] = True
    penalized = torch.where(logits < 0, logits * penalty, logits / penalty)
    return torch.where(seen.to(logits.device), penalized, logits)


def ban_repeated_ngrams(
    logits: torch.Tensor, texts: Sequence[Sequence[int]], size: int
) -> torch.Tensor:
    """Ban in logits `(B, V)` what would make `size` tokens in a row stand twice in a text.

    `texts` are the B texts so far, as token ids. From Paulus et al., 2017.
    """
    logits = logits.clone()
    for row, text in enumerate(texts):
        start = len(text) - size + 1
        if start >= 0:
            end = list(text[start:])
            places = range(start)
            banned = [text[i + size - 1] for i in places if list(text[i : i + size - 1]) == end]
            logits[row, banned] = -torch.inf
    return logits


def ban_sequences(
    logits: torch.Tensor, texts: Sequence[Sequence[int]], banned: Sequence[Sequence[int]]
) -> torch.Tensor:
    """Ban in logits `(B, V)` the tokens that would complete one of the banned sequences of ids."""
    logits = logits.clone()
    for row, text in enumerate(texts):
        for *before, last in banned:
            if len(text) >= len(before) and list(text[len(text) - len(before) :]) == before:
                logits[row, last] = -torch.inf
    return logits


def ban_copies(
    logits: torch.Tensor, texts: Sequence[Sequence[int]], corpus: Followers, longest: int
) -> torch.Tensor:
    """Ban in logits `(B, V)` what would make more than `longest` tokens a copy of the corpus.

    These are the tokens that follow the text's last `longest` tokens anywhere in the corpus.
    """
    logits = logits.clone()
    for row, text in enumerate(texts):
        if len(text) >= longest:
            banned = torch.as_tensor(corpus.followers(text[-longest:]), dtype=torch.int64)
            logits[row, banned] = -torch.inf
    return logits


def filter_logits(
    logits: torch.Tensor,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    typical_p: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits `(B, V)` divided by the temperature, -inf where a token is not to be drawn.

    In this order: `top_k` keeps the k greatest, and what is equal to the least of them; 0 keeps
    all. `top_p` keeps the fewest whose probabilities sum to at least p (Holtzman et al., 2020).
    `min_p` keeps those with at least that fraction of the greatest probability (Nguyen et al.,
    2024). `typical_p` keeps those whose surprise is nearest to the entropy, the fewest whose
    probabilities sum to at least p (Meister et al., 2022). At least one is always kept.

    Returns logits `(B, K)` and the ids of their tokens `(B, K)`, ids ascending. With `top_k`, K is
    the number of tokens it keeps, so that nothing after it sorts or sums the whole vocabulary.
    """
    if temperature != 1.0:
        logits = logits / temperature
    logits, ids = _keep_top_k(logits, top_k or logits.shape[-1])
    if top_p < 1.0:
        ascending, order = torch.sort(logits)
        outside = ascending.softmax(-1).cumsum(-1) <= 1 - top_p
        outside[:, -1] = False
        logits = logits.masked_fill(outside.scatter(1, order, outside), -torch.inf)
    if min_p > 0.0:
        probabilities = logits.softmax(-1)
        outside = probabilities < min_p * probabilities.amax(-1, keepdim=True)
        logits = logits.masked_fill(outside, -torch.inf)
    if typical_p < 1.0:
        logits = _keep_typical(logits, typical_p)
    return logits, ids


def _keep_top_k(logits: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    n_tokens = logits.shape[-1]
    if k >= n_tokens:
        return logits, torch.arange(n_tokens, device=logits.device).expand_as(logits)
    greatest, ids = torch.topk(logits, k + 1)
    least, next_one = greatest[:, k - 1 : k], greatest[:, k:]
    if (next_one == least).any():
        ids = torch.topk(logits, int((logits >= least).sum(-1).max())).indices
    else:
        ids = ids[:, :k]
    ids = ids.sort(-1).values
    logits = logits.gather(-1, ids)
    return logits.masked_fill(logits < least, -torch.inf), ids


def _keep_typical(logits: torch.Tensor, mass: float) -> torch.Tensor:
    surprise = -logits.log_softmax(-1)
    probabilities = (-surprise).exp()
    expected = (probabilities * surprise).nansum(-1, keepdim=True)
    distance, order = torch.sort((surprise - expected).abs())
    reached = logits.gather(-1, order).softmax(-1).cumsum(-1)
    last = (reached < mass).sum(-1, keepdim=True).clamp(max=logits.shape[-1] - 1)
    outside = distance > distance.gather(-1, last)
    outside[:, 0] = False
    return logits.masked_fill(outside.scatter(1, order, outside), -torch.inf)
