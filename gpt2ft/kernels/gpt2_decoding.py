"""GPT-2's next token in few calls: of one text, half of the time went between the products."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface, GPT2Model
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from ..models.probe import attention_implementation

NEEDED = {"past_key_values", "position_ids", "use_cache"}


class DecodingGPT2(GPT2Model):
    """`GPT2Model`, which reads the next token of each text by the computation alone.

    Left out are the mask, where every text sees all of itself, and what transformers does around
    each block. Everything else, as reading prompts, is that of transformers. A `GPT2Model` becomes
    this by its `__class__`.
    """

    def forward(self, input_ids: Any = None, *args: Any, **given: Any) -> Any:
        wanted = {name: value for name, value in given.items() if value is not None}
        mask = wanted.pop("attention_mask", None)
        one = not args and isinstance(input_ids, torch.Tensor) and input_ids.shape[1:] == (1,)
        if not one or wanted.keys() != NEEDED or torch.is_grad_enabled() or self.training:
            return super().forward(input_ids, *args, **given)
        seen = None if mask is None or bool(mask.all()) else mask[:, None, None, :].bool()
        cache = wanted["past_key_values"]
        hidden = self._decode(input_ids, cache, seen, wanted["position_ids"])
        return BaseModelOutputWithPastAndCrossAttentions(hidden, past_key_values=cache)

    def _decode(
        self, ids: torch.Tensor, cache: Any, seen: torch.Tensor | None, positions: torch.Tensor
    ) -> torch.Tensor:
        """Hidden states `(B, 1, C)` of ids `(B, 1)`; `seen` `(B, 1, 1, S)`, None for everything."""
        attend = AttentionInterface()[attention_implementation(self.config)]
        batch = len(ids)
        x = (self.wte(ids) + self.wpe(positions)).squeeze(1)
        for number, block in enumerate(self.h):
            qkv = block.attn.c_attn(block.ln_1(x)).view(batch, 3, self.config.n_head, 1, -1)
            query, key, value = qkv.unbind(1)
            key, value = cache.update(key, value, number)
            out, _ = attend(block.attn, query, key, value, seen, scaling=block.attn.scaling)
            x = block.attn.c_proj(out.reshape(batch, -1)).add_(x)
            x = block.mlp.c_proj(block.mlp.act(block.mlp.c_fc(block.ln_2(x)))).add_(x)
        return self.ln_f(x).unsqueeze(1)
