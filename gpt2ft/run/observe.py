"""How a run's model does at one step: on held-out text, and when it writes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..generation.config import Sampling
from ..generation.text import begin, extend
from ..guards import undisturbed
from ..loop import Evaluation, evaluate
from ..parallel import processes
from ..system.signals import Stop
from ..system.terminal import bar, print_line
from . import progress
from .build import Run
from .summary import evaluation_line

SAMPLE_PROMPT_TOKENS = 24
SAMPLE_NEW_TOKENS = 100


@dataclass(frozen=True)
class Observation:
    """Loss on the held-out text, if there is any, and a text of the model's own."""

    evaluation: Evaluation | None = None
    sample: str = ""


def recorded_observation(records: Iterable[Mapping[str, Any]], step: int) -> Observation | None:
    """The observation of that step among the records of metrics.jsonl."""
    for record in records:
        if record["step"] == step and "sample" in record:
            loss = record.get("eval_loss")
            evaluation = Evaluation(loss, record["n_targets"]) if loss is not None else None
            return Observation(evaluation, record["sample"])
    return None


def observe(run: Run, *, log: progress.TrainingReport, stop: Stop) -> Observation:
    """Evaluate, sample and note both; the training run does not notice.

    Raises `Stopped` if a signal comes.
    """
    log.flush()
    with log.paused():
        evaluation = _evaluate(run, stop) if run.held_out else None
        sample = _sample(run, stop)
    record: dict[str, Any] = {"step": run.state.step, "sample": sample}
    if evaluation:
        print_line(f"step {run.state.step:>6}  held-out {evaluation_line(evaluation)}")
        record |= {
            "eval_loss": evaluation.loss,
            "eval_perplexity": evaluation.perplexity,
            "n_targets": evaluation.n_targets,
        }
    log.record(record)
    return Observation(evaluation, sample)


def _evaluate(run: Run, stop: Stop) -> Evaluation:
    """Loss on the held-out text, with a progress bar."""
    assert run.held_out
    n_batches = -(-len(run.held_out) // processes.size())  # of this process
    with bar(n_batches, "evaluating") as shown:

        def on_batch() -> None:
            shown.update()
            stop.check()

        return evaluate(
            run.state.model, run.held_out, precision=run.state.precision, on_batch=on_batch
        )


def _sample(run: Run, stop: Stop) -> str:
    """The beginning of a held-out sample, continued by the model."""
    ids = (run.held_out or run.data).samples[0]["input_ids"][:SAMPLE_PROMPT_TOKENS]
    prompt: str = run.tokenizer.decode(ids, skip_special_tokens=True)
    text = begin(run.tokenizer, prompt, run.config.seed)
    sampling = Sampling(max_new_tokens=SAMPLE_NEW_TOKENS)
    model, autocast = run.state.model, run.state.precision.autocast
    with undisturbed(model):
        for _ in extend(model, run.tokenizer, [text], sampling, autocast=autocast):
            if processes.size() == 1:  # several might not check equally often
                stop.check()
    return text.prompt + text.text
