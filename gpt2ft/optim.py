"""AdamW and the learning rate."""

from __future__ import annotations

import math
from typing import Any

import torch


def parameter_groups(model: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Trainable parameters in two groups: matrices and embeddings decay, vectors do not.

    Chosen by dimension, as nanoGPT does; names lie (GPT-2's norms are called `ln_1`). Each group
    carries its `param_names`, which checkpoints go by. Raises `ValueError` if nothing is trainable.
    """
    # named_parameters() names tied weights once.
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not trainable:
        raise ValueError("no parameter of the model requires a gradient")
    decayed = [name for name, p in trainable.items() if p.dim() >= 2]
    plain = [name for name, p in trainable.items() if p.dim() < 2]
    assert len(decayed) + len(plain) == len(trainable)  # each is placed exactly once
    return [
        {
            "params": [trainable[name] for name in names],
            "param_names": names,
            "weight_decay": decay,
        }
        for names, decay in ((decayed, weight_decay), (plain, 0.0))
        if names
    ]


def build_optimizer(
    model: torch.nn.Module,
    *,
    learning_rate: float = 5e-5,
    weight_decay: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.999),
    epsilon: float = 1e-8,
) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter, 2019) over `parameter_groups`, fused: one kernel a tensor.

    Fused also lets the device itself refuse a non-finite update, see `loop.train_step`.
    """
    groups = parameter_groups(model, weight_decay)
    return torch.optim.AdamW(groups, lr=learning_rate, betas=betas, eps=epsilon, fused=True)


def lr_at(
    step: int,
    *,
    max_steps: int,
    learning_rate: float,
    warmup_steps: int = 0,
    schedule: str = "linear",
) -> float:
    """Learning rate of the optimizer step that follows `step` finished ones.

    Rises linearly from 0 over `warmup_steps`, then falls to 0 at `max_steps`, linearly or along
    half a cosine, or stays (`constant`). The same values as the schedulers of `transformers`.
    """
    if step < warmup_steps:
        return learning_rate * step / warmup_steps
    if schedule == "constant":
        return learning_rate
    progress = (step - warmup_steps) / max(1, max_steps - warmup_steps)
    if schedule == "linear":
        return learning_rate * max(0.0, 1.0 - progress)
    if schedule == "cosine":
        return learning_rate * 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))
    raise ValueError(f"no schedule {schedule}, use linear, cosine or constant")
