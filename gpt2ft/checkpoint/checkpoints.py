"""Checkpoints: saved so that a crash at any instant leaves a good one, and loaded again."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import PreTrainedModel

from ..system import durable
from . import snapshot
from .folders import checkpoint_folders, checkpoint_paths, free_name, step_of
from .manifest import (
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
) -> Path:
    """Save the state as `output_dir/checkpoint-STEP`, whole or not at all, and rotate.

    Everything is written and synced in a temporary folder beside it, the manifest last; then the
    folder gets its name. Only after that are older checkpoints deleted, until `keep` valid ones
    remain. An older one of the same step is renamed, and can be found until the new one is there.
    `run` is recorded in the manifest. For a model that is not from transformers, or that has
    adapters, what is trained is saved, without the frozen weights. Raises `OSError` if the disk
    fails or is too small, `ValueError` if the state is one that could not be loaded again.
    """
    output_dir = Path(output_dir)
    durable.make_folder(output_dir)
    target = output_dir / f"checkpoint-{state.step}"
    values = snapshot.state_values(state)
    clear_leftovers(output_dir)
    check_space(output_dir, state)
    with _full_disk_explained(output_dir, state), _temporary_folder(output_dir) as folder:
        _write_model(folder, state.model, tokenizer)
        if not _is_whole(folder, state.model):
            _write_trained(folder, state.model)
        durable.write_tensors(folder / OPTIMIZER, snapshot.optimizer_tensors(state))
        durable.write(folder / STATE, json.dumps(values).encode())
        if state.extra:
            extra = {name: t.detach().contiguous() for name, t in state.extra.items()}
            durable.write_tensors(folder / EXTRA, extra)
        write_manifest(folder, state.step, run or {})
        if os.path.lexists(target):  # of the same step; it may be the only good one
            durable.rename(target, free_name(target, "replaced"))
        durable.rename(folder, target)
        durable.sync_folder(output_dir)
    _rotate(output_dir, target, keep)
    return target


def save_finished(output_dir: Path, state: TrainState, *, tokenizer: Any = None) -> None:
    """Put model and tokenizer into `output_dir` itself, where every tool looks for them.

    The old manifest is deleted first, the new one comes last: a folder that has one is finished.
    """
    check_space(output_dir, state)
    with _full_disk_explained(output_dir, state), _temporary_folder(output_dir) as folder:
        _write_model(folder, state.model, tokenizer)
        write_manifest(folder, state.step, {})
        durable.delete(output_dir / MANIFEST)
        durable.sync_folder(output_dir)
        for path in sorted(folder.iterdir(), key=lambda path: path.name == MANIFEST):
            if path.name == MANIFEST:
                durable.sync_folder(output_dir)
            durable.rename(path, output_dir / path.name)
        durable.sync_folder(output_dir)


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
        weights = _read_model(path, model) if whole else load_file(path / TRAINED)
        moments = load_file(path / OPTIMIZER)
        extra = load_file(path / EXTRA) if (path / EXTRA).exists() else {}
        snapshot.restore(state, values, weights, moments, extra, whole=whole)
    except (OSError, LookupError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"{path} does not fit this run, {error}") from error


def _read_model(path: Path, model: Any) -> dict[str, torch.Tensor]:
    """The weights of a model of transformers, by their names in memory."""
    if not isinstance(model, PreTrainedModel):
        raise ValueError(f"it holds a model of transformers, not a {type(model).__name__}")
    # The file that was verified, whatever config.json names. By from_pretrained: for some models
    # transformers renames tensors between file and memory.
    file = path / "model.safetensors"
    loaded: Any = type(model).from_pretrained(
        None,
        config=model.config,
        state_dict=load_file(file),
        dtype=model.dtype,
        output_loading_info=True,
    )
    saved, info = loaded
    own = model.state_dict().keys()
    lost = sorted((info["missing_keys"] & own) | (info["unexpected_keys"] - own))
    if lost:
        raise ValueError(f"tensors are missing or extra: {', '.join(lost[:5])}")
    # Read once more: transformers may have changed in place what it was given.
    weights, tensors = saved.state_dict(), load_file(file)
    _undo_zeros(weights, tensors)
    # Tensors that somebody has added to the model: from_pretrained does not know them.
    added = {name: tensors[name] for name in info["unexpected_keys"]}
    return {name: t for name, t in {**weights, **added}.items() if name in own}


def _undo_zeros(weights: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor]) -> None:
    """Where transformers has set to zero what it had read, as Youtu's padding row, put it back.

    A tensor that differs in another way was transposed, and is right.
    """
    for name in weights.keys() & tensors.keys():
        loaded, read = weights[name], tensors[name]
        if loaded.shape == read.shape and not torch.equal(loaded, read):
            put_back = torch.where(loaded == 0, read, loaded)
            if torch.equal(put_back, read):
                loaded.copy_(read)


def check_space(output_dir: Path, state: TrainState, *, checkpoints: int = 1) -> None:
    """Raise `OSError` unless there is room for so many checkpoints, and a fifth more."""
    need = checkpoints * _bytes_needed(state)
    if durable.free_bytes(output_dir) < need:
        raise OSError(_lacks_space(output_dir, need))


def _bytes_needed(state: TrainState) -> int:
    """About what a checkpoint takes, and a fifth more."""
    weights = sum(p.numel() * p.element_size() for p in state.model.parameters())
    moments = sum(p.numel() * 8 for g in state.optimizer.param_groups for p in g["params"])
    extra = sum(t.numel() * t.element_size() for t in state.extra.values())
    return int(1.2 * (weights + moments + extra))


def _lacks_space(output_dir: Path, need: int) -> str:
    free = durable.free_bytes(output_dir)
    return (
        f"{output_dir} has {free >> 20} MiB free, saving needs {(need >> 20) + 1} MiB, make room "
        "or name another --output_dir"
    )


def _write_model(folder: Path, model: Any, tokenizer: Any) -> None:
    if hasattr(model, "save_pretrained"):
        durable.write_by(model.save_pretrained, folder, max_shard_size="1000GB")
    if tokenizer is not None:
        # Chat templates within tokenizer_config.json: a checkpoint has no folders.
        durable.write_by(tokenizer.save_pretrained, folder, save_jinja_files=False)


def _is_whole(folder: Path, model: Any) -> bool:
    """Whether the folder holds all of the model, as `_read_model` wants it."""
    written = all((folder / name).is_file() for name in MODEL_FILES)
    return written and isinstance(model, PreTrainedModel)


def _write_trained(folder: Path, model: torch.nn.Module) -> None:
    """What is trained of a model, where its own files are not all of it."""
    folders = sorted(path.name for path in folder.iterdir() if path.is_dir())
    if folders:
        raise ValueError(
            f"{type(model).__name__} saves folders, {', '.join(folders)}, which a checkpoint does "
            "not hold, name the adapter `default`"
        )
    tensors = snapshot.trained_tensors(model)
    durable.write_tensors(folder / TRAINED, {n: t.contiguous() for n, t in tensors.items()})


def _rotate(output_dir: Path, newest: Path, keep: int) -> None:
    """Delete what is older than the newest `keep` valid checkpoints."""
    for path in checkpoint_paths(output_dir):
        if step_of(path) == step_of(newest) and path != newest:  # replaced by it
            _discard(path)
    valid = 0
    for path in checkpoint_folders(output_dir):
        if path == newest or (valid < keep and _is_valid(path)):
            valid += 1
        elif valid >= keep:
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
