"""The optimizer, one update by clipped gradients, and the learning rate."""

from __future__ import annotations

import math
from typing import Any

import torch

from .parallel.sharding import is_sharded, whole

COUNTER_BYTES = 4  # of a parameter's own count of steps


def parameter_groups(model: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Trainable parameters in two groups: matrices and embeddings decay, vectors do not.

    Chosen by dimension, as nanoGPT does, not by name: GPT-2's norms are called `ln_1`. Each group
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
    name: str = "adamw",
    learning_rate: float = 5e-5,
    weight_decay: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.999),
    epsilon: float = 1e-8,
) -> torch.optim.Optimizer:
    """An optimizer of torch over `parameter_groups`: `adamw`, `adafactor` or `sgd`.

    AdamW (Loshchilov and Hutter, 2019) keeps two numbers for each weight. Adafactor (Shazeer and
    Stern, 2018) keeps one for each row and each column of a matrix; its `learning_rate` is relative
    to the size of the weights. SGD has no momentum, and so it keeps nothing. `betas` and `epsilon`
    are AdamW's. Raises `ValueError` for another name.

    AdamW and SGD are fused: one kernel for all tensors of a group, which also clips, and skips an
    update that is not finite, without the host asking; see `clip_and_step`.
    """
    groups = parameter_groups(model, weight_decay)
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=learning_rate, betas=betas, eps=epsilon, fused=True)
    if name == "adafactor":
        return torch.optim.Adafactor(groups, lr=learning_rate)
    if name == "sgd":
        fused = not any(map(is_sharded, model.parameters()))  # torch has no such kernel for those
        return torch.optim.SGD(groups, lr=learning_rate, fused=fused)
    raise ValueError(f"no optimizer {name}, use adamw, adafactor or sgd")


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Bytes of an optimizer's state, once all its parameters have one."""
    return sum(_state_bytes(optimizer, p) for g in optimizer.param_groups for p in g["params"])


def _state_bytes(optimizer: torch.optim.Optimizer, parameter: torch.Tensor) -> int:
    """What is there for one parameter, or what will be."""
    if there := optimizer.state.get(parameter):
        tensors = [value for value in there.values() if isinstance(value, torch.Tensor)]
        return sum(t.numel() * t.element_size() for t in tensors)
    n, shape = parameter.numel(), parameter.shape
    if isinstance(optimizer, torch.optim.SGD) and not optimizer.defaults["momentum"]:
        return 0
    if isinstance(optimizer, torch.optim.Adafactor):
        n = n // shape[-1] + n // shape[-2] if len(shape) > 1 else n
    else:
        n = 2 * n  # AdamW's, and of most others no more
    return n * parameter.element_size() + COUNTER_BYTES


def clip_and_step(
    optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, *, max_grad_norm: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Unscale the gradients, clip them by their norm, and update, unless they are not finite.

    Clipping is that of `torch.nn.utils.clip_grad_norm_` (Pascanu et al., 2013). Where the norm is
    infinite or NaN, weights and moments stay as they are, to the bit. Returns the norm before
    clipping and whether the update was skipped, two 0-d tensors on the device.

    A fused optimizer clips and skips in its own kernel, and the host waits for nothing. For any
    other the host reads whether the norm is finite, which waits for the device once. If memory runs
    out in here, a fused optimizer and the scaler are as they were before: to that end a `step` of a
    fused optimizer that has no state yet is preceded by a skipped one, which step hooks see too.
    Another may have updated some weights and others not: that is a `MemoryError`. Raises
    `ValueError` if `max_grad_norm` is not positive; infinity does not clip.
    """
    if not max_grad_norm > 0:
        raise ValueError(
            f"max_grad_norm is {max_grad_norm}, give a number > 0, or inf: no clipping"
        )
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    gradients = [p.grad for p in parameters if p.grad is not None]
    known = set(optimizer.state)
    try:
        scaler.unscale_(optimizer)
        grad_norm = whole(torch.nn.utils.get_total_norm(gradients))
        skipped = ~torch.isfinite(grad_norm)
        if _clips_itself(optimizer):
            if any(p.grad is not None and p not in known for p in parameters):
                # First all moments are allocated, by an update that is skipped: memory must not run
                # out when some weights are updated and others not.
                _fused_step(optimizer, torch.ones_like(grad_norm), torch.ones_like(skipped))
            divisor = ((grad_norm + 1e-6) / max_grad_norm).clamp(min=1.0)
            _fused_step(optimizer, divisor, skipped)
        elif not skipped:
            torch.nn.utils.clip_grads_with_norm_(parameters, max_grad_norm, grad_norm)
            _whole_step(optimizer)
    except BaseException:
        for p in optimizer.state.keys() - known:
            del optimizer.state[p]
        scaler.update(scaler.get_scale())  # the same scale; forgets that gradients were unscaled
        raise
    scaler.update()
    return grad_norm, skipped


def _whole_step(optimizer: torch.optim.Optimizer) -> None:
    """An update; if memory runs out, that is another error than before it: it may be half done."""
    try:
        optimizer.step()
    except torch.OutOfMemoryError as error:
        raise MemoryError(
            "memory ran out within the update, which may be half done: go on from a checkpoint, "
            "with smaller batches"
        ) from error


def _clips_itself(optimizer: torch.optim.Optimizer) -> bool:
    """Whether its `step` reads `grad_scale` and `found_inf`, as torch's fused optimizers do."""
    return bool(getattr(optimizer, "_step_supports_amp_scaling", False))


def _fused_step(optimizer: Any, divisor: torch.Tensor, skipped: torch.Tensor) -> None:
    """An update with the gradients divided by `divisor`, or none, requested as GradScaler does."""
    # fp32, whatever the dtype of the parameters.
    optimizer.grad_scale, optimizer.found_inf = divisor.float(), skipped.float()
    try:
        optimizer.step()
    finally:
        del optimizer.grad_scale, optimizer.found_inf


def lr_at(
    step: int,
    *,
    max_steps: int,
    learning_rate: float,
    warmup_steps: int = 0,
    schedule: str = "linear",
) -> float:
    """Learning rate of the optimizer step that follows `step` earlier ones.

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
