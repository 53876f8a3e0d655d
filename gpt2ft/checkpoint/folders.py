"""The folders of a run's checkpoints: how they are named and found, and whether one is finished.

Loads no torch: the command line looks for finished runs, too.
"""

from __future__ import annotations

import hashlib
import math
import re
from pathlib import Path
from typing import Any

from .manifest import (
    ADAPTER_FILES,
    MANIFEST,
    MODEL_FILES,
    CheckpointError,
    read_json,
    verify_checkpoint,
)

# A checkpoint that is saved again is set aside as `.replaced-N` until the new one has its name.
NAME = re.compile(r"checkpoint-(\d+)(?:\.replaced-(\d+))?")


def checkpoint_paths(output_dir: Path) -> list[Path]:
    """Whatever is named as a checkpoint, newest first."""
    found = list(output_dir.iterdir()) if output_dir.is_dir() else []
    return sorted((p for p in found if step_of(p) >= 0), key=_age, reverse=True)


def checkpoint_folders(output_dir: Path) -> list[Path]:
    """Folders named as checkpoints, newest first; real folders only, no links."""
    return [
        path for path in checkpoint_paths(output_dir) if path.is_dir() and not path.is_symlink()
    ]


def step_of(path: Path) -> int:
    """The step in the name of a checkpoint, -1 for any other name."""
    return _age(path)[0]


def _age(path: Path) -> tuple[int, float]:
    """Orders checkpoints as they were saved, also those of one step."""
    match = NAME.fullmatch(path.name)
    if not match:
        return -1, 0
    return int(match[1]), int(match[2]) if match[2] else math.inf


def free_name(path: Path, why: str) -> Path:
    """`PATH.why-N`, where N is higher than that of any that is there."""
    taken = path.parent.glob(f"{path.name}.{why}-*")
    numbers = [int(n) for other in taken if (n := other.name.rpartition("-")[2]).isdecimal()]
    return path.with_name(f"{path.name}.{why}-{max(numbers, default=0) + 1}")


def find_checkpoint(output_dir: str | Path) -> tuple[Path | None, list[str]]:
    """The newest valid checkpoint, None if there is none, and why newer ones were passed over.

    Raises `CheckpointError` if there are some and none is valid: never a silent fresh start.
    """
    reasons = []
    for path in checkpoint_paths(Path(output_dir)):
        try:
            verify_checkpoint(path)
        except CheckpointError as error:
            reasons.append(str(error))
        else:
            return path, reasons
    if reasons:
        raise CheckpointError(
            f"no checkpoint in {output_dir} can be resumed: {'; '.join(reasons)}, "
            "start anew in another --output_dir"
        )
    return None, []


def recorded_run(path: Path) -> dict[str, Any]:
    """What `save_checkpoint` was given as `run`."""
    run: dict[str, Any] = read_json(path / MANIFEST).get("run", {})
    return run


def finished_weights(folder: Path) -> str | None:
    """sha256 of a finished model's file of weights; of several files, that of all their hashes.

    None if there is no finished model of ours. The files are not read: the manifest has the hashes.
    """
    try:
        files = read_json(folder / MANIFEST).get("files", {})
    except CheckpointError:
        return None
    hashes = [files[name]["sha256"] for name in sorted(files) if name.endswith(".safetensors")]
    if len(hashes) < 2:
        return hashes[0] if hashes else None
    return hashlib.sha256("".join(hashes).encode()).hexdigest()


def is_finished(output_dir: Path) -> bool:
    """Whether the folder holds a finished model of ours, or an adapter."""
    return any(
        all((output_dir / name).is_file() for name in (MANIFEST, *files))
        for files in (MODEL_FILES, ADAPTER_FILES)
    )
