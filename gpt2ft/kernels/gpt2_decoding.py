"""GPT-2's next token in few calls: of one text, half of the time went between the products."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from ..models.probe import attention_implementation

NEEDED = {"past_key_values", "position_ids", "use_cache"}


class GPT2Decoding:
    """In place of the `forward` of a `GPT2Model`: reads the next token by the computation alone.

    Left out are the mask, where every text sees all of itself, and what transformers does around
    each block. Everything else, as reading prompts, is left to the model's own `forward`.
    """

    def __init__(self, model: Any) -> None:
        self._model, self._forward = model, model.forward
        # Looked up once: in a module each name costs as much as a small operation.
        self._parts = [
            (
                h.ln_1,
                h.attn,
                h.attn.c_attn,
                h.attn.c_proj,
                h.ln_2,
                h.mlp.c_fc,
                h.mlp.act,
                h.mlp.c_proj,
            )
            for h in model.h
        ]

    def __call__(self, input_ids: Any = None, *args: Any, **given: Any) -> Any:
        wanted = {name: value for name, value in given.items() if value is not None}
        mask = wanted.pop("attention_mask", None)
        one = not args and isinstance(input_ids, torch.Tensor) and input_ids.shape[1:] == (1,)
        if not one or wanted.keys() != NEEDED or torch.is_grad_enabled() or self._model.training:
            return self._forward(input_ids, *args, **given)
        seen = None if mask is None or bool(mask.all()) else mask[:, None, None, :].bool()
        cache = wanted["past_key_values"]
        hidden = self.decode(input_ids, cache, seen, wanted["position_ids"])
        return BaseModelOutputWithPastAndCrossAttentions(hidden, past_key_values=cache)

    def decode(
        self, ids: torch.Tensor, cache: Any, seen: torch.Tensor | None, positions: torch.Tensor
    ) -> torch.Tensor:
        """Hidden states `(B, 1, C)` of ids `(B, 1)`; `seen` `(B, 1, 1, S)`, None for everything."""
        model = self._model
        attend = AttentionInterface()[attention_implementation(model.config)]
        batch, n_heads = len(ids), model.config.n_head
        x = (model.wte(ids) + model.wpe(positions)).squeeze(1)
        for number, parts in enumerate(self._parts):
            ln_1, attn, c_attn, attn_proj, ln_2, c_fc, act, mlp_proj = parts
            query, key, value = c_attn(ln_1(x)).view(batch, 3, n_heads, 1, -1).unbind(1)
            key, value = cache.update(key, value, number)
            out, _ = attend(attn, query, key, value, seen, scaling=attn.scaling)
            x = attn_proj(out.reshape(batch, -1)).add_(x)
            x = mlp_proj(act(c_fc(ln_2(x)))).add_(x)
        hidden: torch.Tensor = model.ln_f(x)
        return hidden.unsqueeze(1)
