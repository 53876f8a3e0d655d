"""What a run says of itself: what it is about to do, and at its end what came of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from ..data.batches import Blocks
from ..data.stream import Stream
from ..loop import Evaluation
from ..parallel import processes
from .build import Run

NOTEWORTHY = 0.01  # nats; evaluations between which nothing happened may differ by less


def description(run: Run) -> str:
    """Model and data of a run, in two lines."""
    config = run.config
    name = config.loaded_model or f"new {config.model_type}"
    precision, parameters = run.state.precision, run.state.model.parameters()
    threads = f", {torch.get_num_threads()} threads" if precision.device.type == "cpu" else ""
    n = processes.size()
    divided = "divided among " if n > 1 and config.fsdp else ""
    together_with = f", {divided}{n} processes" if n > 1 else ""
    pad_token = run.tokenizer.pad_token
    pad = f"pad token {pad_token!r}" if pad_token else "no pad token, id 0 pads"
    source = config.dataset_name or ", ".join(config.train_file)
    evaluated = f" and {len(run.held_out.samples):,} held out" if run.held_out else ""
    together = config.packing and config.row_separator == "eos" and not run.keep_apart
    note = (
        "; with this model the documents in a block are context for each other" if together else ""
    )
    samples = run.data.samples
    if isinstance(samples, Blocks) and samples.n_tokens < (config.block_size or 0):
        note += f"; that is less than one block of {config.block_size} tokens"
    return (
        f"model  {name}: {sum(p.numel() for p in parameters):,} parameters, "
        f"{precision.name} on {precision.device}{threads}{together_with}\n"
        f"data   {source}: {_amount(samples)} to train on{evaluated}; {pad}{note}"
    )


def _amount(samples: Any) -> str:
    """How much there is to train on, in words."""
    if isinstance(samples, Stream):
        n = len(samples.shards)
        return f"{n:,} files, read in turn," if n > 1 else "1 file, again and again,"
    kind = "blocks" if isinstance(samples, Blocks) else "rows"
    return f"{samples.n_tokens:,} tokens in {len(samples):,} {kind}"


def plan(run: Run) -> str:
    """What a run is about to do, in a line."""
    config = run.config
    assert config.micro_batches_per_step
    batch = config.per_device_train_batch_size * config.micro_batches_per_step
    kind = "blocks" if config.packing else "rows"
    return (
        f"run    {run.max_steps:,} steps of {batch} {kind}, learning rate "
        f"{config.learning_rate:g}, into {config.output_dir}"
    )


def evaluation_line(evaluation: Evaluation) -> str:
    """Loss and perplexity in words."""
    return (
        f"loss {evaluation.loss:.4f}  perplexity {_short(evaluation.perplexity)}  "
        f"over {evaluation.n_targets:,} held-out tokens"
    )


def card(before: Evaluation | None, after: Evaluation | None, *, samples: tuple[str, str]) -> str:
    """Before and after, side by side, and how the model wrote then and writes now."""
    lines = []
    if before and after:
        lines += [
            f"{'held-out text':<16}{'before':>12}{'after':>12}",
            f"{'loss':<16}{before.loss:>12.4f}{after.loss:>12.4f}",
            f"{'perplexity':<16}{_short(before.perplexity):>12}{_short(after.perplexity):>12}",
        ]
    elif after:
        lines.append(f"held-out text: {evaluation_line(after)}")
    for name, sample in zip(("before", "after"), samples, strict=True):
        if sample:
            lines += ["", f"--- it wrote {name} ---", sample.strip()]
    return "\n".join(lines)


def warning(records: Iterable[Mapping[str, Any]]) -> str:
    """What the evaluations among the records of metrics.jsonl warn of; empty if of nothing."""
    losses = {r["step"]: r["eval_loss"] for r in records if r.get("eval_loss") is not None}
    if len(losses) < 2:
        return ""
    first, last = losses[min(losses)], losses[max(losses)]
    best = min(losses, key=lambda step: losses[step])
    sentences = []
    if last > first:
        sentences.append(
            f"the held-out loss is higher than before training, {last:.4f} and not {first:.4f}: "
            "the model has become worse; try a lower --learning_rate"
        )
    if min(losses) < best < max(losses) and last > losses[best] + NOTEWORTHY:
        sentences.append(
            f"the held-out loss was lowest at step {best}, {losses[best]:.4f}, and rose to "
            f"{last:.4f} after it: the model overfits; try --max_steps {best}"
        )
    return "\n".join(f"warning: {sentence}" for sentence in sentences)


def _short(perplexity: float) -> str:
    """With two decimals as long as that fits a column."""
    return f"{perplexity:,.2f}" if perplexity < 1e7 else f"{perplexity:.2e}"
