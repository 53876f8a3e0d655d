"""One run from a configuration, told as a story: build, train, evaluate, save, report."""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ..checkpoint import checkpoints
from ..checkpoint.divided import is_divided
from ..checkpoint.folders import checkpoint_paths, recorded_run
from ..config import TrainConfig
from ..data.batches import Batches
from ..data.prompts import Prompt
from ..evaluation.records import METRICS, SAMPLES
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
from .ending import OF_THE_END, conclusion, put_in_place, write_down
from .forecast import early_forecast, first_sample
from .memory import begun_again, check_memory
from .observe import Observed, chosen_prompts, due, observe, recorded
from .output_folder import check_space, locked, refuse_changes, refuse_to_overwrite, starting_point
from .provenance import add_to_run_file, begin_run_file
from .recipe import SETTINGS_FILE, to_yaml
from .summary import description, plan
from .trackers import check_installed, tracked
from .trouble import not_finite, on_skipped, out_of_memory


@dataclass(frozen=True)
class Session:
    """A run, and what goes on around it."""

    run: Run
    output_dir: Path
    observed: Observed
    prompts: Sequence[Prompt]
    log: progress.TrainingReport
    stop: Stop


def finetune(
    config: TrainConfig, *, stop: Stop | None = None, watch: Sequence[progress.Watch] = ()
) -> int:
    """Carry out a run; returns the exit status: 0, or 128 + signal if it was stopped.

    A program that wants signals to be answered gives the `stop` that `signals.listening` makes.
    Each of `watch` is called with the records of metrics.jsonl as they are made.
    Raises what its parts raise: `ValueError`, `OSError`, `CheckpointError`, `FloatingPointError`;
    and `Stopped` if a signal comes before there is something to save.
    """
    config.validate()
    check_installed(config.report_to)
    if config.auto_micro_batch and processes.size() > 1:
        raise ValueError("--auto_micro_batch is for one process, start it without torchrun")
    stop = stop or Stop()
    output_dir = Path(config.output_dir)
    found = checkpoint_paths(output_dir)
    refuse_differences(settings_in_common(config))
    chosen = processes.on_main(lambda: str(starting_point(config, output_dir) or ""))
    checkpoint = Path(chosen) if chosen else None
    refuse_unseen(checkpoint)
    run = build(config, checkpoint)
    prompts = chosen_prompts(run)
    record = run.record()
    refuse_differences(decided_in_common(run))
    if checkpoint:
        refuse_changes(checkpoint, record)
    print_line(description(run))
    print_line(plan(run))
    if run.has_chats:
        print_line(first_sample(run))
    check_memory(run)
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
        prepared = processes.on_main(
            lambda: json.dumps(vars(_prepare(config, run, checkpoint, output_dir)))
        )
        note_unshared(run, output_dir)
        observed = Observed(**json.loads(prepared))
        names = config.report_to if is_main else ()
        with tracked(names, output_dir, record["config"], first_step=run.state.step) as trackers:
            log = progress.TrainingReport(
                output_dir / METRICS if is_main else None,
                run.state,
                max_steps=run.max_steps,
                logging_steps=config.logging_steps,
                watch=[*watch, *trackers] if is_main else (),
            )
            return _to_an_end(Session(run, output_dir, observed, prompts, log, stop))


def _to_an_end(session: Session) -> int:
    """Carry out the run; what stops it is answered."""
    try:
        return _carry_out(session)
    except Stopped as stopped:
        return _stopped(session, stopped)
    except torch.OutOfMemoryError as error:
        raise MemoryError(out_of_memory(session.run)) from error
    finally:
        session.log.close()


def _prepare(config: TrainConfig, run: Run, checkpoint: Path | None, output_dir: Path) -> Observed:
    """Make the folder ready; returns what the run observed before."""
    if checkpoint:
        for path in checkpoints.set_aside_newer(output_dir, run.state.step):
            print_line(f"set aside: {path}")
    else:
        refuse_to_overwrite(config, output_dir)  # again: building took a while
        if config.overwrite_output_dir:
            checkpoints.clear(output_dir)
        for name in OF_THE_END:
            durable.delete(output_dir / name)
    checkpoints.clear_leftovers(output_dir)  # before free space is measured
    check_space(run, output_dir)
    durable.replace(output_dir / SETTINGS_FILE, to_yaml(run.config).encode())
    begin_run_file(output_dir, run, asked=config)
    return recorded(
        output_dir,
        run.state.step if checkpoint else -1,
        copied_from=checkpoint.parent if checkpoint else None,
    )


def _carry_out(session: Session) -> int:
    """Observe, train, observe, and put the finished model in its place."""
    run, observed, output_dir = session.run, session.observed, session.output_dir
    if run.state.step >= run.max_steps:
        print_line(f"all {run.max_steps} steps are done; to train further, give more --max_steps")
    _observe(session)  # also what was due when a signal came
    _train(session)
    _observe(session, at_the_end=True)
    session.stop.check()
    session.log.close()
    last = run.state.step
    put_in_place(run, observed, output_dir, save=lambda save: _by_writers(run, save))
    _observe(session, at_the_end=True)  # the best model may not have written yet
    if processes.rank() == 0:
        seconds = session.log.seconds + session.log.paused_seconds
        write_down(run, observed, output_dir, last=last, seconds=seconds)
    print_line(conclusion(run, observed, output_dir, last=last))
    return 0


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


def _observe(session: Session, *, at_the_end: bool = False) -> None:
    """Evaluate and sample if that is due now, or this is the end."""
    is_main = processes.rank() == 0
    observe(
        session.run,
        session.observed,
        log=session.log,
        stop=session.stop,
        prompts=session.prompts,
        samples_path=session.output_dir / SAMPLES if is_main else None,
        at_the_end=at_the_end,
    )


def _train(session: Session) -> None:
    """The loop, and what is done between its steps."""
    run, log, stop = session.run, session.log, session.stop
    state, config = run.state, run.config
    skips: Readback[tuple[StepResult, Batches]] = Readback()
    stop.check()
    if _stops_early(session):
        return
    try:
        for result in begun_again(run, train, log.record):
            log.step(result, state)
            if state.step == progress.FIRST_STEPS and processes.rank() == 0:
                expected = early_forecast(run, log.first_seconds, log.paused_seconds)
                add_to_run_file(session.output_dir, forecast=expected)
            done = state.step >= run.max_steps
            observes = due(config.eval_steps, state.step) or due(config.sample_steps, state.step)
            saves = due(config.save_steps, state.step) or due(config.keep_every, state.step) or done
            skips.put(result.skipped, (result, run.data))
            for skipped, (late, data) in skips.arrived(wait=saves or observes):
                if skipped:
                    on_skipped(run, late, data)
            if observes and not done:
                _observe(session)
            stops = observes and not done and _stops_early(session)
            if saves or stops or _is_best(session):
                _save(session)
            if stops:
                break
            stop.check()
    except NonFiniteError as error:
        message = not_finite(run, error.result, run.data, ", the tenth in a row")
        raise FloatingPointError(message) from error


def _is_best(session: Session) -> bool:
    """Whether this step's evaluation is the best so far, and its checkpoint is to be kept."""
    return session.run.config.save_best and session.observed.best_step() == session.run.state.step


def _stops_early(session: Session) -> bool:
    """Whether enough evaluations in a row were no better; says so."""
    patience, observed = session.run.config.early_stopping_patience, session.observed
    if patience is None or observed.since_best() < patience:
        return False
    print_line(
        f"step {session.run.state.step:>6}  stopped early: the held-out loss was lowest at step "
        f"{observed.best_step()}, {patience} evaluations ago; to go on, resume with a higher "
        "--early_stopping_patience"
    )
    return True


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
    config = session.run.config
    best = session.observed.best_step() if config.save_best else None
    path = checkpoints.save_checkpoint(
        session.output_dir,
        session.run.state,
        tokenizer=session.run.tokenizer,
        run=session.run.record(),
        keep=session.run.config.save_total_limit,
        spare=lambda step: due(config.keep_every, step) or step == best,
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
