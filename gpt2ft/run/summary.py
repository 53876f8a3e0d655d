"""What a run says of itself: what it is about to do, and at its end what came of it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from ..data.batches import Blocks
from ..data.chat_template import is_cut_by_turns
from ..data.file_list import weighted
from ..data.mixture import Mixture
from ..data.stream import Stream
from ..evaluation.card import Card, difference, short
from ..evaluation.curves import NOTEWORTHY
from ..evaluation.scores import Score
from ..parallel import processes
from .build import Run

PROMPT_WIDTH = 40  # characters of a prompt in a line
LINE_WIDTH = 80  # of what the model wrote
PARAGRAPH_WIDTH = 90

Records = Iterable[Mapping[str, Any]]


def description(run: Run) -> str:
    """Model and data of a run, in two lines."""
    config = run.config
    name = config.loaded_model or f"new {config.model_type}"
    precision = run.state.precision
    threads = f", {torch.get_num_threads()} threads" if precision.device.type == "cpu" else ""
    n = processes.size()
    divided = "divided among " if n > 1 and config.fsdp else ""
    together_with = f", {divided}{n} processes" if n > 1 else ""
    pad_token = run.tokenizer.pad_token
    pad = f"pad token {pad_token!r}" if pad_token else "no pad token, id 0 pads"
    source = config.dataset_name or ", ".join(config.train_file)
    evaluated = f" and {len(run.held_out.samples):,} held out" if run.held_out else ""
    together = config.packing and config.row_separator == "eos" and not run.cut.keep_apart
    note = (
        "; with this model the documents in a block are context for each other" if together else ""
    )
    samples = run.data.samples
    if isinstance(samples, Blocks) and samples.n_tokens < (config.block_size or 0):
        note += f"; that is less than one block of {config.block_size} tokens"
    notes = [*run.notes, *_left_out(run), *_duplicates(run)]
    return "\n".join(
        [
            f"model  {name}: {_parameters(run)}, {precision.name} on"
            f" {precision.device}{threads}{together_with}",
            f"data   {source}: {_amount(samples)} to train on{evaluated}; {pad}{note}",
            *(f"       {line}" for line in _corpora_lines(run)),
            *(f"note: {each}" for each in notes),
        ]
    )


def _left_out(run: Run) -> list[str]:
    """What of long conversations is not trained on."""
    n = getattr(run.data.samples, "n_tokens_left_out", 0)
    if not (run.has_chats and n) or run.config.max_train_samples:
        return []
    return [
        f"{n:,} tokens are in parts of long conversations that have no answer, or are cut off, and "
        "left out: a higher --block_size keeps them with their answers"
    ]


def _duplicates(run: Run) -> list[str]:
    """How many documents are there twice; nothing where an answer counts as one."""
    samples: Any = run.data.samples
    n = getattr(samples, "n_duplicates", 0)
    if not n or run.config.deduplicate or (run.has_chats and is_cut_by_turns(run.tokenizer)):
        return []
    are = "is" if n == 1 else "are"
    return [
        f"{n:,} of {samples.n_documents:,} documents {are} equal to an earlier one; --deduplicate "
        "leaves them out"
    ]


def corpora(run: Run) -> list[dict[str, Any]]:
    """Of several corpora with a weight, how many samples of each were trained on so far."""
    samples, config = run.data.samples, run.config
    if not isinstance(samples, Mixture):
        return []
    epoch, index = divmod(run.state.batches, len(run.data))
    position = index * config.per_device_train_batch_size
    counts = samples.drawn(seed=config.seed, epoch=epoch, position=position)
    rows = zip(weighted(config.train_file), samples.parts, counts, strict=True)
    return [
        {"files": name, "weight": weight, "samples": len(part), "trained_on": count}
        for (name, weight), part, count in rows
    ]


def _corpora_lines(run: Run) -> list[str]:
    """What an epoch has of each corpus."""
    samples: Any = run.data.samples
    draws = samples.draws if isinstance(samples, Mixture) else ()
    return [
        f"{each['files']}: {n / len(samples):.1%} of an epoch, {n / each['samples']:.3g} times its "
        f"{each['samples']:,} {_kind(part)}"
        for each, part, n in zip(corpora(run), getattr(samples, "parts", ()), draws, strict=True)
    ]


def _parameters(run: Run) -> str:
    """How many parameters the model has, and if not all, how many of them are trained."""
    sizes = [(p.numel(), p.requires_grad) for p in run.state.model.parameters()]
    n, trained = (
        sum(size for size, _ in sizes),
        sum(size for size, is_trained in sizes if is_trained),
    )
    if n == trained:
        return f"{n:,} parameters"
    config = run.config
    where = ", ".join(config.lora_target_modules)
    how = f" by LoRA of rank {config.lora_r} at {where}" if config.lora_r else ""
    return f"{trained:,} of {n:,} parameters ({trained / n:.2%}) are trained{how}"


def _amount(samples: Any) -> str:
    """How much there is to train on, in words."""
    if isinstance(samples, Stream):
        n = len(samples.shards)
        return f"{n:,} files, read in turn," if n > 1 else "1 file, again and again,"
    if isinstance(samples, Mixture):
        n = len(samples.parts)
        return f"{samples.n_tokens:,} tokens of {n} corpora in {len(samples):,} samples"
    return f"{samples.n_tokens:,} tokens in {len(samples):,} {_kind(samples)}"


def _kind(samples: Any) -> str:
    return "blocks" if isinstance(samples, Blocks) else "rows"


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


def evaluation_line(score: Score) -> str:
    """Loss and perplexity in words."""
    return (
        f"loss {score.loss:.4f}  perplexity {short(score.perplexity)}  "
        f"over {score.n_targets:,} held-out tokens"
    )


def sample_line(record: Mapping[str, Any]) -> str:
    """A sample in a line: the end of its prompt, and how the model goes on."""
    prompt, text = (" ".join(record[name].split()) for name in ("prompt", "text"))
    shown = textwrap.shorten(text, LINE_WIDTH, placeholder=" ...")
    return f"step {record['step']:>6}  {prompt[-PROMPT_WIDTH:]} | {shown}"


def run_card(run: Run, before: Score | None, after: Score) -> Card:
    """The card that closes a run: the model before training, and the one that it leaves."""
    chats = run.held_out is not None and "labels" in run.held_out.samples[0]
    return Card(
        after,
        before,
        protocol=run.cut.protocol(chats=chats),
        model_name="after",
        baseline_name="before",
    )


def samples_text(before: Records, after: Records) -> str:
    """What the model wrote before training and what it writes after it.

    Of several prompts each text is a paragraph; one alone stands as it was written.
    """
    lines: list[str] = []
    for name, records in (("before", before), ("after", after)):
        texts = [(record["prompt"] + record["text"]).strip() for record in records]
        if len(texts) > 1:
            texts = [f"{textwrap.fill(' '.join(t.split()), PARAGRAPH_WIDTH)}\n" for t in texts]
        if texts:
            lines += ["", f"--- it wrote {name} ---", "\n".join(texts).rstrip()]
    return "\n".join(lines[1:])


def warning(records: Iterable[Mapping[str, Any]]) -> str:
    """What the evaluations among the records of metrics.jsonl warn of; empty if of nothing."""
    found = {r["step"]: r for r in records if r.get("eval_loss") is not None}
    if len(found) < 2:
        return ""
    losses = {step: record["eval_loss"] for step, record in found.items()}
    first, last = min(losses), max(losses)
    best = min(losses, key=lambda step: losses[step])
    sentences = []
    if _is_worse(found[last], found[first]):
        sentences.append(
            f"the held-out loss is higher than before training, {losses[last]:.4f} and not "
            f"{losses[first]:.4f}: the model has become worse; try a lower --learning_rate"
        )
    if first < best < last and _is_worse(found[last], found[best]):
        sentences.append(
            f"the held-out loss was lowest at step {best}, {losses[best]:.4f}, and rose to "
            f"{losses[last]:.4f} after it: the model overfits; try --max_steps {best}, or "
            "--save_best"
        )
    return "\n".join(f"warning: {sentence}" for sentence in sentences)


def _is_worse(record: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether an evaluation is worse than another, as far as the text can show."""
    if record["eval_loss"] <= other["eval_loss"] + NOTEWORTHY:
        return False
    model, baseline = Score.from_record(record), Score.from_record(other)
    interval = difference(model, baseline) if model and baseline else None
    return interval is None or interval.low > 0
