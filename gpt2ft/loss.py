"""The loss: the one place where labels are shifted."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from .kernels.cross_entropy import linear_cross_entropy
from .kernels.tied_embedding import shared_weight
from .models.probe import plain_head
from .parallel.sharding import with_whole_weights


def count_targets(batch: Mapping[str, torch.Tensor], *, ignore_index: int = -100) -> int:
    """How many tokens of a batch are predicted: those of its `labels (B, T)` that are not masked.

    The first label of a row does not count: there is nothing before it to predict it from. The
    batch is to be on the CPU; elsewhere this waits for the device. Raises `ValueError` if the batch
    has no such labels.
    """
    labels = batch.get("labels")
    if labels is None or labels.dim() != 2:
        what = "no labels" if labels is None else f"labels of the shape {tuple(labels.shape)}"
        raise ValueError(
            f"the batch has {what}, not (B, T); for batches of your own pass count_fn, a function "
            "from a batch to what the sum of its losses is divided by"
        )
    return int((labels[:, 1:] != ignore_index).sum())


def causal_lm_loss(
    model: Any, batch: Mapping[str, torch.Tensor], *, ignore_index: int = -100
) -> torch.Tensor:
    """Cross-entropy of every next token, summed: a 0-d fp32 tensor, in nats.

    `batch` holds `input_ids (B, T)` and `labels (B, T)`, `ignore_index` where nothing is to be
    predicted, and optionally `position_ids` and `attention_mask`. The caller divides by
    `count_targets`, once, over all that belongs to one step or one evaluation: a mean of means
    would give the tokens of short batches too much weight. Where the model's head is a plain matrix
    product, the loss is computed in pieces, without storing all logits, and can be differentiated
    once; see `kernels.cross_entropy`.
    """
    inputs: dict[str, Any] = {name: x for name, x in batch.items() if name != "labels"}
    # Otherwise transformers does not notice that position_ids restart, and packed documents attend
    # to each other.
    inputs["use_cache"] = False
    targets = batch["labels"][:, 1:].flatten()
    device = targets.device.type
    if device not in ("cpu", "cuda") or plain_head(model) is None:
        logits = model(**inputs).logits[:, :-1].float().flatten(0, 1)
        return F.cross_entropy(logits, targets, ignore_index=ignore_index, reduction="sum")

    return with_whole_weights(model, lambda: _in_pieces(model, inputs, targets, ignore_index))


def _in_pieces(
    model: Any, inputs: Mapping[str, Any], targets: torch.Tensor, ignore_index: int
) -> torch.Tensor:
    """The summed loss, where the head is a plain matrix product."""
    head = plain_head(model)
    assert head is not None
    with shared_weight(model.get_input_embeddings(), head) as shared:
        hidden = model.base_model(**inputs).last_hidden_state[:, :-1].flatten(0, 1)
    if targets.is_cpu:  # elsewhere, selecting rows would wait for the device
        labelled = targets != ignore_index
        if not labelled.all():
            hidden, targets = hidden[labelled], targets[labelled]
    return linear_cross_entropy(hidden, shared.weight, targets, ignore_index=ignore_index)


def total_count(
    batches: Sequence[Mapping[str, torch.Tensor]],
    count_fn: Callable[[Mapping[str, torch.Tensor]], float],
) -> float:
    """What the sum of the losses of these batches is divided by, a number of Python.

    Raises `TypeError` if it is not given a list, `ValueError` if the count is negative or not
    finite.
    """
    if isinstance(batches, Mapping):
        raise TypeError("this is one batch, give a list of batches: [batch]")
    counts = [count_fn(batch) for batch in batches]
    total: float = sum(n.item() if hasattr(n, "item") else n for n in counts)
    if not 0 <= total < math.inf:
        raise ValueError(f"count_fn gave {total}, it must give a finite number >= 0")
    return total
