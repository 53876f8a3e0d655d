"""One run from a configuration, told as a story: build, train, evaluate, save, report."""

from __future__ import annotations

import math
import shlex
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import checkpoint as checkpoints
from . import durable, report
from .building import Run, build, description
from .config import TrainConfig
from .loop import Evaluation, evaluate, train, undisturbed
from .optim import lr_at
from .output_folder import locked, refuse_changes, refuse_to_overwrite, starting_point
from .recipe import settings_of, to_yaml
from .sampling import stream
from .stopping import Stop, Stopped, listening
from .terminal import say

SAMPLE_PROMPT_TOKENS = 16
SAMPLE_NEW_TOKENS = 60
LEAST_SCALE = 2.0**-10


@dataclass(frozen=True)
class Observation:
    """How the model does at one step: on held-out text, if there is any, and when it writes."""

    evaluation: Evaluation | None = None
    sample: str = ""


@dataclass(frozen=True)
class Session:
    """A run, and what goes on around it."""

    run: Run
    output_dir: Path
    record: Mapping[str, Any]
    """What a checkpoint notes of settings and data, to refuse others when resuming."""
    log: report.TrainingReport
    stop: Stop


def finetune(config: TrainConfig) -> int:
    """Carry out a run; returns the exit status: 0, or 128 + signal if it was stopped.

    Raises what its parts raise: `ValueError`, `OSError`, `CheckpointError`, `FloatingPointError`.
    """
    config.validate()
    output_dir = Path(config.output_dir)
    checkpoint = starting_point(config, output_dir)
    run = build(config, checkpoint)
    record = {"config": settings_of(run.config), "data": run.digest}
    if checkpoint:
        refuse_changes(checkpoint, record)
    say(description(run))
    output_dir.mkdir(parents=True, exist_ok=True)
    with locked(output_dir), listening() as stop:
        if checkpoint:
            _go_back(checkpoint, run, output_dir)
        else:
            refuse_to_overwrite(config, output_dir)  # again: building took a while
            if config.overwrite_output_dir:
                checkpoints.clear(output_dir)
        durable.replace(output_dir / "config.yaml", to_yaml(run.config).encode())
        metrics = output_dir / "metrics.jsonl"
        if checkpoint and not metrics.exists():  # it goes on in another folder
            report.copy_records(checkpoint.parent / metrics.name, metrics)
        history = report.forget_after(metrics, run.state.step if checkpoint else -1)
        log = report.TrainingReport(
            metrics, run.state, max_steps=run.max_steps, logging_steps=config.logging_steps
        )
        session = Session(run, output_dir, record, log, stop)
        try:
            before = _observation(session, 0, history)
            _train(session)
            _finish(session, before, _observation(session, run.max_steps, history))
        except Stopped as stopped:
            return _stopped(session, stopped.signal)
        finally:
            log.close()
    return 0


def _go_back(checkpoint: Path, run: Run, output_dir: Path) -> None:
    """Bring the run to where the checkpoint was."""
    checkpoints.load_checkpoint(checkpoint, run.state)
    if checkpoint.resolve().parent == output_dir.resolve():
        run.saved_step = run.state.step
    say(f"resumed from {checkpoint}, step {run.state.step}")
    for path in checkpoints.set_aside_newer(output_dir, run.state.step):
        say(f"set aside: {path}")


def _observation(session: Session, step: int, history: list[dict[str, Any]]) -> Observation:
    """The model at that step: as it was noted then, or as it is now if this is that step."""
    for record in history:
        if record["step"] == step and "sample" in record:
            loss = record.get("eval_loss")
            evaluation = Evaluation(loss, record["n_targets"]) if loss is not None else None
            return Observation(evaluation, record["sample"])
    return _observe(session) if session.run.state.step == step else Observation()


def _observe(session: Session) -> Observation:
    """Evaluate, sample and note both; the training run does not notice."""
    run, stop = session.run, session.stop
    session.log.flush()
    with session.log.paused():
        evaluation = _evaluate(run, stop) if run.held_out else None
        sample = _sample(run, stop)
    record: dict[str, Any] = {"step": run.state.step, "sample": sample}
    if evaluation:
        say(f"step {run.state.step:>6}  held-out {report.evaluation_line(evaluation)}")
        record |= {
            "eval_loss": evaluation.loss,
            "eval_perplexity": evaluation.perplexity,
            "n_targets": evaluation.n_targets,
        }
    session.log.record(record)
    return Observation(evaluation, sample)


def _evaluate(run: Run, stop: Stop) -> Evaluation:
    """Loss on the held-out text, with a progress bar."""
    assert run.held_out
    with report.bar(len(run.held_out), "evaluating") as bar:

        def on_batch() -> None:
            bar.update()
            stop.check()

        return evaluate(
            run.state.model, run.held_out, precision=run.state.precision, on_batch=on_batch
        )


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


def _train(session: Session) -> None:
    """The loop, and what is done between its steps."""
    run, log = session.run, session.log
    state, config = run.state, run.config
    warmup_steps = config.warmup_steps or math.ceil(config.warmup_ratio * run.max_steps)
    session.stop.check()
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
        log.step(result, state)
        if result.skipped:  # reads it back from the device
            _check_scaler(run)
        else:
            done = state.step >= run.max_steps
            if config.eval_steps and state.step % config.eval_steps == 0 and not done:
                _observe(session)
            if state.step % config.save_steps == 0 or done:
                _save(session)
        session.stop.check()


def _check_scaler(run: Run) -> None:
    """In fp16 an overflow is the scaler's to deal with, as long as it has scales left to try."""
    scaler = run.state.scaler
    if not scaler.is_enabled() or scaler.get_scale() < LEAST_SCALE:
        raise FloatingPointError(
            f"a gradient is not finite at step {run.state.step}, the weights are those before it; "
            "try a lower --learning_rate, or go on from the last checkpoint"
        )


def _save(session: Session) -> None:
    """A checkpoint, unless there is one of this step."""
    run = session.run
    if run.saved_step == run.state.step:
        return
    session.log.flush()
    with session.log.paused():
        path = checkpoints.save_checkpoint(
            session.output_dir,
            run.state,
            tokenizer=run.tokenizer,
            run=session.record,
            keep=run.config.save_total_limit,
        )
    run.saved_step = run.state.step
    say(f"saved {path}")


def _finish(session: Session, before: Observation, after: Observation) -> None:
    """Put the finished model in its place, and say where."""
    run, output_dir = session.run, session.output_dir
    checkpoints.save_finished(output_dir, run.state, tokenizer=run.tokenizer)
    session.log.close()
    say()
    evaluations = (before.evaluation, after.evaluation)
    say(report.card(*evaluations, samples=(before.sample, after.sample)))
    say()
    say(f"saved to {output_dir}")
    say(f"generate: python generate.py -i --model_name_or_path {shlex.quote(str(output_dir))}")


def _stopped(session: Session, number: int) -> int:
    """Save where the run stands, and say how to go on; returns the exit status."""
    run, log = session.run, session.log
    done = f"stopped by {signal.Signals(number).name} after step {run.state.step}"
    if run.state.step:
        _save(session)
        log.close()
        folder = shlex.quote(run.config.output_dir)
        say(f"{done}; to go on: python train.py --output_dir {folder} --resume")
    else:
        log.close()
        say(f"{done}; nothing is lost, give the same command again")
    return 128 + number
