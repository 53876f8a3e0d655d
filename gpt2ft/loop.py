"""The training loop: one step, and the iterator over steps."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from .guards import seeded, undisturbed, uninterrupted
from .loss import causal_lm_loss, count_targets, total_count
from .micro_batches import Batch as Batch
from .micro_batches import Data as Data
from .micro_batches import fetch, next_batches, own_part, step_samples
from .optim import clip_and_step
from .parallel import processes
from .parallel.differences import refuse_other_shapes
from .parallel.gradient_sum import share
from .parallel.sharding import gradients_of, idle_batch, is_sharded
from .precision import Precision, Readback, resolve_precision

LossFunction = Callable[[torch.nn.Module, Batch], torch.Tensor]
"""From model and batch, on the model's device, to the sum of the losses, a 0-d tensor."""
CountFunction = Callable[[Batch], float]
"""From a batch, on the CPU, to what the sum of its losses is to be divided by."""

MAX_SKIPPED_IN_A_ROW = 10


@dataclass
class TrainState:
    """All that a checkpoint holds.

    The learning rate depends only on `step`; the order of the data on the epoch and the seed that
    the data was made with; dropout on `seed`, `step` and the number of the micro-batch. None of
    them has a state that could be lost.
    """

    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    precision: Precision
    seed: int = 0
    """The seed of dropout, and of whatever else the model draws in training."""
    step: int = 0
    """Optimizer steps attempted, as the Trainer's `global_step`."""
    batches: int = 0
    """Micro-batches trained on, of all epochs."""
    tokens: float = 0
    """Targets trained on."""
    skipped_steps: torch.Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.int64))
    """Steps whose update was skipped, as loss or gradient was not finite: 0-d, on the device."""
    extra: dict[str, torch.Tensor] = field(default_factory=dict)
    """Tensors of your own that belong to the run, such as an average of the weights."""

    @classmethod
    def create(
        cls,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        precision: Precision | None = None,
        seed: int = 0,
    ) -> TrainState:
        """The state at step 0; without a precision, the best of the model's device.

        `seed` is that of dropout, and of whatever else the model draws in training. Under
        `torchrun` the processes meet here, and all take the weights of process 0.
        """
        device = next(model.parameters()).device
        processes.join(device)
        refuse_other_shapes(model)
        processes.copy_from_main([*model.parameters(), *model.buffers()])
        precision = precision or resolve_precision("auto", device)
        return cls(model, optimizer, precision.scaler(), precision, int(seed))


@dataclass(frozen=True)
class StepResult:
    """What one optimizer step did. The tensors are 0-d, on the device: `.item()` waits for it."""

    step: int
    """Number of this step, from 1."""
    loss: torch.Tensor
    """Mean over the targets of the step, nats."""
    batches: range
    """Numbers of its micro-batches, counted from 0 over all epochs."""
    n_targets: float
    """Targets of the step."""
    grad_norm: torch.Tensor
    """Norm of the gradient before clipping."""
    learning_rate: float
    """Of this step's update (of the first parameter group, where they differ)."""
    skipped: torch.Tensor
    """Whether the update was skipped, as loss or gradient was not finite; weights and moments are
    then as they were."""


class NoTargetsError(ValueError):
    """Every label of a step is masked: there is nothing to learn from it."""


class NonFiniteError(FloatingPointError):
    """Ten updates in a row were skipped, as loss or gradient was not finite."""

    def __init__(self, message: str, result: StepResult) -> None:
        super().__init__(message)
        self.result = result
        """Of the last of these steps."""

    def __reduce__(self) -> tuple[Any, ...]:  # or it could not be sent to another process
        return type(self), (str(self), self.result)


def train_step(
    state: TrainState,
    micro_batches: Sequence[Batch],
    *,
    learning_rate: float | None = None,
    max_grad_norm: float = math.inf,
    loss_fn: LossFunction = causal_lm_loss,
    count_fn: CountFunction = count_targets,
    fixed_sum_order: bool = True,
) -> StepResult:
    """One optimizer step over micro-batches that together are its batch.

    Where several processes train, each gives its own part of them, in the order of the ranks. The
    gradient is that of the mean over all targets of all micro-batches, so how they are divided does
    not matter; it is clipped to the norm `max_grad_norm`. The model is put in training mode.
    `learning_rate` is for all parameter groups, None leaves theirs. `loss_fn` maps model and batch
    to a summed loss, `count_fn` a batch (on the CPU) to what that sum is divided by. Where loss or
    gradient is not finite, the update is skipped; the step counts all the same. Interrupted by
    Ctrl-C or by running out of memory, the step is either complete or as if it had not begun.
    `fixed_sum_order` adds gradients so that the bits do not depend on the number of processes; see
    `parallel.gradient_sum`. Raises `NoTargetsError` if all labels are masked.
    """
    optimizer, scaler, device = state.optimizer, state.scaler, state.precision.device
    state.model.train()
    optimizer.zero_grad(set_to_none=True)  # also what an interrupted step left behind
    if learning_rate is not None:
        for group in optimizer.param_groups:
            group["lr"] = float(learning_rate)
    # Counted on the CPU, before anything is copied: the host need not wait for the device.
    step = share(total_count(micro_batches, count_fn), len(micro_batches))  # of all processes
    if step.n_targets == 0:
        raise NoTargetsError("every label of the step is masked, there is nothing to learn from")

    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    gradients = gradients_of(step, parameters, fixed_order=fixed_sum_order)
    for number, cpu_batch, divisor in gradients.batches(micro_batches):
        batch = {name: value.to(device, non_blocking=True) for name, value in cpu_batch.items()}
        with torch.enable_grad(), seeded(device, state.seed, state.step, number):
            with state.precision.autocast():
                part = loss_fn(state.model, batch) / divisor
            # An infinite loss may have a finite gradient: with NaN the update is skipped.
            finite = torch.where(torch.isfinite(part), 1.0, torch.nan)
            scaler.scale(part * finite).backward()
        gradients.add(number, part.detach())
    loss = gradients.finish()

    def update() -> StepResult:
        grad_norm, skipped = clip_and_step(optimizer, scaler, max_grad_norm=max_grad_norm)
        batches = range(state.batches, state.batches + step.n_micro_batches)
        state.step, state.batches = state.step + 1, batches.stop
        state.tokens += step.n_targets
        state.skipped_steps = state.skipped_steps + skipped
        lr = optimizer.param_groups[0]["lr"]
        return StepResult(state.step, loss, batches, step.n_targets, grad_norm, lr, skipped)

    return uninterrupted(update)


def train(
    state: TrainState,
    data: Data,
    *,
    max_steps: int,
    gradient_accumulation_steps: int = 1,
    micro_batches_per_step: int | None = None,
    learning_rate: Callable[[int], float] | None = None,
    max_grad_norm: float = math.inf,
    loss_fn: LossFunction = causal_lm_loss,
    count_fn: CountFunction = count_targets,
    fixed_sum_order: bool = True,
) -> Iterator[StepResult]:
    """Train until `max_steps` optimizer steps have been attempted; yields after each.

    The loop is the caller's: log, stop, evaluate, sample, save or change the optimizer in the body
    of the `for`; the state at hand there is complete. Interrupted anywhere, it can be called again
    and goes on (the result of a step that was complete by then is not yielded). `learning_rate`
    maps the number of earlier steps to the rate of the next, None leaves the optimizer's. A step
    never reaches over the end of an epoch, so the last one of an epoch may have fewer
    micro-batches. `gradient_accumulation_steps` is of each process; `micro_batches_per_step`, where
    it is given, of all processes together. While the device computes a step, the batches of the
    next one are made, before the body of the `for` runs. Raises `NoTargetsError`, and
    `NonFiniteError` after ten skipped updates in a row, both naming the samples.
    """
    if len(data) == 0:
        raise ValueError("the data has no micro-batches")
    if gradient_accumulation_steps < 1:
        n = gradient_accumulation_steps
        raise ValueError(f"gradient_accumulation_steps is {n}, give a number >= 1")
    if learning_rate is not None and not callable(learning_rate):
        raise TypeError(
            f"learning_rate is {learning_rate!r}, give a function of the step; "
            "a constant rate is set when the optimizer is made"
        )
    n = micro_batches_per_step or gradient_accumulation_steps * processes.size()
    device = state.precision.device
    skips: Readback[StepResult] = Readback()
    in_a_row = 0
    ahead: dict[range, list[Batch]] = {}  # at most one step's
    while state.step < max_steps:
        batches = next_batches(data, state.batches, n)
        micro_batches = ahead.get(batches) or fetch(data, own_part(batches), device)
        try:
            result = train_step(
                state,
                micro_batches,
                learning_rate=learning_rate(state.step) if learning_rate else None,
                max_grad_norm=max_grad_norm,
                loss_fn=loss_fn,
                count_fn=count_fn,
                fixed_sum_order=fixed_sum_order,
            )
        except NoTargetsError as error:
            raise NoTargetsError(f"{error}: samples {step_samples(data, batches)}") from error
        skips.put(result.skipped, result)
        if state.step < max_steps:
            batches = next_batches(data, state.batches, n)
            with contextlib.suppress(Exception):  # raised again when their turn comes
                ahead = {batches: fetch(data, own_part(batches), device)}
        yield result
        for skipped, late in skips.arrived(wait=state.step >= max_steps):
            in_a_row = in_a_row + 1 if skipped else 0
            if in_a_row == MAX_SKIPPED_IN_A_ROW:
                samples = step_samples(data, late.batches)
                raise NonFiniteError(
                    f"loss or gradient is not finite in {in_a_row} steps in a row, up to step "
                    f"{late.step}: samples {samples}",
                    late,
                )


@dataclass(frozen=True)
class Evaluation:
    """Mean over all targets of a corpus: never a mean of means."""

    loss: float
    """Nats per token."""
    n_targets: float
    """Tokens predicted."""

    @property
    def perplexity(self) -> float:
        return math.inf if self.loss > 700 else math.exp(self.loss)


def evaluate(
    model: torch.nn.Module,
    data: Data,
    *,
    precision: Precision | None = None,
    loss_fn: LossFunction = causal_lm_loss,
    count_fn: CountFunction = count_targets,
    on_batch: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Loss over one epoch of `data`, weighted by tokens; keeps no logits beyond a batch.

    Without a precision it is the best of the model's device. Calls `on_batch` after each batch.
    Where several processes train, all must call it: each computes every W-th batch. Raises
    `NoTargetsError` if every label is masked.
    """
    precision = precision or resolve_precision("auto", next(model.parameters()).device)
    sharded = any(map(is_sharded, model.parameters()))
    losses: list[float] = []
    counts: list[float] = []
    with undisturbed(model):
        for first in range(0, len(data), processes.size()):
            has_one = (index := first + processes.rank()) < len(data)
            losses.append(0)
            counts.append(0)
            if has_one or sharded:  # the processes of a model that is divided compute together
                cpu_batch = data[0, index] if has_one else idle_batch()
                batch = {name: value.to(precision.device) for name, value in cpu_batch.items()}
                with precision.autocast():
                    loss = float(loss_fn(model, batch))
                if has_one:
                    losses[-1], counts[-1] = loss, total_count([cpu_batch], count_fn)
            on_batch()
    # Added in double precision, in the order of the batches, however many processes there are.
    loss_sum = sum(itertools.chain.from_iterable(zip(*processes.gather(losses), strict=True)))
    n_targets = sum(map(sum, processes.gather(counts)))
    if n_targets == 0:
        raise NoTargetsError("there is nothing to predict in the evaluation data")
    return Evaluation(loss_sum / n_targets, n_targets)
