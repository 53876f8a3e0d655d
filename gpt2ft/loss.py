"""The loss: the one place where labels are shifted."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F

IGNORED = -100


def count_targets(labels: torch.Tensor) -> torch.Tensor:
    """How many positions of labels `(B, T)` are predicted: all but the first, less the masked."""
    return (labels[:, 1:] != IGNORED).sum()


def causal_lm_loss(
    model: torch.nn.Module, batch: Mapping[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy of every next token, summed, and the number of targets.

    `batch` holds `input_ids (B, T)` and `labels (B, T)`, -100 where nothing is to be predicted, and
    optionally `position_ids` and `attention_mask`. Returns two 0-d tensors: the fp32 sum in nats,
    and the count. The caller divides, once, over all that belongs to one step or one evaluation;
    a mean of means would weigh short batches too much.
    """
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    # use_cache=False: with a cache, transformers would not see that position_ids restart, and
    # packed documents would attend to each other.
    logits = model(**inputs, use_cache=False).logits
    labels = batch["labels"]
    loss_sum = F.cross_entropy(
        logits[:, :-1].float().flatten(0, 1),
        labels[:, 1:].flatten(),
        ignore_index=IGNORED,
        reduction="sum",
    )
    return loss_sum, count_targets(labels)
