"""The loss: the one place where labels are shifted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F

from .data.collate import IGNORED
from .kernels.cross_entropy import linear_cross_entropy
from .models.loading import plain_head


def count_targets(labels: torch.Tensor) -> torch.Tensor:
    """How many positions of labels `(B, T)` are predicted: all but the first, less the masked."""
    return (labels[:, 1:] != IGNORED).sum()


def causal_lm_loss(
    model: Any, batch: Mapping[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy of every next token, summed, and the number of targets.

    `batch` holds `input_ids (B, T)` and `labels (B, T)`, -100 where nothing is to be predicted, and
    optionally `position_ids` and `attention_mask`. Returns two 0-d tensors: the fp32 sum in nats,
    and the count. The caller divides, once, over all that belongs to one step or one evaluation;
    a mean of means would weigh short batches too much. Where the model's head is a plain product,
    the logits never exist whole, see `cross_entropy.linear_cross_entropy`.
    """
    inputs: dict[str, Any] = {name: x for name, x in batch.items() if name != "labels"}
    # Without it, transformers would not see that position_ids restart, and packed documents would
    # attend to each other.
    inputs["use_cache"] = False
    targets = batch["labels"][:, 1:].flatten()
    n_targets = count_targets(batch["labels"])
    device = targets.device.type
    head = plain_head(model) if device in ("cpu", "cuda") else None
    if head is None:
        logits = model(**inputs).logits[:, :-1].float().flatten(0, 1)
        return F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum"), n_targets
    hidden = model.base_model(**inputs).last_hidden_state[:, :-1].flatten(0, 1)
    if device == "cpu" and n_targets < len(targets):  # elsewhere asking would wait for the device
        labelled = targets != IGNORED
        hidden, targets = hidden[labelled], targets[labelled]
    return linear_cross_entropy(hidden, head, targets), n_targets
