"""The list of a folder's files with size and hash: by it a checkpoint is known to be whole."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import stat
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..system import durable

FORMAT = 2
MANIFEST = "manifest.json"
MODEL_FILES = ("config.json", "model.safetensors")
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
TRAINED = "trained.safetensors"
MAX_JSON_BYTES = 64 << 20

# Hashes of files this process has written or read: device, inode, size, time of change -> hash.
_known: dict[tuple[int, ...], str] = {}


class CheckpointError(RuntimeError):
    """A checkpoint cannot be used; the message says why."""


def write_manifest(folder: Path, step: int, run: Mapping[str, Any]) -> None:
    """Sync every file of the folder, and write and sync a manifest with their sizes and hashes.

    `run` is recorded too. The folder itself is synced last, so that the file names last as well.
    """
    paths = sorted(folder.iterdir())
    for path in paths:
        durable.sync_file(path)
    manifest = {
        "format": FORMAT,
        "step": step,
        "run": dict(run),
        "versions": {
            "python": platform.python_version(),
            "torch": version("torch"),
            "transformers": version("transformers"),
        },
        "files": {
            path.name: {"size": path.stat().st_size, "sha256": digest}
            for path, digest in zip(paths, _hashes(paths, reread=True), strict=True)
        },
    }
    durable.write(folder / MANIFEST, json.dumps(with_sha256(manifest), indent=1).encode())
    durable.sync_file(folder / MANIFEST)
    durable.sync_folder(folder)


def with_sha256(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest with a hash of its content, by which damage to the manifest is found."""
    content = {name: value for name, value in manifest.items() if name != "sha256"}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return {**content, "sha256": digest}


def verify_checkpoint(path: Path, *, reread: bool = True) -> dict[str, Any]:
    """Check every file against size and sha256 of the manifest, and return the manifest.

    Without `reread`, what this process has hashed before and nobody has changed since is not read
    again. Raises `CheckpointError` with the first thing that is wrong. The hashes detect damage,
    not an attacker.
    """
    if path.is_symlink():
        raise CheckpointError(f"{path} is a symbolic link, name the folder itself")
    manifest = read_json(path / MANIFEST)
    if (number := manifest.get("format")) != FORMAT:
        advice = ""
        if isinstance(number, int) and number > FORMAT:
            advice = ", update gpt2ft"
        elif isinstance(number, int):  # dropout was drawn in another way
            advice = (
                ": the run cannot go on, but a new one can start from its model, "
                f"--model_name_or_path {path}"
            )
        raise CheckpointError(f"{path} has format {number}, this version reads {FORMAT}{advice}")
    if with_sha256(manifest) != manifest:
        raise CheckpointError(f"{path / MANIFEST} is damaged, its sha256 is not the one recorded")
    files = manifest.get("files")
    if not isinstance(files, dict) or not (files.keys() >= set(MODEL_FILES) or TRAINED in files):
        raise CheckpointError(f"{path / MANIFEST} is damaged, it lists no model")
    expected = {n: entry if isinstance(entry, dict) else {} for n, entry in files.items()}
    try:
        _check_files(path, expected, reread=reread)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read, {error}") from error
    return manifest


def _check_files(path: Path, expected: Mapping[str, Mapping[str, Any]], *, reread: bool) -> None:
    for name, entry in expected.items():
        file = path / name
        if name != Path(name).name or os.path.islink(file) or not os.path.isfile(file):
            raise CheckpointError(f"{path} lacks {name}")
        size, written = file.stat().st_size, entry.get("size")
        if size != written:
            raise CheckpointError(f"{file} has {size} bytes, {written} were written")
    digests = _hashes([path / name for name in expected], reread=reread)
    for (name, entry), digest in zip(expected.items(), digests, strict=True):
        if digest != entry.get("sha256"):
            raise CheckpointError(f"{path / name} is damaged, its sha256 is not the one recorded")


def _hashes(paths: list[Path], *, reread: bool) -> list[str]:
    """sha256 of each file."""

    def key(path: Path) -> tuple[int, ...]:
        found = path.stat()
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns

    unknown = [path for path in paths if reread or key(path) not in _known]
    _known.update(zip(map(key, unknown), durable.sha256(unknown), strict=True))
    return [_known[key(path)] for path in paths]


def read_json(path: Path) -> dict[str, Any]:
    """An object from a file that is real and not too large. Raises `CheckpointError`."""
    try:
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_JSON_BYTES:
            raise CheckpointError(f"{path} is no regular file or too large")
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read, {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} is not an object")
    return values
