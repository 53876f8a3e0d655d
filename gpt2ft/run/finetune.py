"""One run from a configuration, told as a story: build, train, evaluate, save, report."""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..checkpoint import checkpoints
from ..checkpoint.divided import is_divided
from ..checkpoint.folders import checkpoint_folders, checkpoint_paths, recorded_run
from ..config import TrainConfig
from ..evaluation.records import METRICS, copy_records, forget_after, read_records
from ..loop import NonFiniteError, StepResult, train
from ..parallel import processes
from ..parallel.differences import refuse_differences
from ..precision import Readback
from ..system import durable
from ..system.signals import Stop, Stopped
from ..system.terminal import print_line
from . import progress
from .agreement import (
    decided_in_common,
    note_unshared,
    refuse_unseen,
    settings_in_common,
    weights_fingerprint,
)
from .build import Run, build
from .observe import Observation, observe, recorded_observation
from .output_folder import locked, refuse_changes, refuse_to_overwrite, starting_point
from .recipe import SETTINGS_FILE, to_yaml
from .summary import card, description, plan, warning
from .trouble import less_memory, not_finite, on_skipped


@dataclass(frozen=True)
class Session:
    """A run, and what goes on around it."""

    run: Run
    output_dir: Path
    record: Mapping[str, Any]
    """What a checkpoint notes of settings and data, to refuse others when resuming."""
    history: list[dict[str, Any]]
    """What metrics.jsonl holds of the steps before this process."""
    log: progress.TrainingReport
    stop: Stop


def finetune(config: TrainConfig, *, stop: Stop | None = None) -> int:
    """Carry out a run; returns the exit status: 0, or 128 + signal if it was stopped.

    A program that wants signals to be answered gives the `stop` that `signals.listening` makes.
    Raises what its parts raise: `ValueError`, `OSError`, `CheckpointError`, `FloatingPointError`;
    and `Stopped` if a signal comes before there is something to save.
    """
    config.validate()
    stop = stop or Stop()
    output_dir = Path(config.output_dir)
    found = checkpoint_paths(output_dir)
    refuse_differences(settings_in_common(config))
    chosen = processes.on_main(lambda: str(starting_point(config, output_dir) or ""))
    checkpoint = Path(chosen) if chosen else None
    refuse_unseen(checkpoint)
    run = build(config, checkpoint)
    record = run.record()
    refuse_differences(decided_in_common(run))
    if checkpoint:
        refuse_changes(checkpoint, record)
    print_line(description(run))
    print_line(plan(run))
    is_main = processes.rank() == 0  # which alone writes
    if is_main:
        durable.make_folder(output_dir)
    with locked(output_dir) if is_main else contextlib.nullcontext(), stop.postponed():
        if is_main and checkpoint and checkpoint_paths(output_dir) != found:
            raise ValueError(
                f"another run has saved in {output_dir} meanwhile, give the same command again"
            )
        if checkpoint:
            _go_back(checkpoint, run, output_dir)
        history = json.loads(
            processes.on_main(lambda: json.dumps(_prepare(config, run, checkpoint, output_dir)))
        )
        note_unshared(run, output_dir)
        log = progress.TrainingReport(
            output_dir / METRICS if is_main else None,
            run.state,
            max_steps=run.max_steps,
            logging_steps=config.logging_steps,
        )
        session = Session(run, output_dir, record, history, log, stop)
        try:
            return _carry_out(session)
        except Stopped as stopped:
            return _stopped(session, stopped)
        except torch.OutOfMemoryError as error:
            raise MemoryError(less_memory(run)) from error
        finally:
            log.close()


def _prepare(
    config: TrainConfig, run: Run, checkpoint: Path | None, output_dir: Path
) -> list[dict[str, Any]]:
    """Make the folder ready; returns the observations that were recorded before."""
    metrics = output_dir / METRICS
    if checkpoint:
        for path in checkpoints.set_aside_newer(output_dir, run.state.step):
            print_line(f"set aside: {path}")
        if not metrics.exists():  # it goes on in another folder
            copy_records(checkpoint.parent / METRICS, metrics)
    else:
        refuse_to_overwrite(config, output_dir)  # again: building took a while
        if config.overwrite_output_dir:
            checkpoints.clear(output_dir)
    checkpoints.clear_leftovers(output_dir)  # before free space is measured
    _check_space(run, output_dir)
    durable.replace(output_dir / SETTINGS_FILE, to_yaml(run.config).encode())
    records = forget_after(metrics, run.state.step if checkpoint else -1)
    return [record for record in records if "sample" in record]


def _check_space(run: Run, output_dir: Path) -> None:
    """Raise `OSError` unless there is room for all checkpoints that the run will hold at once."""
    saves = -(-(run.max_steps - run.state.step) // run.config.save_steps)
    there = len(checkpoint_folders(output_dir))
    more = min(saves, run.config.save_total_limit + 1 - there)
    checkpoints.check_space(output_dir, run.state, checkpoints=max(1, more))


def _carry_out(session: Session) -> int:
    """Observe, train, observe, and put the finished model in its place."""
    run, step = session.run, session.run.state.step
    before = _observation(session, 0)
    if 0 < step < run.max_steps and step % (run.config.eval_steps or step + 1) == 0:
        _observation(session, step)  # a signal may have come in the midst of it
    if step >= run.max_steps:
        print_line(f"all {run.max_steps} steps are done; to train further, give more --max_steps")
    _train(session)
    after = _observation(session, run.max_steps)
    session.stop.check()
    session.log.close()
    _by_writers(run, lambda: _put_in_place(session))
    print_line()
    evaluations = (before.evaluation, after.evaluation)
    print_line(card(*evaluations, samples=(before.sample, after.sample)))
    print_line()
    records = read_records(session.output_dir / METRICS)
    if processes.rank() == 0 and (warned := warning(records)):
        print_line(warned)
    print_line(f"saved to {session.output_dir}")
    folder = shlex.quote(str(session.output_dir))
    print_line(f"generate: python generate.py -i --model_name_or_path {folder}")
    return 0


def _put_in_place(session: Session) -> str:
    run = session.run
    checkpoints.save_finished(session.output_dir, run.state, tokenizer=run.tokenizer)
    return "saved"


def _go_back(checkpoint: Path, run: Run, output_dir: Path) -> None:
    """Bring the run to where the checkpoint was."""
    checkpoints.load_checkpoint(checkpoint, run.state)
    if checkpoint.resolve().parent == output_dir.resolve():
        run.saved_step = run.state.step
    print_line(f"resumed from {checkpoint}, step {run.state.step}")
    threads = recorded_run(checkpoint).get("config", {}).get("threads")
    if threads != run.config.threads:
        print_line(
            f"note: up to here the run had --threads {threads}, now it has {run.config.threads}: "
            "its last bits may differ from those of a run that was never stopped"
        )


def _observation(session: Session, step: int) -> Observation:
    """The model at that step: as it was noted then, or as it is now if this is that step."""
    known = recorded_observation(session.history, step)
    if known is None and session.run.state.step == step:
        known = observe(session.run, log=session.log, stop=session.stop)
    return known or Observation()


def _train(session: Session) -> None:
    """The loop, and what is done between its steps."""
    run, log, stop = session.run, session.log, session.stop
    state, config = run.state, run.config
    skips: Readback[StepResult] = Readback()
    stop.check()
    try:
        for result in train(state, run.data, max_steps=run.max_steps, **run.loop_settings()):
            log.step(result, state)
            done = state.step >= run.max_steps
            observes = bool(config.eval_steps) and state.step % (config.eval_steps or 1) == 0
            saves = state.step % config.save_steps == 0 or done
            skips.put(result.skipped, result)
            for skipped, late in skips.arrived(wait=saves or observes):
                if skipped:
                    on_skipped(run, late)
            if observes and not done:
                observe(run, log=log, stop=stop)
            if saves:
                _save(session)
            stop.check()
    except NonFiniteError as error:
        message = not_finite(run, error.result, ", the tenth in a row")
        raise FloatingPointError(message) from error


def _save(session: Session) -> None:
    """A checkpoint, unless there is one of this step."""
    run = session.run
    if run.saved_step == run.state.step:
        return
    refuse_differences({"their weights": weights_fingerprint(run)})
    try:
        session.log.flush()
    finally:  # records that cannot be written must not cost the checkpoint
        with session.log.paused():
            path = _by_writers(run, lambda: _saved(session))
        run.saved_step = run.state.step
        print_line(f"saved {path}")


def _by_writers(run: Run, save: Callable[[], str]) -> str:
    """Save in process 0, or in all if each holds a part of the model; returns what `save` does."""
    return save() if is_divided(run.state.model) else processes.on_main(save)


def _saved(session: Session) -> str:
    path = checkpoints.save_checkpoint(
        session.output_dir,
        session.run.state,
        tokenizer=session.run.tokenizer,
        run=session.record,
        keep=session.run.config.save_total_limit,
    )
    return str(path)


def _stopped(session: Session, stopped: Stopped) -> int:
    """Save where the run stands, and say how to go on; returns the exit status."""
    run, log = session.run, session.log
    done = f"{stopped} after step {run.state.step}"
    if run.state.step:
        _save(session)
        log.close()
        folder = shlex.quote(run.config.output_dir)
        print_line(f"{done}; to go on: python train.py --output_dir {folder} --resume")
    else:
        log.close()
        print_line(f"{done}; nothing is lost, give the same command again")
    return 128 + stopped.signal
