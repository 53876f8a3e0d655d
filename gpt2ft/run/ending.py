"""The end of a run: the finished model in its place, and what is said and written down of it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

from ..checkpoint import checkpoints
from ..checkpoint.manifest import CheckpointError, verify_checkpoint
from ..evaluation.card import CARD
from ..evaluation.records import METRICS, finite, read_records
from ..evaluation.run_folder import COPIES, REPORT
from ..parallel import processes
from ..system import durable
from ..system.terminal import print_line
from .build import Run
from .forecast import outcome
from .observe import Observed
from .provenance import add_to_run_file, end_run_file
from .reporting import write_report
from .summary import corpora, run_card, samples_text, warning

OF_THE_END = (CARD, REPORT, COPIES)  # files that tell of a run that is over


def put_in_place(
    run: Run, observed: Observed, output_dir: Path, *, save: Callable[[Callable[[], str]], object]
) -> None:
    """Put the finished model into the folder: the last, or with `save_best` the best.

    Afterwards `run.state` is that of this model. `save` calls what it is given in all processes
    that are to write.
    """
    best = observed.best_step() if run.config.save_best else None
    if best is not None and best != run.state.step:
        path = output_dir / f"checkpoint-{best}"
        if problem := processes.of_main(_problem(path)):
            print_line(f"note: the best model cannot be put there, {problem}; it is the last one")
        else:
            checkpoints.load_checkpoint(path, run.state)

    def finished() -> str:
        checkpoints.save_finished(output_dir, run.finished(), tokenizer=run.tokenizer)
        return "saved"

    save(finished)


def _problem(checkpoint: Path) -> str:
    """Why a checkpoint cannot be used, empty if it can."""
    if not checkpoint.is_dir():
        return f"{checkpoint.name} is not in this folder"
    try:
        verify_checkpoint(checkpoint)
    except CheckpointError as error:
        return str(error)
    return ""


def write_down(
    run: Run, observed: Observed, output_dir: Path, *, last: int, seconds: float
) -> None:
    """Write the card and the facts of the run beside its finished model.

    `last` is the last step, `seconds` what this process needed for training and observing.
    """
    if after := observed.score(run.state.step):
        card = run_card(run, observed.score(0), after).as_json()
        durable.replace(output_dir / CARD, json.dumps(finite(card), indent=1).encode())
    records = read_records(output_dir / METRICS)
    facts = end_run_file(output_dir, records, step=run.state.step)
    add_to_run_file(output_dir, corpora=corpora(run))
    if "resumed" not in facts:
        checkpoint = output_dir / f"checkpoint-{last}"
        found = outcome(run, facts.get("forecast", {}), checkpoint, seconds)
        add_to_run_file(output_dir, forecast=found)
    write_report(output_dir)


def conclusion(run: Run, observed: Observed, output_dir: Path, *, last: int) -> str:
    """What is said at the end: the card, samples, warnings, and where the model is.

    `last` is the last step of the run.
    """
    step = run.state.step
    parts = []
    if after := observed.score(step):
        parts.append(run_card(run, observed.score(0), after).text())
    parts.append(samples_text(observed.written(0), observed.written(step)))
    lines = [warning([r for r in observed.evaluations if r["step"] <= step])]
    if step != last:
        lines.append(
            f"the model is that of step {step}, the best on the held-out text; the last one is in "
            f"checkpoint-{last}"
        )
    if run.config.merge_lora:
        lines.append(f"merged: the folder holds a whole model; the adapter is in checkpoint-{last}")
    folder = shlex.quote(str(output_dir))
    chat = "--chat " if run.has_chats else ""
    lines += [
        f"saved to {output_dir}, with a report: {REPORT}",
        f"generate: python generate.py -i {chat}--model_name_or_path {folder}",
    ]
    parts.append("\n".join(filter(None, lines)))
    return "\n" + "\n\n".join(filter(None, parts))
