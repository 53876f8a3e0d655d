"""One run from a configuration, told as a story: build, train, evaluate, save, report."""

from __future__ import annotations

import contextlib
import math
import os
import shlex
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock
import yaml

from . import checkpoint as checkpoints
from . import report
from .building import Run, build, description
from .config import TrainConfig, changed_settings, save_config
from .loop import Evaluation, evaluate, train, undisturbed
from .optim import lr_at
from .report import say
from .sampling import stream
from .stopping import Stop, Stopped, listening

SAMPLE_PROMPT_TOKENS = 16
SAMPLE_NEW_TOKENS = 60


def finetune(config: TrainConfig) -> int:
    """Carry out a run; returns the exit status: 0, or 128 + signal if it was stopped.

    Raises what its parts raise: `ValueError`, `OSError`, `CheckpointError`, `FloatingPointError`.
    """
    config.validate()
    output_dir = Path(config.output_dir)
    checkpoint = starting_point(config, output_dir)
    run = build(config, checkpoint)
    say(report.printable(description(config, run)))
    output_dir.mkdir(parents=True, exist_ok=True)
    with _locked(output_dir), listening() as stop:
        if config.overwrite_output_dir:
            checkpoints.clear(output_dir)
        (output_dir / "config.yaml").write_text(save_config(config), encoding="utf-8")
        if checkpoint:
            checkpoints.load_checkpoint(checkpoint, run.state)
            run.saved_step = run.state.step
            say(f"resumed from {checkpoint}, step {run.state.step}")
        metrics = output_dir / "metrics.jsonl"
        history = report.forget_after(metrics, run.state.step if checkpoint else -1)
        log = report.TrainingReport(
            metrics, run.state, max_steps=run.max_steps, logging_steps=config.logging_steps
        )
        try:
            before = _before(run, log, history, stop)
            _train(config, run, log, output_dir, stop)
            _finish(run, log, output_dir, before, stop)
        except Stopped:
            return _stopped(config, run, log, output_dir, stop)
        finally:
            log.close()
    return 0


def starting_point(config: TrainConfig, output_dir: Path) -> Path | None:
    """The checkpoint to go on from, None for a fresh start.

    Raises `ValueError` where going on or starting would do harm: a run is there and neither
    `--resume` nor `--overwrite_output_dir` was given, or the configuration has changed.
    """
    if output_dir.exists() and not output_dir.is_dir():
        raise ValueError(f"--output_dir {output_dir} is a file, name a folder")
    if config.resume is None:
        if config.overwrite_output_dir:
            return None
        what = "a finished" if checkpoints.is_finished(output_dir) else "an unfinished"
        if what == "a finished" or checkpoints.checkpoints(output_dir):
            raise ValueError(
                f"--output_dir {output_dir} holds {what} run, go on with --resume or delete it "
                "with --overwrite_output_dir"
            )
        return None
    if config.resume == "auto":
        path, reasons = checkpoints.find_checkpoint(output_dir)
        for reason in reasons:
            say(f"passed over: {reason}")
        if path is None:
            raise ValueError(f"--resume found no checkpoint in {output_dir.resolve()}")
    else:
        path = Path(config.resume)
        checkpoints.verify_checkpoint(path)
    saved = output_dir / "config.yaml"
    if saved.is_file():
        changed = changed_settings(yaml.safe_load(saved.read_text(encoding="utf-8")), config)
        if changed:
            raise ValueError(f"--resume with another configuration, {'; '.join(changed)}")
    return path


def _before(run: Run, log: report.TrainingReport, history: Any, stop: Stop) -> Any:
    """Evaluation and sample of the untouched model; of a resumed run, those it had then."""
    for record in history:
        if record["step"] == 0 and "sample" in record:
            loss = record.get("eval_loss")
            known = Evaluation(loss, record["n_targets"]) if loss is not None else None
            return known, record["sample"]
    if run.state.step:
        return None, ""
    return _observe(run, log, stop)


def _observe(run: Run, log: report.TrainingReport, stop: Stop) -> tuple[Evaluation | None, str]:
    """Evaluate and sample; the training run does not notice."""
    log.flush()
    evaluation = None
    record: dict[str, Any] = {"step": run.state.step}
    if run.held_out:
        evaluation = evaluate(
            run.state.model, run.held_out, precision=run.state.precision, on_batch=stop.check
        )
        say(f"step {run.state.step:>6}  held-out {report.evaluation_line(evaluation)}")
        record |= {
            "eval_loss": evaluation.loss,
            "eval_perplexity": evaluation.perplexity,
            "n_targets": evaluation.n_targets,
        }
    sample = _sample(run, stop)
    log.record(record | {"sample": sample})
    return evaluation, sample


def _sample(run: Run, stop: Stop) -> str:
    """The beginning of a held-out sample, continued by the model."""
    ids = (run.held_out or run.data).samples[0]["input_ids"][:SAMPLE_PROMPT_TOKENS]
    prompt: str = run.tokenizer.decode(ids, skip_special_tokens=True)
    pieces = []
    with undisturbed(run.state.model):
        for piece in stream(
            run.state.model,
            run.tokenizer,
            prompt,
            seed=run.state.seed,
            max_new_tokens=SAMPLE_NEW_TOKENS,
            temperature=0.8,
            top_k=50,
            autocast=run.state.precision.autocast,
        ):
            stop.check()
            pieces.append(piece)
    return prompt + "".join(pieces)


def _train(
    config: TrainConfig, run: Run, log: report.TrainingReport, output_dir: Path, stop: Stop
) -> None:
    """The loop, and what is done between its steps."""
    state = run.state
    warmup_steps = config.warmup_steps or math.ceil(config.warmup_ratio * run.max_steps)
    stop.check()
    for result in train(
        state,
        run.data,
        max_steps=run.max_steps,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        learning_rate=lambda step: lr_at(
            step,
            max_steps=run.max_steps,
            learning_rate=config.learning_rate,
            warmup_steps=warmup_steps,
            schedule=config.lr_scheduler_type,
        ),
        max_grad_norm=config.max_grad_norm,
    ):
        if not state.scaler.is_enabled() and result.skipped:  # reads it back from the device
            raise FloatingPointError(
                f"step {result.step} has a gradient that is not finite, the weights are those "
                "before it; try a lower --learning_rate, or go on from the last checkpoint"
            )
        log.step(result, state)
        done = state.step >= run.max_steps
        with log.paused():
            if config.eval_steps and state.step % config.eval_steps == 0 and not done:
                _observe(run, log, stop)
            if state.step % config.save_steps == 0 or done:
                _save(config, run, log, output_dir)
        stop.check()


def _save(config: TrainConfig, run: Run, log: report.TrainingReport, output_dir: Path) -> None:
    if run.saved_step == run.state.step:
        return
    log.flush()
    path = checkpoints.save_checkpoint(
        output_dir, run.state, tokenizer=run.tokenizer, keep=config.save_total_limit
    )
    run.saved_step = run.state.step
    say(f"saved {path}")


def _finish(
    run: Run, log: report.TrainingReport, output_dir: Path, before: Any, stop: Stop
) -> None:
    """Evaluate, put the finished model in its place, and say where."""
    after = _observe(run, log, stop)
    checkpoints.save_finished(output_dir, run.state, tokenizer=run.tokenizer)
    log.close()
    say()
    say(report.card(before[0], after[0], (before[1], after[1])))
    say()
    say(f"saved to {output_dir}")
    say(f"generate: python generate.py -i --model_name_or_path {shlex.quote(str(output_dir))}")


def _stopped(
    config: TrainConfig, run: Run, log: report.TrainingReport, output_dir: Path, stop: Stop
) -> int:
    """Save where the run stands, and say how to go on."""
    log.log(run.state)
    number = stop.signal or 0
    done = f"stopped by {signal.Signals(number).name} after step {run.state.step}"
    if run.state.step:
        _save(config, run, log, output_dir)
        folder = shlex.quote(str(output_dir))
        log.close()
        say(f"{done}; to go on: python train.py --output_dir {folder} --resume")
    else:
        log.close()
        say(f"{done}; nothing is lost, give the same command again")
    return 128 + number


@contextlib.contextmanager
def _locked(output_dir: Path) -> Iterator[None]:
    """One run at a time writes into a folder. Raises `ValueError` naming the other."""
    path = output_dir / ".lock"
    lock = filelock.FileLock(path, blocking=False)
    try:
        lock.acquire()
    except filelock.Timeout:
        owner = path.read_text(encoding="utf-8").strip()
        raise ValueError(f"--output_dir {output_dir} is in use by process {owner}") from None
    try:
        path.write_text(f"{os.getpid()}\n", encoding="utf-8")
        yield
    finally:
        lock.release()
