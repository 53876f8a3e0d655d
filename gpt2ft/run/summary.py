"""What a run says of itself: what it is about to do, and at its end what came of it."""

from __future__ import annotations

import torch

from ..loop import Evaluation
from .build import Run


def description(run: Run) -> str:
    """What is about to be done, in three lines."""
    config = run.config
    name = config.loaded_model or f"new {config.model_type}"
    precision, parameters = run.state.precision, run.state.model.parameters()
    threads = f", {torch.get_num_threads()} threads" if precision.device.type == "cpu" else ""
    kind = "blocks" if config.packing else "rows"
    pad_token = run.tokenizer.pad_token
    pad = f"pad token {pad_token!r}" if pad_token else "no pad token, id 0 pads"
    n_tokens = int(run.data.samples.lengths.sum())
    source = config.dataset_name or ", ".join(config.train_file)
    evaluated = f", {len(run.held_out.samples):,} held out" if run.held_out else ""
    batch = config.per_device_train_batch_size * config.gradient_accumulation_steps
    together = config.packing and config.row_separator == "eos" and not run.keep_apart
    note = "; this model lets documents in a block see each other" if together else ""
    if config.packing and n_tokens < (config.block_size or 0):
        note += f"; that is less than one block of {config.block_size} tokens"
    return (
        f"model  {name}: {sum(p.numel() for p in parameters):,} parameters, "
        f"{precision.name} on {precision.device}{threads}\n"
        f"data   {source}: {n_tokens:,} tokens in "
        f"{len(run.data.samples):,} {kind}{evaluated}; {pad}{note}\n"
        f"run    {run.max_steps:,} steps of {batch} {kind}"
    )


def evaluation_line(evaluation: Evaluation) -> str:
    """Loss and perplexity in words."""
    return (
        f"loss {evaluation.loss:.4f}  perplexity {evaluation.perplexity:,.2f}  "
        f"over {evaluation.n_targets:,} held-out tokens"
    )


def card(before: Evaluation | None, after: Evaluation | None, *, samples: tuple[str, str]) -> str:
    """Before and after, side by side, and how the model wrote then and writes now."""
    lines = []
    if before and after:
        lines += [
            f"{'held-out text':<16}{'before':>12}{'after':>12}",
            f"{'loss':<16}{before.loss:>12.4f}{after.loss:>12.4f}",
            f"{'perplexity':<16}{before.perplexity:>12,.2f}{after.perplexity:>12,.2f}",
        ]
    elif after:
        lines.append(f"held-out text: {evaluation_line(after)}")
    for name, sample in zip(("before", "after"), samples, strict=True):
        if sample:
            lines += ["", f"--- it wrote {name} ---", sample.strip()]
    return "\n".join(lines)
