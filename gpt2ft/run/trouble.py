"""What a run says, and does, when a step cannot be as it should: not finite, or out of memory."""

from __future__ import annotations

from ..data.batches import Batches
from ..loop import StepResult
from ..micro_batches import step_samples
from ..parallel import processes
from ..system.terminal import print_line
from .build import Run

WORDS_SHOWN = 16
LEAST_SCALE = 2.0**-10


def on_skipped(run: Run, result: StepResult, data: Batches) -> None:
    """An update was skipped: raise `FloatingPointError` if the run is to stop for that.

    `data` is what the step was trained on: since then the run may have gone on in smaller
    micro-batches. In fp16 the scaler deals with a gradient that overflows, as long as it has scales
    left to try.
    """
    scaler = run.state.scaler
    exhausted = scaler.is_enabled() and scaler.get_scale() < LEAST_SCALE
    if scaler.is_enabled() and result.loss.isfinite() and not exhausted:
        return
    if run.config.on_nonfinite == "stop" or exhausted:
        scale = f", with the gradient scale down to {scaler.get_scale():.1g}" if exhausted else ""
        raise FloatingPointError(not_finite(run, result, data, scale))
    print_line(
        f"step {result.step:>6}  update skipped, not finite: {_described(run, result, data)}"
    )


def not_finite(run: Run, result: StepResult, data: Batches, more: str) -> str:
    """What to say when the run stops at a step whose loss or gradient is not finite."""
    saved = run.saved_step > 0
    last = f"checkpoint-{run.saved_step} is good" if saved else "there is no checkpoint yet"
    advice = "look at the samples, or try a lower --learning_rate"
    if run.config.on_nonfinite == "stop":
        resume = "--resume " if saved else ""
        advice += f", or go on without such updates with {resume}--on_nonfinite skip"
    return (
        f"not finite at step {result.step}{more}: {_described(run, result, data)}; "
        f"this update was not made, {last}; {advice}"
    )


def _described(run: Run, result: StepResult, data: Batches) -> str:
    """Loss and gradient norm of a step, its samples, and how the first of them begins."""
    numbers = step_samples(data, result.batches)
    words = run.tokenizer.decode(data.samples[numbers[0]]["input_ids"][:WORDS_SHOWN])
    listed = ", ".join(map(str, numbers[:8])) + (", ..." if len(numbers) > 8 else "")
    return (
        f"loss {result.loss:.4g}, gradient norm {result.grad_norm:.4g}, "
        f"samples {listed}, the first begins {words!r}"
    )


def out_of_memory(run: Run) -> str:
    """What to say when the run ends as memory ran out."""
    config, several = run.config, processes.size() > 1
    size = config.per_device_train_batch_size
    can_go_on = run.saved_step > 0 and size > 1 and not several and not config.auto_micro_batch
    return (
        f"out of memory with batches of {size} times {config.block_size} tokens, "
        + ("go on with --resume --auto_micro_batch, or " if can_go_on else "")
        + less_memory(run)
    )


def less_memory(run: Run) -> str:
    """How to make the same steps with less memory."""
    config = run.config
    batch, several = config.per_device_train_batch_size, processes.size() > 1
    name = "micro_batches_per_step" if several else "gradient_accumulation_steps"
    parts = config.micro_batches_per_step
    assert parts
    divisor = next((n for n in (2, 3, 5, 7) if batch % n == 0), batch)
    ways = [f"--per_device_train_batch_size {batch // divisor}"] * (batch > 1)
    ways += [f"--{name} {parts * divisor}"] * (batch > 1)
    if config.per_device_eval_batch_size > 1:
        ways.append(f"--per_device_eval_batch_size {config.per_device_eval_batch_size // 2}")
    ways += [] if config.gradient_checkpointing else ["--gradient_checkpointing"]
    ways += ["--fsdp"] if several and not config.fsdp else []
    if run.saved_step > 0:  # a run that is resumed keeps its settings
        ways.append("--output_dir ANOTHER")
    return f"give {' '.join(ways) or 'a lower --block_size'}" + (
        "; or train otherwise, with --optimizer adafactor" * (config.optimizer == "adamw")
    )
