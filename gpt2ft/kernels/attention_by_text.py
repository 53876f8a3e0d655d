"""Attention for which it does not matter which texts are in a batch: bit by bit."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from .attention import UNSUPPORTED


def attention_by_text(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """The `sdpa` attention of transformers, where padded texts are computed without their padding.

    query `(B, H, T, D)`, key `(B, H or fewer, S, D)`, value `(B, H or fewer, S, E)`; returns
    `(B, T, H, E)`, zeros for the padding. To attention, padding is zeros in a sum. They shift the
    other terms, which are then added in another order and give other last bits. Where the result is
    rounded to 8 bits next, these can make a whole step of difference.
    """
    mask, length, before = attention_mask, query.shape[2], key.shape[2] - query.shape[2]
    plain = all(kwargs.get(name) is None for name in UNSUPPORTED)
    if plain and mask is None and length == 1 and query.shape[1] == key.shape[1]:
        scale = kwargs.get("scaling")  # at once, as `sdpa` would: for one token, every call counts
        out = scaled_dot_product_attention(query, key, value, scale=scale)
        return out.transpose(1, 2), None
    sdpa = AttentionInterface()["sdpa"]
    if not plain or mask is None or mask.dtype != torch.bool or mask.shape[1] > 1:
        result: tuple[torch.Tensor, None] = sdpa(module, query, key, value, mask, **kwargs)
        return result
    out = value.new_zeros(len(query), length, query.shape[1], value.shape[-1])
    starts = mask[:, 0].any(-2).int().argmax(-1).tolist()
    for row, start in enumerate(starts):
        this, first = slice(row, row + 1), max(0, start - before)
        seen = mask[this, :, first:, start:]
        alone = None if _is_causal(module, seen, kwargs) else seen
        keys, values = key[this, :, start:], value[this, :, start:]
        out[this, first:] = sdpa(module, query[this, :, first:], keys, values, alone, **kwargs)[0]
    return out, None


def _is_causal(module: nn.Module, seen: torch.Tensor, kwargs: dict[str, Any]) -> bool:
    """Whether `sdpa` sees as much without this mask `(1, 1, T, S)`, as it does for a text alone."""
    causal = kwargs.get("is_causal", getattr(module, "is_causal", True)) in (True, None)
    length, keys = seen.shape[-2:]
    if length == 1:
        return bool(seen.all())
    return causal and length == keys and torch.equal(seen[0, 0], torch.ones_like(seen[0, 0]).tril())
