"""The time machine: the model of any step, trained again from the checkpoint before it."""

from __future__ import annotations

import dataclasses
import shlex
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..checkpoint import checkpoints
from ..checkpoint.folders import checkpoint_folders, recorded_run, step_of
from ..checkpoint.manifest import ADAPTER_FILES, MODEL_FILES, CheckpointError, verify_checkpoint
from ..config import TrainConfig
from ..evaluation.records import METRICS, SAMPLES, copy_records, read_records
from ..loop import StepResult, train
from ..parallel import processes
from ..settings import names_where
from ..system import durable
from ..system.signals import Stop
from ..system.terminal import bar, print_line
from .build import Run, build
from .finetune import finetune
from .progress import Watch
from .provenance import note_fork

# The position in the data is counted in micro-batches: with others it would be another place.
KEPT_IN_A_FORK = ("block_size", "packing", "row_separator", "per_device_train_batch_size")


def rewind(folder: Path, step: int, target: Path, *, stop: Stop) -> int:
    """Put the model that the run in `folder` had after that step into `target`; returns 0.

    Raises `ValueError` if that cannot be, `Stopped` if a signal comes.
    """
    if any((target / name).exists() for name in (*MODEL_FILES, *ADAPTER_FILES)):
        raise ValueError(f"{target} holds a model already, name another folder with -o")
    run = run_at(folder, step, output_dir=target, stop=stop)
    durable.make_folder(target)
    checkpoints.save_finished(target, run.finished(), tokenizer=run.tokenizer)
    print_line(f"the model of step {step} is in {target}")
    print_line(f"generate: python generate.py -i --model_name_or_path {shlex.quote(str(target))}")
    return 0


def fork(config: TrainConfig, *, stop: Stop, watch: Sequence[Watch] = ()) -> int:
    """Carry out a run that begins as another one was at a step; returns the exit status.

    `config.fork` is the folder of that run, `config.step` the step. Raises as `rewind` and
    `finetune` do.
    """
    assert config.fork and config.step is not None
    folder, output_dir = Path(config.fork), Path(config.output_dir)
    if processes.size() > 1:
        raise ValueError(
            "--fork is begun by one process: stop it with Ctrl-C once it trains, and go on with "
            "several and --resume"
        )
    if output_dir.exists() and any(output_dir.iterdir()):
        raise ValueError(
            f"--output_dir {output_dir} is not empty, a fork needs a folder of its own"
        )
    durable.make_folder(output_dir.absolute().parent)
    with tempfile.TemporaryDirectory(dir=output_dir.absolute().parent, prefix=".fork-") as place:
        earlier = run_at(folder, config.step, output_dir=Path(place), stop=stop)
        record, tokenizer = earlier.record(), earlier.tokenizer
        path = checkpoints.save_checkpoint(place, earlier.state, tokenizer=tokenizer, run=record)
        del earlier  # before the next is built: two may be more than fits
        run = build(config, path)
        _refuse_another_position(record["config"], run.record()["config"])
        if config.step >= run.max_steps:
            raise ValueError(
                f"--fork at step {config.step} leaves nothing to train, the run has "
                f"{run.max_steps} steps: give more --max_steps"
            )
        options = [_options(group) for group in run.state.optimizer.param_groups]
        checkpoints.load_checkpoint(path, run.state)
        for group, new in zip(run.state.optimizer.param_groups, options, strict=True):
            group.update(new)
        run.state.seed = config.seed
        for name in (METRICS, SAMPLES):
            durable.make_folder(output_dir)
            copy_records(folder / name, output_dir / name)
        note_fork(output_dir, folder, config.step)
        checkpoints.save_checkpoint(output_dir, run.state, tokenizer=tokenizer, run=run.record())
        del run
    config = dataclasses.replace(config, fork=None, step=None, resume="newest")
    return finetune(config, stop=stop, watch=watch)


def _options(group: dict[str, Any]) -> dict[str, Any]:
    """What the user chose of an optimizer's group."""
    return {name: group[name] for name in ("lr", "weight_decay", "betas", "eps") if name in group}


def _refuse_another_position(then: dict[str, Any], now: dict[str, Any]) -> None:
    for name in KEPT_IN_A_FORK:
        if then[name] != now[name]:
            raise ValueError(
                f"--{name} is {now[name]}, but a fork keeps the {then[name]} of its run, as its "
                "place in the data is counted by that: leave it out"
            )
    if then["optimizer"] != now["optimizer"]:
        raise ValueError(
            f"--optimizer is {now['optimizer']}, but a fork goes on with the moments of its run, "
            f"which are of {then['optimizer']}: leave it out"
        )


def run_at(folder: Path, step: int, *, output_dir: Path, stop: Stop) -> Run:
    """The run in `folder` as it was after that step, its steps from the checkpoint before made
    again.

    Each loss is compared with the one that was recorded: where they differ, that is said.
    `output_dir` takes what the run writes meanwhile, if it streams its corpus. Raises `ValueError`
    if no checkpoint is at or before that step, or the corpus is another one now.
    """
    records = read_records(folder / METRICS)
    if records and step > (last := max(record["step"] for record in records)):
        raise ValueError(f"--step {step} is beyond the run in {folder}, which made {last} steps")
    checkpoint = _checkpoint_before(folder, step)
    record = recorded_run(checkpoint)
    known = {field.name for field in dataclasses.fields(TrainConfig)}
    settings = {name: value for name, value in record["config"].items() if name in known}
    for name in names_where(TrainConfig, "of_command"):
        settings.pop(name, None)
    divided = bool(settings.pop("fsdp", False))
    config = TrainConfig(**{**settings, "output_dir": str(output_dir)})
    run = build(config, checkpoint)
    if run.digests[0] != record["data"]:
        raise ValueError(
            f"the run in {folder} cannot be made again, the tokens of its corpus are others now"
        )
    checkpoints.load_checkpoint(checkpoint, run.state)
    n = step - run.state.step
    print_line(f"from {checkpoint}, {n} steps to make again" if n else f"step {step} was saved")
    if divided or not run.config.fixed_sum_order:
        print_line(
            "note: the run's gradients were added in another order: the last bits may differ"
        )
    _train_again(run, step, records, stop=stop)
    return run


def _checkpoint_before(folder: Path, step: int) -> Path:
    """The newest valid checkpoint at or before that step."""
    found = checkpoint_folders(folder)
    passed_over = []
    for path in found:
        if step_of(path) > step:
            continue
        try:
            verify_checkpoint(path)
        except CheckpointError as error:
            passed_over.append(str(error))
        else:
            return path
    if not found:
        raise ValueError(f"{folder} holds no checkpoint, name the output folder of a run")
    reasons = "".join(f"; {reason}" for reason in passed_over)
    kept = ", ".join(sorted({str(step_of(path)) for path in found}, key=int))
    raise ValueError(
        f"--step {step} is before any checkpoint in {folder} that can be used, those are of step "
        f"{kept}{reasons}: a run with --keep_every keeps more"
    )


def _train_again(run: Run, step: int, records: list[dict[str, Any]], *, stop: Stop) -> None:
    """Train up to that step, with the recorded learning rates, and compare the losses."""
    recorded = {record["step"]: record for record in records if "learning_rate" in record}
    schedule = run.loop_settings()["learning_rate"]

    def learning_rate(done: int) -> float:
        # A run that was made longer had another schedule before than after.
        rate: float = recorded.get(done + 1, {}).get("learning_rate") or schedule(done)
        return rate

    begin, differ = run.state.step, []
    results: list[StepResult] = []
    size = (
        "per_device_train_batch_size"  # recorded where the run began a step again in smaller ones
    )
    divided = [(r["step"] - 1, r[size]) for r in records if size in r and begin < r["step"] <= step]
    with bar(step, "training", unit="step", initial=begin) as shown:
        for until, smaller in [*divided, (step, None)]:
            settings = {**run.loop_settings(), "learning_rate": learning_rate}
            for result in train(run.state, run.data, max_steps=until, **settings):
                results.append(result)
                shown.update(run.state.step - shown.n)
                stop.check()
            if smaller:
                run.divide_micro_batches(smaller)
    for result in results:
        then = recorded.get(result.step, {}).get("loss")
        if then is not None and then != result.loss.item():
            differ.append((result.step, result.loss.item(), then))
    if differ:
        first, now, then = differ[0]
        print_line(
            f"note: the loss of step {first} is {now:.6f}, {then:.6f} was recorded: this machine, "
            "its versions or its number of threads are not those of the run, and the last bits "
            "differ"
        )
    elif results and all(result.step in recorded for result in results):
        print_line(f"each loss of steps {begin + 1} to {step} is the one that was recorded")
