"""Attention of a training step on a CPU, where torch's own is slow and keeps its weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from .dropout import keep_mask

SHORT_ROW = 512  # tokens up to which plain products beat the CPU's flash attention
CACHED_WEIGHTS = 1 << 21  # attention weights that exist at one time


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
    """`sdpa_attention_forward` of transformers, for training: torch's CPU kernels are slow there.

    query `(B, H, T, D)`, key and value `(B, H or fewer, T, D)`; returns `(B, T, H, D)`.
    """
    length = query.shape[2]
    slow = length <= SHORT_ROW or dropout > 0
    causal = kwargs.get("is_causal", getattr(module, "is_causal", True)) in (True, None)
    others = any(kwargs.get(name) is not None for name in ("softcap", "position_bias", "s_aux"))
    if not (slow and causal and torch.is_grad_enabled() and key.shape[2] == length) or others:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    out: torch.Tensor = _Attention.apply(query * scale, key, value, attention_mask, dropout)
    return out.transpose(1, 2), None


class _Attention(torch.autograd.Function):
    """Some heads at a time, so that their weights `(B, h, T, T)` stay in the CPU's caches.

    None are kept: the backward pass makes them again, and draws the same dropout from a seed.
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
        seed = int(torch.empty((), dtype=torch.int64).random_()) if p else 0
        out = torch.empty_like(query)
        for heads in _some_heads(query):
            weights = _weights(query[:, heads], key[:, heads], added)
            if p:
                weights *= _kept(weights, p, seed + heads.start)
            out[:, heads] = weights @ value[:, heads]
        ctx.save_for_backward(query, key, value, added)
        ctx.dropout = p, seed
        return out

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, added = ctx.saved_tensors
        p, seed = ctx.dropout
        d_query, d_key, d_value = (torch.empty_like(x) for x in (query, key, value))
        for heads in _some_heads(query):
            weights = _weights(query[:, heads], key[:, heads], added)
            dropped = weights
            if p:
                dropped = weights * _kept(weights, p, seed + heads.start)
            d_value[:, heads] = dropped.mT @ grad[:, heads]
            # The softmax's: with w its output, w * (d - sum(w * d)).
            d_scores = dropped * (grad[:, heads] @ value[:, heads].mT)
            total = d_scores.sum(-1, keepdim=True, dtype=torch.float32).to(weights.dtype)
            d_scores = d_scores.sub_(weights * total)
            d_query[:, heads] = d_scores @ key[:, heads]
            d_key[:, heads] = d_scores.mT @ query[:, heads]
        return d_query, d_key, d_value, None, None


def _some_heads(query: torch.Tensor) -> list[slice]:
    batch, n_heads, length, _ = query.shape
    n = max(1, CACHED_WEIGHTS // (batch * length * length))
    return [slice(start, min(start + n, n_heads)) for start in range(0, n_heads, n)]


def _added(mask: torch.Tensor | None, query: torch.Tensor) -> torch.Tensor:
    """What to add to the scores: nothing where a token is seen, else as much as there is."""
    length = query.shape[2]
    if mask is None:
        mask = torch.ones(length, length, dtype=torch.bool).tril_()
    if mask.dtype != torch.bool:
        return mask.to(query.dtype)
    least = torch.finfo(query.dtype).min
    return torch.zeros(mask.shape, dtype=query.dtype).masked_fill_(~mask, least)


def _weights(query: torch.Tensor, key: torch.Tensor, added: torch.Tensor) -> torch.Tensor:
    scores = (query @ key.mT).add_(added)
    return scores.softmax(-1, dtype=torch.float32).to(query.dtype)


def _kept(weights: torch.Tensor, p: float, seed: int) -> torch.Tensor:
    """What dropout multiplies weights by: 0, or 1 / share kept."""
    kept, scale = keep_mask(weights.shape, p, torch.Generator().manual_seed(seed))
    return kept.to(weights.dtype).mul_(scale)
