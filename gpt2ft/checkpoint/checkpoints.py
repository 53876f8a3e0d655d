"""Checkpoints: saved so that a crash at any instant leaves a good one, and loaded again."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from safetensors import SafetensorError

from ..optim import state_bytes
from ..system import durable
from . import divided, model_files, snapshot
from .folders import checkpoint_folders, checkpoint_paths, free_name, step_of
from .manifest import (
    ADAPTER_FILES,
    MANIFEST,
    MODEL_FILES,
    TRAINED,
    CheckpointError,
    read_json,
    verify_checkpoint,
    write_manifest,
)

if TYPE_CHECKING:
    from ..loop import TrainState

TEMPORARY, TRASH = ".saving-", ".trash-"
STATE = "state.json"
OPTIMIZER = "optimizer.safetensors"
EXTRA = "extra.safetensors"


def save_checkpoint(
    output_dir: str | Path,
    state: TrainState,
    *,
    tokenizer: Any = None,
    run: Mapping[str, Any] | None = None,
    keep: int = 2,
    spare: Callable[[int], bool] = lambda step: False,
) -> Path:
    """Save the state as `output_dir/checkpoint-STEP`, whole or not at all, and rotate.

    Everything is written and synced in a temporary folder beside it, the manifest last; then the
    folder gets its name. Only after that are older checkpoints deleted, until `keep` valid ones
    remain, and those of the steps that `spare` says yes to. An older one of the same step is
    renamed, and can be found until the new one is there.
    Of several processes one calls this; all do if the model is divided among them, see `shard`.
    `run` is recorded in the manifest. For a model that is not from transformers, or that has
    adapters, what is trained is saved, without the frozen weights. Raises `OSError` if the disk
    fails or is too small, `ValueError` if the state is one that could not be loaded again.
    """
    folder = Path(output_dir)
    return Path(
        divided.save(state, lambda: _save(folder, state, tokenizer, run or {}, keep, spare))
    )


def _save(
    output_dir: Path,
    state: TrainState,
    tokenizer: Any,
    run: Mapping[str, Any],
    keep: int,
    spare: Callable[[int], bool],
) -> str:
    durable.make_folder(output_dir)
    target = output_dir / f"checkpoint-{state.step}"
    values = snapshot.state_values(state)
    clear_leftovers(output_dir)
    check_space(output_dir, state)
    with _full_disk_explained(output_dir, state), _temporary_folder(output_dir) as folder:
        model_files.write(folder, state.model, tokenizer)
        if not model_files.is_whole(folder, state.model):
            model_files.write_trained(folder, state.model)
        divided.write_tensors(folder / OPTIMIZER, snapshot.optimizer_tensors(state))
        durable.write(folder / STATE, json.dumps(values).encode())
        if state.extra:
            extra = {name: t.detach() for name, t in state.extra.items()}
            divided.write_tensors(folder / EXTRA, extra)
        write_manifest(folder, state.step, run)
        if os.path.lexists(target):  # of the same step; it may be the only good one
            durable.rename(target, free_name(target, "replaced"))
        durable.rename(folder, target)
        durable.sync_folder(output_dir)
    _rotate(output_dir, target, keep, spare)
    return str(target)


def save_finished(output_dir: Path, state: TrainState, *, tokenizer: Any = None) -> None:
    """Put model and tokenizer into `output_dir` itself, where every tool looks for them.

    The old manifest is deleted first, the new one comes last: a folder that has one is finished.
    Of several processes one calls this; all do if the model is divided among them.
    """
    divided.save(state, lambda: _put_in_place(output_dir, state, tokenizer))


def _put_in_place(output_dir: Path, state: TrainState, tokenizer: Any) -> str:
    check_space(output_dir, state)
    with _full_disk_explained(output_dir, state), _temporary_folder(output_dir) as folder:
        model_files.write(folder, state.model, tokenizer)
        write_manifest(folder, state.step, {})
        durable.delete(output_dir / MANIFEST)
        durable.sync_folder(output_dir)
        for path in (output_dir / name for name in (*MODEL_FILES, *ADAPTER_FILES)):
            # A merged model takes the place of an adapter, which must not be found beside it.
            if path.is_file() and not (folder / path.name).exists():
                durable.delete(path)
        for path in sorted(folder.iterdir(), key=lambda path: path.name == MANIFEST):
            if path.name == MANIFEST:
                durable.sync_folder(output_dir)
            durable.rename(path, output_dir / path.name)
        durable.sync_folder(output_dir)
    return str(output_dir)


@contextlib.contextmanager
def _full_disk_explained(output_dir: Path, state: TrainState) -> Iterator[None]:
    """Say of a disk that fills up in here what is needed and what to do."""
    try:
        yield
    except OSError as error:
        need = _bytes_needed(state)
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        if not is_full and durable.free_bytes(output_dir) >= need:  # safetensors gives no number
            raise
        reason = os.strerror(error.errno) if error.errno else error
        explained = OSError(f"{reason} while saving: {_lacks_space(output_dir, need)}")
        explained.errno = error.errno
        raise explained from error


@contextlib.contextmanager
def _temporary_folder(output_dir: Path) -> Iterator[Path]:
    """A folder to save in; what is left of it afterwards is deleted."""
    folder = durable.temporary_folder(output_dir, TEMPORARY)
    try:
        yield folder
    finally:
        durable.delete(folder)


def clear(output_dir: Path) -> None:
    """Delete checkpoints, finished model and what a crash left in a folder, nothing else."""
    for path in checkpoint_folders(output_dir):
        _discard(path)
    try:
        files = list(read_json(output_dir / MANIFEST).get("files", {}))
    except CheckpointError:  # none, or a damaged one
        files = []
    for name in (MANIFEST, *files):
        if name == Path(name).name and (output_dir / name).is_file():  # never "..", nor a folder
            durable.delete(output_dir / name)
    clear_leftovers(output_dir)


def set_aside_newer(output_dir: Path, step: int) -> list[Path]:
    """Rename the checkpoints of later steps, when a run goes on from an earlier one.

    They belong to another continuation, and would be taken for this one's. Nothing is deleted;
    returns their new names.
    """
    moved = []
    for path in checkpoint_paths(output_dir):
        if step_of(path) > step:
            target = free_name(path.with_name(f"checkpoint-{step_of(path)}"), "aside")
            durable.rename(path, target)
            moved.append(target)
    durable.sync_folder(output_dir)
    return moved


def load_checkpoint(path: str | Path, state: TrainState) -> None:
    """Bring the state to where the checkpoint was: weights, moments, scaler, counters.

    The state's seed becomes that of the checkpoint. Take one that `find_checkpoint` returned, which
    verifies it. Raises `CheckpointError` if it does not fit the model, optimizer or precision; the
    first five differences are named.
    """
    path, model = Path(path), cast(Any, state.model)
    try:
        values = read_json(path / STATE)
        whole = not (path / TRAINED).exists()
        weights = (model_files.read if whole else model_files.read_trained)(path, model)
        parameters = snapshot.parameters_by_name(state)
        moments = divided.read_tensors(
            path / OPTIMIZER, lambda name: parameters.get(name.split("/", 1)[-1])
        )
        extra = {}
        if (path / EXTRA).exists():
            extra = divided.read_tensors(path / EXTRA, state.extra.get)
        snapshot.restore(state, values, weights, moments, extra, whole=whole)
    except (OSError, LookupError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"{path} does not fit this run, {error}") from error


def check_space(output_dir: Path, state: TrainState, *, checkpoints: int = 1) -> None:
    """Raise `OSError` unless there is room for so many checkpoints, and a fifth more."""
    need = checkpoints * _bytes_needed(state)
    if durable.free_bytes(output_dir) < need:
        raise OSError(_lacks_space(output_dir, need))


def checkpoint_bytes(state: TrainState) -> int:
    """About what a checkpoint takes: weights, the optimizer's state and `extra`."""
    weights = model_files.n_bytes(state.model)
    extra = sum(t.numel() * t.element_size() for t in state.extra.values())
    return int(weights + state_bytes(state.optimizer) + extra)


def _bytes_needed(state: TrainState) -> int:
    return int(1.2 * checkpoint_bytes(state))


def _lacks_space(output_dir: Path, need: int) -> str:
    free = durable.free_bytes(output_dir)
    return (
        f"{output_dir} has {free >> 20} MiB free, saving needs {(need >> 20) + 1} MiB, make room "
        "or name another --output_dir"
    )


def _rotate(output_dir: Path, newest: Path, keep: int, spare: Callable[[int], bool]) -> None:
    """Delete what is older than the newest `keep` valid checkpoints, and is not spared."""
    for path in checkpoint_paths(output_dir):
        if step_of(path) == step_of(newest) and path != newest:  # replaced by it
            _discard(path)
    valid = 0
    for path in checkpoint_folders(output_dir):
        if path == newest or (valid < keep and _is_valid(path)):
            valid += 1
        elif valid >= keep and not spare(step_of(path)):
            _discard(path)


def clear_leftovers(output_dir: Path) -> None:
    """Delete temporary folders and trash of a run that crashed; no other may be writing there."""
    for prefix in (TEMPORARY, TRASH):
        for path in output_dir.glob(f"{prefix}*"):
            durable.delete(path)


def _is_valid(path: Path) -> bool:
    """Whether it is valid; not reread if this process wrote it, as the loop waits meanwhile."""
    try:
        verify_checkpoint(path, reread=False)
    except CheckpointError:
        return False
    return True


def _discard(path: Path) -> None:
    """Rename before deleting: a checkpoint half deleted must not look like one."""
    trash = path.with_name(TRASH + path.name)
    durable.delete(trash)
    durable.rename(path, trash)
    durable.delete(trash)
