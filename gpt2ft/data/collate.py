"""Samples to a batch, padded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

IGNORED = -100  # as the losses of torch have it


@dataclass(frozen=True)
class CausalLMCollator:
    """Pads samples on the right and masks the padding in the labels, by length.

    A sample maps `input_ids` to token ids `(T,)`, optionally `labels (T,)` where they differ from
    the input, and `position_ids (T,)` where documents restart. Calling the collator returns CPU
    tensors, int64: `input_ids (B, T)`, `labels (B, T)` with -100 at the padding, and
    `position_ids (B, T)` if a sample has them. T is the longest sample, rounded up to a multiple of
    `pad_to_multiple_of`.

    Labels are masked by length, never by token id: GPT-2 pads with its end-of-text token, and a
    real end of text is a target that the model must learn (transformers#23530). There is no
    `attention_mask`: in a causal model no token sees the padding to its right. So which token pads
    does not matter; where a tokenizer has none, `pad_token_id` may be None, and id 0 pads.
    """

    pad_token_id: int | None
    pad_to_multiple_of: int = 1

    def __call__(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        longest = max(len(sample["input_ids"]) for sample in samples)
        longest += -longest % self.pad_to_multiple_of
        shape = (len(samples), longest)
        batch = {
            "input_ids": torch.full(shape, self.pad_token_id or 0, dtype=torch.int64),
            "labels": torch.full(shape, IGNORED, dtype=torch.int64),
        }
        if any("position_ids" in sample for sample in samples):
            batch["position_ids"] = torch.arange(longest).repeat(len(samples), 1)
        for row, sample in enumerate(samples):
            for name, padded in batch.items():
                values = sample.get(name, sample["input_ids"] if name == "labels" else None)
                if values is not None:
                    padded[row, : len(values)] = torch.as_tensor(values, dtype=torch.int64)
        return batch
