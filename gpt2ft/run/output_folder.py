"""The folder a run writes into: what may be done with what is there, and by whom."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import filelock

from ..checkpoint import checkpoints
from ..checkpoint.folders import (
    checkpoint_folders,
    checkpoint_paths,
    find_checkpoint,
    is_finished,
    recorded_run,
)
from ..checkpoint.manifest import ADAPTER_FILES, MODEL_FILES, verify_checkpoint
from ..config import TrainConfig
from ..system.terminal import print_line
from .build import Run
from .recipe import HEADER, SETTINGS_FILE, changed_settings


def starting_point(config: TrainConfig, output_dir: Path) -> Path | None:
    """The checkpoint to go on from, None for a fresh start.

    With `resume` "auto" a run starts where there is none yet. Raises `ValueError` where starting
    would do harm, because something is in `output_dir`, or where there is nothing to resume;
    `CheckpointError` if no checkpoint is valid.
    """
    _check_writable(output_dir)
    if config.resume is None:
        refuse_to_overwrite(config, output_dir)
        return None
    if config.resume not in ("auto", "newest"):
        named = Path(config.resume)
        if not named.exists():
            there = ", ".join(path.name for path in checkpoint_folders(named.parent))
            raise ValueError(f"--resume {named} is not there, there are {there or 'none'}")
        verify_checkpoint(named)
        return named
    path, reasons = find_checkpoint(output_dir)
    for reason in reasons:
        print_line(f"passed over: {reason}")
    if path is None and config.resume == "auto":
        refuse_to_overwrite(config, output_dir)
    elif path is None:
        raise ValueError(
            f"--resume found no checkpoint in {output_dir.resolve()}: to start the run, leave out "
            "--resume"
        )
    return path


def _check_writable(output_dir: Path) -> None:
    """Raise `ValueError` if the folder cannot be made or written: building a run takes a while."""
    existing = next(path for path in (output_dir, *output_dir.parents) if os.path.lexists(path))
    what = f"--output_dir {output_dir} cannot be made, {existing}"
    if not existing.is_dir():
        raise ValueError(f"{what} is no folder, name another")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ValueError(f"{what} is not writable, name another")


def refuse_to_overwrite(config: TrainConfig, output_dir: Path) -> None:
    """Raise `ValueError` if something would be lost by starting a new run in `output_dir`."""
    if config.loaded_model and os.path.exists(config.loaded_model):
        model, here = Path(config.loaded_model).resolve(), output_dir.resolve()
        if here == model or here in model.parents:
            raise ValueError(f"--output_dir {output_dir} holds the model itself, name another")
    if config.overwrite_output_dir:
        return
    folder = shlex.quote(str(output_dir))
    replace = "or replace it with --overwrite_output_dir"
    ways = f"go on with --output_dir {folder} --resume, {replace}"
    if is_finished(output_dir):
        raise ValueError(
            f"--output_dir {output_dir} holds a finished run: name another folder, train it "
            f"further with --resume and more --max_steps or --num_train_epochs, {replace}"
        )
    # Links too: somebody moved one, and they lead to a run.
    if checkpoint_paths(output_dir):
        raise ValueError(f"--output_dir {output_dir} holds an unfinished run, {ways}")
    settings = output_dir / SETTINGS_FILE
    ours = settings.is_file() and settings.read_bytes().startswith(HEADER.encode())
    for name in (*MODEL_FILES, *ADAPTER_FILES, *(() if ours else (SETTINGS_FILE,))):
        if (output_dir / name).exists():
            raise ValueError(
                f"--output_dir {output_dir} holds a {name} that is not of a run, name another "
                "folder or replace it with --overwrite_output_dir"
            )


def refuse_changes(checkpoint: Path, record: Mapping[str, Any]) -> None:
    """Raise `ValueError` with the differences, if the run to be resumed was another one."""
    saved = recorded_run(checkpoint)
    then = saved.get("config", {})
    # What an earlier version did not know was as it is by default, but for what one process had.
    n = then.get("gradient_accumulation_steps")
    before = {**vars(TrainConfig()), "micro_batches_per_step": n, "fixed_sum_order": False}
    then = {**before, **then}
    changes = changed_settings(then, record["config"])
    if saved.get("data") != record["data"]:
        changes.append("the tokens of the corpus are others")
        if (files := then["train_file"]) != record["config"]["train_file"]:
            changes[-1] += f" (train_file: {files} then, {record['config']['train_file']} now)"
    if record["steps"] < saved.get("steps", 0):
        changes.append(f"steps: {saved['steps']} then, {record['steps']} now, they may only grow")
    if changes:
        raise ValueError(
            f"--resume with another configuration, {'; '.join(changes)}, undo that or start anew "
            "in another --output_dir"
        )


def check_space(run: Run, output_dir: Path) -> None:
    """Raise `OSError` unless there is room for all checkpoints that the run will hold at once."""
    more = checkpoints_at_once(run, there=len(checkpoint_folders(output_dir)))
    checkpoints.check_space(output_dir, run.state, checkpoints=more)


def checkpoints_at_once(run: Run, *, there: int = 0) -> int:
    """The most checkpoints that the run will hold at once, besides so many that are there."""
    config, left = run.config, run.max_steps - run.state.step
    newest = max(1, min(-(-left // config.save_steps), config.save_total_limit + 1 - there))
    return newest + config.save_best + (left // config.keep_every if config.keep_every else 0)


@contextlib.contextmanager
def locked(output_dir: Path) -> Iterator[None]:
    """One run at a time writes into a folder. Raises `ValueError` naming the other."""
    path = output_dir / ".lock"
    lock = filelock.FileLock(path, blocking=False)
    try:
        lock.acquire()
    except filelock.Timeout:
        owner = path.read_text(encoding="utf-8").strip()
        raise ValueError(
            f"--output_dir {output_dir} is in use by process {owner}, wait for it or name another"
        ) from None
    try:
        path.write_text(f"{os.getpid()}\n", encoding="utf-8")
        yield
    finally:
        lock.release()
