"""A layer of the key-value cache that is not copied for every token."""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import DynamicLayer

LEAST_ROOM = 64


class GrowingLayer(DynamicLayer):
    """A layer's keys and values, in buffers with room for more of them.

    The layer of `transformers` copies all of them for every token. Here a full buffer is replaced
    by one of twice the needed size; `keys` and `values` `(B, H, T, D)` are views of the buffers.
    """

    _room: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        old = self.get_seq_length()
        new = old + key_states.shape[-2]
        if self._room is None or self._room[0].shape[-2] < new:
            n = max(LEAST_ROOM, 2 * new)
            room = [x.new_empty(*x.shape[:-2], n, x.shape[-1]) for x in (key_states, value_states)]
            for empty, known in zip(room, (self.keys, self.values), strict=True):
                if known is not None and old:
                    empty[..., :old, :] = known
            self._room = room[0], room[1]
        self._room[0][..., old:new, :], self._room[1][..., old:new, :] = key_states, value_states
        self.keys, self.values = (room[..., :new, :] for room in self._room)
        return self.keys, self.values
