"""What a model sees of each text as it grows: window, padding, and its cache of keys and values."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Sequence
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel

from ..models.probe import window

# What `forward` and its output call the cache: up to transformers 5.23, and from 5.24 on.
CACHE_NAMES = ("past_key_values", "cache")


class Prefix:
    """What a model has read of a text, kept so that another with the same beginning is not
    read from its start.

    Belongs to one model, whose keys and values it holds.
    """

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.cache: Any = None

    def cut(self, ids: Sequence[int]) -> int:
        """Forget what is not the beginning of `ids`; returns how many of them are known.

        Never all: the last must be read for its logits.
        """
        known = 0
        while known < min(len(self.ids), len(ids) - 1) and self.ids[known] == ids[known]:
            known += 1
        try:
            if self.cache is not None and known:
                self.cache.crop(known - len(self.ids))
        except RuntimeError:  # a sliding window, behind which nothing is kept
            self.cache = None
        if self.cache is None or not known:
            self.cache, known = None, 0
        self.ids = list(ids[:known])
        return known


def new_cache(model: Any) -> Any:
    """An empty cache for a model of `transformers`; None for others, which make their own."""
    if not isinstance(model, PreTrainedModel):
        return None
    cache = DynamicCache(config=model.config)
    try:
        from .growing_layer import GrowingLayer
    except ImportError:  # a version of transformers whose caches are made otherwise
        return cache
    usual = GrowingLayer.__base__
    cache.layers = [GrowingLayer() if type(x) is usual else x for x in cache.layers]
    return cache


def _cache_name(model: Any, accepted: Collection[str]) -> str | None:
    """What `forward` calls its cache of keys and values; None if it takes none.

    Mamba's cache has the name too, but holds states, which would take in the padding on the left.
    """
    name = next((name for name in CACHE_NAMES if name in accepted), None)
    if name is None or not isinstance(model, PreTrainedModel):
        return name
    layers = DynamicCache(config=model.config).layers
    return name if not layers or any(hasattr(layer, "keys") for layer in layers) else None


class Contexts:
    """What a model sees of each of B texts.

    Texts of different lengths are padded on the left if there is a cache, so that the newest
    tokens stand below each other. Without one they are padded on the right, where a causal model
    does not see the padding: such a model need only map ids to logits.
    """

    def __init__(
        self,
        model: Any,
        prompts: Sequence[Sequence[int]],
        *,
        use_cache: bool = True,
        prefix: Prefix | None = None,
    ) -> None:
        self.texts = [list(prompt) for prompt in prompts]
        self._model = model
        self._accepted = inspect.signature(model.forward).parameters
        self._device = next(model.parameters()).device
        self._window = window(model)
        self._rows = [self._crop(list(prompt)) for prompt in prompts]
        self._cache_name = _cache_name(model, self._accepted)
        self._cached = use_cache and self._cache_name is not None
        self._prefix = prefix if prefix is not None and len(prompts) == 1 else Prefix()
        self._known = self._prefix.cut(self._rows[0])  # columns that the cache holds
        self._ids, self._mask = self._padded(left=True)

    def next_logits(self) -> torch.Tensor:
        """Logits of the next token of each text, `(B, V)`."""
        if not self._cached or self._cache_name is None:
            return self._read_all()
        prefix, new = self._prefix, slice(self._known, None)
        positions = (self._mask.cumsum(-1) - 1).clamp(min=0)
        cache, prefix.cache = prefix.cache, None  # an interrupted model leaves half of one
        cache = new_cache(self._model) if cache is None else cache
        output = self._forward(
            self._ids[:, new],
            attention_mask=self._mask,
            position_ids=positions[:, new],
            use_cache=True,
            logits_to_keep=1,
            **{self._cache_name: cache},
        )
        prefix.ids, prefix.cache = list(self._rows[0]), getattr(output, self._cache_name)
        self._known, self._cached = self._ids.shape[1], prefix.cache is not None
        logits: torch.Tensor = output.logits[:, -1]
        return logits

    def append(self, tokens: torch.Tensor, ended: torch.Tensor) -> None:
        """Add a token `(B,)` to every text that has not ended."""
        cropped = False
        for index, token in enumerate(tokens.tolist()):
            if not ended[index]:
                self.texts[index].append(token)
                row = [*self._rows[index], token]
                self._rows[index] = self._crop(row)
                cropped |= len(self._rows[index]) != len(row)
        if cropped:
            self._known, self._prefix.cache = 0, None
            self._ids, self._mask = self._padded(left=True)
        elif self._cached:
            # Tokens of ended texts are hidden: their positions would run out of the window.
            column = tokens.masked_fill(ended, 0)[:, None].to(self._device)
            self._ids = torch.cat([self._ids, column], dim=1)
            self._mask = torch.cat([self._mask, (~ended[:, None]).to(self._mask)], dim=1)

    def _crop(self, row: list[int]) -> list[int]:
        """A row that outgrew the window loses its older half, so that there is room again."""
        if self._window is None or len(row) <= self._window:
            return row
        return row[-max(1, self._window // 2) :]

    def _padded(self, *, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and attention mask `(B, T)`."""
        width = max(map(len, self._rows))
        ids = torch.zeros(len(self._rows), width, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for index, row in enumerate(self._rows):
            columns = slice(width - len(row), None) if left else slice(len(row))
            ids[index, columns] = torch.tensor(row)
            mask[index, columns] = 1
        return ids.to(self._device), mask.to(self._device)

    def _read_all(self) -> torch.Tensor:
        ids, mask = self._padded(left=False)
        last = mask.sum(-1) - 1
        keep = ids.shape[1] - int(last.min())
        output = self._forward(ids, attention_mask=mask, use_cache=False, logits_to_keep=keep)
        logits: torch.Tensor = getattr(output, "logits", output)
        return logits[torch.arange(len(ids)), last - ids.shape[1]]

    def _forward(self, ids: torch.Tensor, **given: Any) -> Any:
        """The model's output; arguments that its `forward` does not take are left out."""
        return self._model(ids, **{k: v for k, v in given.items() if k in self._accepted})
