"""What a run will take, from a few measured steps: time, memory, disk; and a look at its data."""

from __future__ import annotations

import itertools
import json
import math
import os
import resource
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ..checkpoint import checkpoints, model_files
from ..config import TrainConfig
from ..data.collate import IGNORED
from ..data.stream import Stream
from ..evaluation.records import finite
from ..loop import train
from ..parallel import processes
from ..precision import Readback
from ..system import durable
from ..system.signals import Stop
from ..system.terminal import bar, print_line
from .build import Run, build
from .memory import activation_bytes, largest_micro_batch
from .observe import chosen_prompts, evaluate_once, sample_once
from .output_folder import checkpoints_at_once
from .progress import FIRST_STEPS
from .summary import description, plan

CURVE = " ▁▂▃▄▅▆▇█"
CURVE_WIDTH = 60
BATCHES_LOOKED_AT = 50
ROWS_SHOWN, TOKENS_SHOWN, CHAT_TOKENS_SHOWN = 2, 96, 400
BRACKETS = "what stands in ⟦brackets⟧ is context, and is not learned"


def dry_run(config: TrainConfig, *, stop: Stop) -> int:
    """Say what the run would take, and show its data; it trains a few steps, and keeps nothing."""
    config.validate()
    if processes.size() > 1:
        raise ValueError("--dry_run is for one process, start it without torchrun")
    run = build(config)
    facts = {"data": about_data(run), "steps": run.max_steps, "batch": first_batch(run)}
    facts["learning_rate"] = _curve(run)
    if not config.json:
        print_line(description(run))
        print_line(plan(run))
    each = _measured(run, stop)
    facts["seconds"] = {**each, **forecast(run, each["step"], each["evaluation"], each["samples"])}
    facts["disk"] = about_disk(run)
    facts["peak_memory_bytes"] = peak_memory(run) + _of_longer_batches(run)
    if config.json:
        print(json.dumps(finite(facts), indent=1))  # ASCII: nothing that a terminal would obey
    else:
        print_line(_text(facts))
    return 0


def about_data(run: Run) -> dict[str, Any]:
    """How much text there is, what of it is not trained on, and how full batches are."""
    samples: Any = run.data.samples
    facts: dict[str, Any] = {"samples": "a stream"}
    if not isinstance(samples, Stream):
        facts = {
            "documents": samples.n_documents,
            "samples": len(samples),
            "tokens": samples.n_tokens,
            "tokens_left_out": samples.n_tokens_left_out,
        }
        facts["held_out_samples"] = len(run.held_out.samples) if run.held_out else 0
    looked_at = range(min(len(run.data), BATCHES_LOOKED_AT))
    batches = [run.data[0, i]["labels"] for i in looked_at]
    numbers = [number for i in looked_at for number in run.data.sample_numbers(0, i)]
    places = sum(labels.numel() for labels in batches)
    facts["fill"] = sum(len(samples[int(number)]["input_ids"]) for number in numbers) / places
    facts["learned"] = sum(int((labels != IGNORED).sum()) for labels in batches) / places
    return facts


def first_batch(run: Run) -> list[list[dict[str, Any]]]:
    """The first rows of the first batch, as text: pieces that are learned or masked in turn."""
    batch = run.data[0, 0]
    rows, n_shown = [], CHAT_TOKENS_SHOWN if run.has_chats else TOKENS_SHOWN
    sizes = [len(run.data.samples[int(n)]["input_ids"]) for n in run.data.sample_numbers(0, 0)]
    for ids, labels, size in zip(batch["input_ids"], batch["labels"], sizes, strict=True):
        learned = labels != IGNORED
        learned[0] = False  # there is nothing before it to predict it from
        pieces: list[dict[str, Any]] = []
        for token, is_learned in zip(
            ids[: min(size, n_shown)].tolist(), learned.tolist(), strict=False
        ):
            if not pieces or pieces[-1]["learned"] != is_learned:
                pieces.append({"learned": is_learned, "ids": []})
            pieces[-1]["ids"].append(token)
        rows.append(
            [
                {"learned": piece["learned"], "text": run.tokenizer.decode(piece["ids"])}
                for piece in pieces
            ]
        )
    return rows[:ROWS_SHOWN]


def _curve(run: Run) -> list[float]:
    """The learning rate at points spread over the run."""
    rate = run.loop_settings()["learning_rate"]
    n = min(CURVE_WIDTH, run.max_steps)
    return [rate(round(i * (run.max_steps - 1) / max(1, n - 1))) for i in range(n)]


def _measured(run: Run, stop: Stop) -> dict[str, float]:
    """Seconds of a step, an evaluation and the samples of one time."""
    times = [time.monotonic()]
    steps = min(run.max_steps, FIRST_STEPS)
    settings = run.loop_settings()
    skips: Readback[int] = Readback()
    with bar(steps, "measuring", unit="step") as shown:
        for result in train(run.state, run.data, max_steps=steps, **settings):
            skips.put(result.skipped, result.step)
            list(skips.arrived(wait=True))  # the time of a step is over when the device is done
            times.append(time.monotonic())
            shown.update()
            stop.check()
    each = [b - a for a, b in itertools.pairwise(times)]
    found = {"step": statistics.median(each[1:] or each)}
    start = time.monotonic()
    evaluate_once(run, stop)
    found["evaluation"] = time.monotonic() - start
    start = time.monotonic()
    sample_once(run, chosen_prompts(run), stop)
    found["samples"] = time.monotonic() - start
    return found


def forecast(run: Run, step: float, evaluation: float, samples: float) -> dict[str, float]:
    """Seconds of all steps and observations, given those of one; without loading and saving."""
    config, n = run.config, run.max_steps
    at_ends = 2
    evaluations = at_ends + ((n - 1) // config.eval_steps if config.eval_steps else 0)
    every = config.sample_steps or config.eval_steps
    sampled = at_ends + ((n - 1) // every if every else 0)
    observing = evaluation * evaluations + samples * sampled
    return {"steps": step * n, "observing": observing, "all": step * n + observing}


def about_disk(run: Run) -> dict[str, int]:
    """Bytes of a checkpoint, of all that the run will hold at once, and what is free."""
    one, n = checkpoints.checkpoint_bytes(run.state), checkpoints_at_once(run)
    place = Path(run.config.output_dir).absolute()
    there = next(path for path in (place, *place.parents) if os.path.lexists(path))
    model = sum(p.numel() * p.element_size() for p in run.state.model.parameters())
    if run.base and not run.config.merge_lora:
        model = model_files.n_bytes(run.state.model)  # the adapter
    free = durable.free_bytes(there)
    return {"checkpoint": one, "checkpoints_at_once": n, "all": n * one + model, "free": free}


def early_forecast(run: Run, step_seconds: Sequence[float], observing: float) -> dict[str, Any]:
    """What the first steps of a run say of the whole: `{"seconds": {"expected": ...}, ...}`.

    `step_seconds` are those of its first steps, `observing` what its first observation took.
    """
    each = statistics.median(step_seconds[1:] or step_seconds)
    expected = {
        "seconds": round(forecast(run, each, observing, 0.0)["all"], 1),
        "peak_memory_bytes": peak_memory(run),
        "checkpoint_bytes": checkpoints.checkpoint_bytes(run.state),
    }
    return {name: {"expected": value} for name, value in expected.items()}


def outcome(
    run: Run, expected: Mapping[str, Mapping[str, Any]], checkpoint: Path, seconds: float
) -> dict[str, Any]:
    """An early forecast with what came of it: `{"seconds": {"expected": ..., "actual": ...}}`.

    `seconds` is what the steps, evaluations, samples and saves took.
    """
    files = checkpoint.iterdir() if checkpoint.is_dir() else ()
    actual = {
        "seconds": round(seconds, 1),
        "peak_memory_bytes": peak_memory(run),
        "checkpoint_bytes": sum(path.stat().st_size for path in files),
    }
    return {name: {**value, "actual": actual[name]} for name, value in expected.items()}


def _of_longer_batches(run: Run) -> int:
    """Bytes that the largest micro-batch of the run takes beyond those of its first steps."""
    assert run.config.micro_batches_per_step
    first = range(min(len(run.data), FIRST_STEPS * run.config.micro_batches_per_step))
    seen = max(run.data[0, i]["input_ids"].numel() for i in first)
    largest = max(seen, largest_micro_batch(run))
    return activation_bytes(run, largest) - activation_bytes(run, seen)


def peak_memory(run: Run) -> int:
    """Most bytes in use by this process so far; on CUDA, of the device's memory."""
    device = run.state.precision.device
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def _text(facts: dict[str, Any]) -> str:
    """For a terminal."""
    data, seconds, disk = facts["data"], facts["seconds"], facts["disk"]
    lines = []
    if "tokens" in data:
        left_out = data["tokens_left_out"]
        lines.append(
            f"text   {data['documents']:,} document{'s' * (data['documents'] != 1)}, "
            f"{data['tokens']:,} tokens in {data['samples']:,} samples, "
            f"{left_out:,} tokens left out"
            + (" (cut off, without an answer, or beyond --max_train_samples)" if left_out else "")
        )
    rates = facts["learning_rate"]
    top = max(rates) or 1.0
    drawn = "".join(CURVE[math.ceil(rate / top * (len(CURVE) - 1))] for rate in rates)
    interval = tqdm.format_interval
    free = f"{_size(disk['free'])} free"
    lines += [
        f"batch  {data['fill']:.1%} of its places are text, the others are padding; "
        f"{data['learned']:.1%} are learned",
        f"rate   {drawn} at most {top:.2e}",
        f"time   {interval(seconds['all'])}: {seconds['step']:.3f} s a step, "
        f"{interval(seconds['steps'])}; {interval(seconds['observing'])} for evaluations and "
        "samples; without loading and saving",
        f"memory {_size(facts['peak_memory_bytes'])} at most",
        f"disk   {_size(disk['all'])}: {disk['checkpoints_at_once']} checkpoints of "
        f"{_size(disk['checkpoint'])} at once, and the model; {free}"
        + ("" if disk["all"] <= disk["free"] else ": NOT ENOUGH"),
        "",
        f"the first samples; {BRACKETS}:",
        *map(_marked, facts["batch"]),
        "",
        "nothing was kept; leave out --dry_run to start the run",
    ]
    return "\n".join(lines)


def _marked(row: Sequence[Mapping[str, Any]]) -> str:
    """A row of `first_batch`, with brackets around what is not learned."""
    shown = "".join(p["text"] if p["learned"] else f"⟦{p['text']}⟧" for p in row)
    return f"| {shown}".replace("\n", "\n| ")


def first_sample(run: Run) -> str:
    """The first sample of a run, with brackets around what is not learned."""
    return f"the first sample; {BRACKETS}:\n{_marked(first_batch(run)[0])}"


def _size(n: float) -> str:
    """Bytes in words."""
    mib = n / 2**20
    return f"{mib / 1024:,.2f} GiB" if mib >= 1024 else f"{mib:,.{0 if mib >= 10 else 1}f} MiB"
