"""How a run's model does at one step: on held-out text, and when it writes."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..data.batches import Batches
from ..data.collate import IGNORED
from ..data.prompts import Prompt, read_prompts
from ..evaluation.records import METRICS, SAMPLES, append_records, copy_records, forget_after
from ..evaluation.scores import Score, score
from ..generation.config import Sampling
from ..generation.text import begin, extend
from ..guards import undisturbed
from ..parallel import processes
from ..precision import Precision
from ..system.signals import Stop
from ..system.terminal import bar, print_line
from . import progress
from .build import Run
from .chats import question
from .provenance import read_run_file
from .summary import evaluation_line, sample_line

SAMPLE_PROMPT_TOKENS = 24
SAMPLE_NEW_TOKENS = 60
SAMPLES_AT_ONCE = 8

Records = list[dict[str, Any]]


@dataclass
class Observed:
    """What was observed so far: records of metrics.jsonl and samples.jsonl."""

    evaluations: Records = field(default_factory=list)
    samples: Records = field(default_factory=list)
    begun: int = 0
    """The step at which the run in this folder began: it has no checkpoints of earlier ones."""

    def score(self, step: int) -> Score | None:
        """The evaluation at that step."""
        found = [record for record in self.evaluations if record["step"] == step]
        return Score.from_record(found[-1]) if found else None

    def written(self, step: int) -> Records:
        """The samples of that step."""
        return [record for record in self.samples if record["step"] == step]

    def best_step(self) -> int | None:
        """The step, after that at which it began, whose evaluation had the lowest loss."""
        losses = {r["step"]: r["eval_loss"] for r in self.evaluations if r["step"] > self.begun}
        finite = {s: x for s, x in losses.items() if x is not None and math.isfinite(x)}
        return min(finite, key=lambda step: (finite[step], step), default=None)

    def since_best(self) -> int:
        """Evaluations after the one with the lowest loss."""
        best = self.best_step()
        return len({r["step"] for r in self.evaluations if best is not None and r["step"] > best})


def recorded(output_dir: Path, step: int, *, copied_from: Path | None) -> Observed:
    """What a run that goes on at that step has observed before; what it will do again is deleted.

    A run that goes on in another folder takes its records along, `copied_from` the old one.
    """
    kept = []
    for name in (METRICS, SAMPLES):
        path = output_dir / name
        if copied_from and not path.exists():
            copy_records(copied_from / name, path)
        kept.append(forget_after(path, step))
    begun = read_run_file(output_dir).get("first_step", 0)
    return Observed([record for record in kept[0] if "eval_loss" in record], kept[1], begun)


def due(steps: int | None, step: int) -> bool:
    """Whether what is done every so many steps is done at this one."""
    return steps is not None and step % steps == 0


def observe(
    run: Run,
    observed: Observed,
    *,
    log: progress.TrainingReport,
    stop: Stop,
    prompts: Sequence[Prompt],
    samples_path: Path | None,
    at_the_end: bool = False,
) -> None:
    """Evaluate and sample, as far as that is due now and not done yet, and note both.

    The training run does not notice. Raises `Stopped` if a signal comes.
    """
    log.flush()
    config, step = run.config, run.state.step
    at_an_end = at_the_end or step == 0
    evaluates = at_an_end or due(config.eval_steps, step)
    if evaluates and run.held_out and observed.score(step) is None:
        with log.paused():
            found = evaluate_once(run, stop)
        assert found
        print_line(f"step {step:>6}  held-out {evaluation_line(found)}")
        record = {"step": step, **found.as_record()}
        log.record(record)
        observed.evaluations.append(record)
    samples = at_an_end or due(config.sample_steps or config.eval_steps, step)
    if samples and not observed.written(step):
        with log.paused():
            written = sample_once(run, prompts, stop)
        if samples_path:
            append_records(samples_path, *written)
        observed.samples += written
        if not at_an_end:
            print_line("\n".join(sample_line(record) for record in written))


def evaluate_once(run: Run, stop: Stop) -> Score | None:
    """The score on the held-out text, if there is one, with a progress bar."""
    if run.held_out is None:
        return None
    state = run.state
    return score_shown(state.model, run.held_out, run.tokenizer, state.precision, stop)


def score_shown(
    model: Any, data: Batches, tokenizer: Any, precision: Precision, stop: Stop
) -> Score:
    """`evaluation.scores.score`, with a progress bar. Raises `Stopped` if a signal comes."""
    n_batches = -(-len(data) // processes.size())  # of this process
    with bar(n_batches, "evaluating") as shown:

        def on_batch() -> None:
            shown.update()
            stop.check()

        return score(model, data, tokenizer, precision=precision, on_batch=on_batch)


def sample_once(run: Run, prompts: Sequence[Prompt], stop: Stop) -> Records:
    """The prompts, continued by the model."""
    model, autocast = run.state.model, run.state.precision.autocast
    sampling = Sampling(max_new_tokens=SAMPLE_NEW_TOKENS)
    texts = [begin(run.tokenizer, prompt.text, prompt.seed) for prompt in prompts]
    for text, prompt in zip(texts, prompts, strict=True):
        text.prompt_ids = list(prompt.ids or text.prompt_ids)
    with undisturbed(model):
        for first in range(0, len(texts), SAMPLES_AT_ONCE):
            batch = texts[first : first + SAMPLES_AT_ONCE]
            for _ in extend(model, run.tokenizer, batch, sampling, autocast=autocast):
                if processes.size() == 1:  # several might not check equally often
                    stop.check()
    step = run.state.step
    return [
        {"step": step, "prompt": text.prompt, "text": text.text, "seed": text.seed}
        for text in texts
    ]


def chosen_prompts(run: Run) -> Sequence[Prompt]:
    """The texts to continue: those named, else the beginning of the held-out text.

    Where conversations are learned, they are questions. Each has a seed, its own or that of the
    run.
    """
    found = []
    for named in run.config.sample_prompts:
        found += read_prompts(named) if os.path.isfile(named) else [Prompt(named)]
    if run.has_chats:
        found = [question(run.tokenizer, prompt) for prompt in found]
    if not found:
        found = [_beginning(run)]
    seed = run.config.seed
    return [p if p.seed is not None else p._replace(seed=seed) for p in found]


def _beginning(run: Run) -> Prompt:
    """The beginning of the first sample: what comes before an answer, else some tokens."""
    sample = (run.held_out or run.data).samples[0]
    n_shown = int((sample.get("labels", sample["input_ids"]) != IGNORED).argmax())
    if n_shown < 2:  # nothing comes before it that is not learned
        ids = sample["input_ids"][:SAMPLE_PROMPT_TOKENS]
        return Prompt(run.tokenizer.decode(ids, skip_special_tokens=True))
    ids = sample["input_ids"][:n_shown].tolist()
    return Prompt(run.tokenizer.decode(ids, skip_special_tokens=True), None, tuple(ids))
