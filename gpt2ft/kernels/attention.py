"""Attention on a CPU where torch's own is slow: in a training step, and for one token in bf16."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface

from .dropout import apply_mask, draw_seed, dropout_mask, mask_scale

SHORT_ROW = 512  # tokens up to which plain products beat the CPU's flash attention
QUERIES_AT_ONCE = 128  # of a block
WEIGHTS_AT_ONCE = 1 << 21  # attention weights that exist at one time
UNSUPPORTED = ("softcap", "position_bias", "s_aux")


def attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """The `sdpa` attention of transformers, by plain products where they are faster on a CPU.

    query `(B, H, T, D)`, key `(B, H or fewer, S, D)`, value `(B, H or fewer, S, E)`; returns
    `(B, T, H, E)`. On another device, to which the model was moved, it is that of transformers.
    """
    length = query.shape[2]
    plain = query.is_cpu and all(kwargs.get(name) is None for name in UNSUPPORTED)
    learns = torch.is_grad_enabled()
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if plain and length == 1 and query.dtype is torch.bfloat16 and not (learns or dropout):
        return _attention_of_one(query * scale, key, value, attention_mask).transpose(1, 2), None
    causal = kwargs.get("is_causal", getattr(module, "is_causal", True)) in (True, None)
    slow = causal and key.shape[2] == length and (length <= SHORT_ROW or dropout > 0)
    learned = attention_mask is not None and attention_mask.requires_grad  # as Doge's
    if learned or not (plain and learns and slow):
        sdpa = AttentionInterface()["sdpa"]
        options = {"dropout": dropout, "scaling": scaling, **kwargs}
        result: tuple[torch.Tensor, None] = sdpa(
            module, query, key, value, attention_mask, **options
        )
        return result
    if query.dtype != value.dtype and torch.is_autocast_enabled("cpu"):
        # Rotary positions make fp32 of queries and keys; torch's own attention casts them, too.
        dtype = torch.get_autocast_dtype("cpu")
        query, key, value = (x.to(dtype) for x in (query, key, value))
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    out: torch.Tensor = _Attention.apply(query * scale, key, value, attention_mask, dropout)
    return out.transpose(1, 2), None


def _attention_of_one(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None
) -> torch.Tensor:
    """Attention of one token, whose query `(B, H, 1, D)` is already scaled; returns `(B, H, 1, E)`.

    Heads that share keys are computed in one matrix product.
    """
    grouped = query.reshape(len(query), key.shape[1], -1, query.shape[-1])
    scores = (key @ grouped.mT).mT
    if mask is not None:
        heads = mask.shape[1]
        scores += _added(mask, query) if heads == 1 else _added(mask, query).view_as(scores)
    return (scores.softmax(-1) @ value).view(*query.shape[:-1], value.shape[-1])


class _Attention(torch.autograd.Function):
    """Attention, some queries and heads at a time: their attention weights fit the CPU's caches.

    No weights are kept: the backward pass computes them again, and draws the same dropout from a
    seed. Keys that no query of a block sees, because they come later or are masked, are left out.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        p: float,
    ) -> torch.Tensor:
        added = _added(mask, query)
        seed = draw_seed() if p else 0
        batch, n_heads, length, _ = query.shape
        out = value.new_empty(batch, length, n_heads, value.shape[-1]).transpose(1, 2)
        for number, (rows, seen, heads) in enumerate(_blocks(query, added)):
            mine = query[:, heads, rows]
            weights = _weights(mine, key[:, heads, seen], added[..., rows, seen])
            if p:
                weights = apply_mask(weights, dropout_mask(weights.shape, p, seed + number))
            out[:, heads, rows] = weights @ value[:, heads, seen]
        if p:
            out *= mask_scale(p)
        ctx.save_for_backward(query, key, value, added)
        ctx.dropout = p, seed
        return out

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, added = ctx.saved_tensors
        p, seed = ctx.dropout
        grad = grad * mask_scale(p) if p else grad
        d_query = torch.empty_like(query)
        d_key, d_value = (torch.zeros_like(x, dtype=torch.float32) for x in (key, value))
        for number, (rows, seen, heads) in enumerate(_blocks(query, added)):
            mine = query[:, heads, rows]
            weights = _weights(mine, key[:, heads, seen], added[..., rows, seen])
            d_weights, used = grad[:, heads, rows] @ value[:, heads, seen].mT, weights
            if p:
                mask = dropout_mask(weights.shape, p, seed + number)
                d_weights, used = apply_mask(d_weights, mask), apply_mask(weights, mask)
            d_value[:, heads, seen] += used.mT @ grad[:, heads, rows]
            d_scores = _softmax_gradient(d_weights, weights)
            d_query[:, heads, rows] = d_scores @ key[:, heads, seen]
            d_key[:, heads, seen] += d_scores.mT @ mine
        return d_query, d_key.to(key.dtype), d_value.to(value.dtype), None, None


def _blocks(query: torch.Tensor, added: torch.Tensor) -> Iterator[tuple[slice, slice, slice]]:
    """Queries, the keys they see, and heads, that are computed together."""
    batch, n_heads, length, _ = query.shape
    hidden = added <= torch.finfo(added.dtype).min
    for start in range(0, length, QUERIES_AT_ONCE):
        rows = slice(start, min(start + QUERIES_AT_ONCE, length))
        columns = (~hidden[..., rows, :]).flatten(0, -2).any(0).nonzero()
        first, last = (int(columns[0]), int(columns[-1])) if len(columns) else (0, length - 1)
        seen = slice(first, last + 1)
        n = max(1, WEIGHTS_AT_ONCE // (batch * (rows.stop - start) * (seen.stop - first)))
        for head in range(0, n_heads, n):
            yield rows, seen, slice(head, min(head + n, n_heads))


def _added(mask: torch.Tensor | None, query: torch.Tensor) -> torch.Tensor:
    """What to add to the scores: 0 where a key is seen, else the least number of the dtype."""
    length = query.shape[2]
    if mask is None:
        mask = torch.ones(length, length, dtype=torch.bool).tril_()
    if mask.dtype != torch.bool:
        return mask.to(query.dtype)
    least = torch.finfo(query.dtype).min
    return torch.zeros(mask.shape, dtype=query.dtype).masked_fill_(~mask, least)


def _softmax_gradient(grad: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Gradient of the input of a softmax over the last dimension: one kernel, if torch has it under
    this name."""
    fused = getattr(torch, "_softmax_backward_data", None)
    if fused is not None:
        gradient: torch.Tensor = fused(grad, weights, -1, weights.dtype)
        return gradient
    grad, dtype = grad.float(), weights.dtype
    products = weights.float() * grad
    return (products - weights * products.sum(-1, keepdim=True)).to(dtype)


def _weights(query: torch.Tensor, key: torch.Tensor, added: torch.Tensor) -> torch.Tensor:
    scores = (query @ key.mT).add_(added)
    return scores.softmax(-1)  # in fp32, whatever the dtype
