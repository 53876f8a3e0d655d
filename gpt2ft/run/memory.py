"""What a run needs of memory, and how a step that runs out of it is begun again."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch

from ..checkpoint.divided import is_divided
from ..data.batches import Rows
from ..data.stream import Stream
from ..guards import undisturbed
from ..loop import StepResult
from ..loss import causal_lm_loss
from ..models.probe import blocks, plain_head
from ..optim import state_bytes
from ..parallel import processes
from ..system.memory import available_bytes
from ..system.terminal import print_line
from .build import Run
from .trouble import less_memory

PROBED = (32, 64)  # tokens


def check_memory(run: Run) -> None:
    """Raise `MemoryError` if a step surely needs more memory than a CPU's machine has left.

    There the system ends a process that takes too much, without an error. Other devices raise one.
    """
    have = available_bytes()
    if run.state.precision.device.type != "cpu" or have is None:
        return
    if 2 * processes.local_size() * most_bytes(run) < have:  # known at once
        return
    need = processes.local_size() * bytes_needed(run)
    if need > have:
        raise MemoryError(
            f"a step needs {(need >> 20) + 1} MiB more than the model itself, and this machine has "
            f"{have >> 20} MiB left: {less_memory(run)}"
        )


def most_bytes(run: Run) -> int:
    """More than any step takes in this process, besides the model: a generous guess, in bytes.

    A hundred numbers for each token, channel and block, the scores of 32 heads, and the logits.
    """
    model, config = run.state.model, run.config
    assert config.block_size
    n_tokens, n_blocks = largest_micro_batch(run), len(blocks(model))
    vocabulary, channels = model.get_input_embeddings().weight.shape  # type: ignore[operator]
    each = n_blocks * (100 * channels + 32 * config.block_size) + 3 * vocabulary
    gradients = _gradient_bytes(model)
    return int(4 * n_tokens * each + 6 * gradients + state_bytes(run.state.optimizer))


def _gradient_bytes(model: torch.nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)


def bytes_needed(run: Run) -> int:
    """The least that a step takes in this process, besides the model: a lower bound, in bytes.

    That is the optimizer's state, the gradients, and what the forward pass keeps for the backward
    pass. What both passes need for a moment is not in it. Of a model that is divided among
    processes only the state and the gradients count.
    """
    model, config = run.state.model, run.config
    assert config.micro_batches_per_step
    share = processes.size() if is_divided(model) else 1
    gradients = _gradient_bytes(model)
    # When the last micro-batch is computed, the gradients of the others are there: one, or one for
    # each level of the tree that adds them in a fixed order.
    own = -(-config.micro_batches_per_step // processes.size())
    held = int(math.log2(own)) if config.fixed_sum_order else min(own - 1, 1)
    kept = 0 if is_divided(model) else activation_bytes(run, largest_micro_batch(run))
    state = state_bytes(run.state.optimizer)
    return max(kept + held * gradients // share, gradients // share) + state // share


def activation_bytes(run: Run, n_tokens: int) -> int:
    """What the forward pass of so many tokens keeps for the backward pass, in bytes.

    It is measured with two batches of a few tokens; the training run does not notice. From these
    it goes on in a straight line, which is right or too low: some attention takes more.
    """
    plain_head(run.state.model)  # the first time it tries the model, which would be measured too
    few, more = (_kept_by(run, n) for n in PROBED)
    each = max(0.0, (more - few) / (PROBED[1] - PROBED[0]))
    return int(few + each * (n_tokens - PROBED[0]))


def largest_micro_batch(run: Run) -> int:
    """Tokens of the largest micro-batch, padding included."""
    samples, config = run.data.samples, run.config
    assert config.micro_batches_per_step and config.block_size
    n = min(config.per_device_train_batch_size, len(samples))
    if isinstance(samples, Rows) and run.max_steps * config.micro_batches_per_step < len(run.data):
        return run.data[0, 0]["input_ids"].numel()  # the longest row may not be among them
    if not isinstance(samples, Stream):
        return n * int(samples.lengths.max())
    return n * (config.block_size if config.packing else 1)  # of rows that come nothing is known


def _kept_by(run: Run, n_tokens: int) -> int:
    """Bytes that a forward pass of so many tokens keeps, without the weights themselves."""
    model, precision = run.state.model, run.state.precision
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    sizes: dict[int, int] = {}
    alive = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)  # or another may get its place in memory
        return tensor

    # Two rows, so that a window of half as many tokens is enough.
    ids = torch.zeros(2, n_tokens // 2, dtype=torch.int64, device=precision.device)
    with undisturbed(model), torch.enable_grad(), precision.autocast():
        model.train()
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            causal_lm_loss(model, {"input_ids": ids, "labels": ids})
    return sum(sizes.values())


def begun_again(
    run: Run, train: Callable[..., Iterator[StepResult]], note: Callable[[dict[str, Any]], None]
) -> Iterator[StepResult]:
    """The steps of a run, from `train`; one that runs out of memory is begun again in smaller ones.

    That is for a run with `auto_micro_batch`: its micro-batches are divided by the least number
    that divides them, and a step has as many times more of them. `note` gets a record of it. Raises
    `torch.OutOfMemoryError` where a micro-batch is one sample.
    """
    while True:
        try:
            yield from train(run.state, run.data, max_steps=run.max_steps, **run.loop_settings())
            return
        except torch.OutOfMemoryError:
            size = run.config.per_device_train_batch_size
            if not run.config.auto_micro_batch or size == 1:
                raise
        # Not above: what the step had computed lives as long as its error.
        torch.cuda.empty_cache()
        divisor = next(n for n in range(2, size + 1) if size % n == 0)
        run.divide_micro_batches(size // divisor)
        sizes = {
            name: getattr(run.config, name)
            for name in ("per_device_train_batch_size", "micro_batches_per_step")
        }
        step = run.state.step + 1
        print_line(
            f"step {step:>6}  out of memory with micro-batches of {size}: it is begun again, from "
            f"now on in {sizes['micro_batches_per_step']} micro-batches of {size // divisor}"
        )
        note({"step": step, **sizes})
