"""The training loop: one step, and the iterator over steps."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from .loss import causal_lm_loss, count_targets
from .precision import Precision, resolve_precision

Batch = Mapping[str, torch.Tensor]
# From model and batch, on the model's device, to a sum and a count, two 0-d tensors.
LossFunction = Callable[[torch.nn.Module, Batch], tuple[torch.Tensor, torch.Tensor]]


class Data(Protocol):
    """Micro-batches as a function of epoch and index: a place in the data is two numbers."""

    def __len__(self) -> int:
        """Micro-batches of an epoch."""

    def __getitem__(self, position: tuple[int, int]) -> Batch:
        """The micro-batch at (epoch, index): CPU tensors, at least `input_ids`, `labels` (B, T)."""

    def sample_numbers(self, epoch: int, index: int) -> Iterable[int]:
        """Which samples of the corpus that micro-batch holds."""


@dataclass
class TrainState:
    """All that a checkpoint holds, but for the random states, which are read when saving.

    The learning rate is a function of `step`, the order of the data one of the epoch and the seed
    that the data was made with, which must be the same when resuming: neither has a state to lose.
    """

    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    precision: Precision
    step: int = 0
    """Optimizer steps done."""
    epoch: int = 0
    """The epoch in progress, from 0."""
    batch: int = 0
    """Micro-batches of this epoch done."""
    tokens: int = 0
    """Targets trained on."""
    skipped_steps: int = 0
    """Updates that the scaler skipped; `finetune` also counts those of other precisions."""

    @classmethod
    def create(
        cls,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        precision: Precision | None = None,
    ) -> TrainState:
        """The state at step 0; without a precision, the best of the model's device."""
        device = next(model.parameters()).device
        precision = precision or resolve_precision("auto", device)
        return cls(model, optimizer, precision.scaler(), precision)


@dataclass(frozen=True)
class StepResult:
    """What one optimizer step did. The tensors are 0-d, on the device: `.item()` waits for it."""

    step: int
    """Number of this step, from 1; one that the scaler skips is tried again under its number."""
    loss: torch.Tensor
    """Mean over the targets of the step, nats."""
    n_targets: torch.Tensor
    """Targets of the step."""
    grad_norm: torch.Tensor
    """Norm of the gradient before clipping."""
    learning_rate: float
    """Of this step's update (of the first parameter group, where they differ)."""
    skipped: torch.Tensor
    """Whether loss or gradient was not finite, and the weights were left as they were."""


class NoTargetsError(ValueError):
    """Every label of a step is masked: there is nothing to learn from it."""


def train_step(
    state: TrainState,
    micro_batches: Sequence[Batch],
    *,
    learning_rate: float | None = None,
    max_grad_norm: float = math.inf,
    loss_fn: LossFunction = causal_lm_loss,
) -> StepResult:
    """One optimizer step over micro-batches that together are its batch.

    The gradient is that of the mean over all targets of all micro-batches, so how they are divided
    does not matter; its norm is cut down to `max_grad_norm`. The model must be in training mode.
    `learning_rate` is for all parameter groups, None leaves theirs. `loss_fn` maps model and batch
    to a summed loss and the count to divide by. Where loss or gradient is not finite, no update is
    made; in fp16 such a step does not count, otherwise it does, and `skipped` says so. Raises
    `NoTargetsError` if all labels are masked.
    """
    optimizer, scaler, device = state.optimizer, state.scaler, state.precision.device
    if learning_rate is not None:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
    # Counted before anything moves to the device, so that it waits for nothing.
    n_labels = sum(int(count_targets(batch["labels"])) for batch in micro_batches)
    if n_labels == 0:
        raise NoTargetsError("every label of the step is masked, nothing to learn from")

    loss_sum = torch.zeros((), device=device)
    n_targets = torch.zeros((), device=device)
    for cpu_batch in micro_batches:
        batch = {name: value.to(device, non_blocking=True) for name, value in cpu_batch.items()}
        with state.precision.autocast():
            batch_loss, batch_targets = loss_fn(state.model, batch)
        # An infinite loss may have a finite gradient: it must not, or it would be learned.
        finite = torch.where(torch.isfinite(batch_loss), 1.0, torch.nan)
        scaler.scale(batch_loss * finite / n_labels).backward()
        loss_sum += batch_loss.detach()
        n_targets += batch_targets

    scaler.unscale_(optimizer)
    gradients = [p.grad for g in optimizer.param_groups for p in g["params"] if p.grad is not None]
    # 1, unless the caller's loss_fn counts targets of its own: the mean is over those.
    correction = n_labels / n_targets
    grad_norm = torch.nn.utils.get_total_norm(gradients) * correction
    clip = torch.clamp(max_grad_norm / (grad_norm + 1e-6), max=1.0)
    skipped = ~torch.isfinite(grad_norm)
    _update(state, gradients, clip * correction, skipped)
    optimizer.zero_grad(set_to_none=True)

    state.tokens += n_labels
    step, lr = state.step + 1, optimizer.param_groups[0]["lr"]
    # An update that the scaler skips must not advance the schedule. Knowing it waits for the
    # device: with a fused optimizer the step's only synchronisation, and only in fp16.
    if scaler.is_enabled() and bool(skipped):
        state.skipped_steps += 1
    else:
        state.step = step
    return StepResult(step, loss_sum / n_targets, n_targets, grad_norm, lr, skipped)


def _update(
    state: TrainState, gradients: list[torch.Tensor], factor: torch.Tensor, skipped: torch.Tensor
) -> None:
    """The optimizer's update by the gradients times a factor, and the scaler's, or neither."""
    optimizer: Any = state.optimizer
    if getattr(optimizer, "_step_supports_amp_scaling", False) and not state.scaler.is_enabled():
        # A fused optimizer divides and refuses by itself, as it does for the scaler: no pass over
        # the gradients, and nothing is read back.
        optimizer.grad_scale, optimizer.found_inf = factor.reciprocal(), skipped.float()
        optimizer.step()
        del optimizer.grad_scale, optimizer.found_inf
        return
    torch._foreach_mul_(gradients, factor)
    if state.scaler.is_enabled():
        state.scaler.step(optimizer)  # knows from unscaling whether to skip
        state.scaler.update()
    elif not skipped:  # any other optimizer has to be asked on the host, which waits for the device
        optimizer.step()


def train(
    state: TrainState,
    data: Data,
    *,
    max_steps: int,
    gradient_accumulation_steps: int = 1,
    learning_rate: Callable[[int], float] | None = None,
    max_grad_norm: float = math.inf,
    loss_fn: LossFunction = causal_lm_loss,
) -> Iterator[StepResult]:
    """Train until `max_steps` optimizer steps are done; yields after each.

    The loop is the caller's: log, stop, evaluate, sample, save or change the optimizer in the body
    of the `for`; the state at hand there is complete. `learning_rate` maps the steps done to the
    rate of the next, None leaves the optimizer's. A step never reaches over the end of an epoch, so
    the last one of an epoch may have fewer micro-batches. Raises `NoTargetsError` naming the
    samples.
    """
    state.model.train()
    while state.step < max_steps:
        if state.batch >= len(data):
            state.epoch, state.batch = state.epoch + 1, 0
        stop = min(state.batch + gradient_accumulation_steps, len(data))
        micro_batches = [data[state.epoch, index] for index in range(state.batch, stop)]
        try:
            result = train_step(
                state,
                micro_batches,
                learning_rate=learning_rate(state.step) if learning_rate else None,
                max_grad_norm=max_grad_norm,
                loss_fn=loss_fn,
            )
        except NoTargetsError as error:
            samples = step_samples(data, state.epoch, range(state.batch, stop))
            raise NoTargetsError(f"{error}: samples {samples}") from error
        state.batch = stop
        yield result


def step_samples(data: Data, epoch: int, indices: range) -> list[int]:
    """Numbers of the samples in those micro-batches of the epoch."""
    return [int(number) for index in indices for number in data.sample_numbers(epoch, index)]


@dataclass(frozen=True)
class Evaluation:
    """Mean over all targets of a corpus: never a mean of means."""

    loss: float
    """Nats per token."""
    n_targets: int
    """Tokens predicted."""

    @property
    def perplexity(self) -> float:
        return math.inf if self.loss > 700 else math.exp(self.loss)


@contextlib.contextmanager
def undisturbed(model: torch.nn.Module) -> Iterator[None]:
    """Model in evaluation mode without gradients; mode and torch's random states come back after.

    What happens inside leaves the training run bit-identical. It is not compiled: each shape of a
    batch, and each length of a text, would be compiled anew.
    """
    modes = {module: module.training for module in model.modules()}
    devices = range(torch.cuda.device_count())  # named, or torch warns where there are many
    compiles = "torch._dynamo" in sys.modules
    eager = torch.compiler.set_stance("force_eager") if compiles else contextlib.nullcontext()
    with torch.random.fork_rng(devices), torch.no_grad(), eager:
        model.eval()
        try:
            yield
        finally:
            for module, mode in modes.items():
                module.training = mode


def evaluate(
    model: torch.nn.Module,
    data: Data,
    *,
    precision: Precision | None = None,
    loss_fn: LossFunction = causal_lm_loss,
    on_batch: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Loss over one epoch of `data`, weighted by tokens; keeps no logits beyond a batch.

    Without a precision it is the best of the model's device. Calls `on_batch` after each batch.
    Raises `NoTargetsError` if every label is masked.
    """
    precision = precision or resolve_precision("auto", next(model.parameters()).device)
    loss_sum, n_targets = 0.0, 0
    with undisturbed(model):
        for index in range(len(data)):
            batch = {k: v.to(precision.device) for k, v in data[0, index].items()}
            with precision.autocast():
                batch_loss, batch_targets = loss_fn(model, batch)
            loss_sum += float(batch_loss)  # in double precision, over many batches
            n_targets += int(batch_targets)
            on_batch()
    if n_targets == 0:
        raise NoTargetsError("every label of the evaluation is masked")
    return Evaluation(loss_sum / n_targets, n_targets)
