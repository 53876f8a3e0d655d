"""File operations that last through a power failure. All that saving does to the disk is here."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

import safetensors.torch
import torch

HASH_BYTES = 1 << 20


def write(path: Path, data: bytes) -> None:
    """Create a file, exclusively, with that content; `settle` makes it last."""
    with open(path, "xb") as file:
        file.write(data)


def replace(path: Path, data: bytes) -> None:
    """Put a small file in the place of another: after a crash it is the old or the new, whole."""
    new = path.with_name(f".{path.name}.new")
    delete(new)
    write(new, data)
    settle(new)
    rename(new, path)
    sync_folder(path.parent)


def write_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """The same for tensors, as safetensors."""
    safetensors.torch.save_file(tensors, path)


def settle(path: Path) -> dict[str, int | str]:
    """Bring a file to the disk for good; returns its size in bytes and its sha256."""
    path.chmod(0o666 & ~_umask())  # safetensors writes 0600
    with open(path, "rb+") as file:
        os.fsync(file.fileno())
    return {"size": path.stat().st_size, "sha256": sha256(path)}


def sha256(path: Path) -> str:
    """Hash of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while data := file.read(HASH_BYTES):
            digest.update(data)
    return digest.hexdigest()


def sync_folder(path: Path) -> None:
    """Bring the names in a folder to the disk: until then a rename may be undone."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def rename(source: Path, target: Path) -> None:
    """Rename within one file system: the target is the old or the new, never half."""
    os.replace(source, target)


def delete(path: Path) -> None:
    """Delete a file, or a folder with all that is in it; a name that is not there is no error."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def temporary_folder(parent: Path, prefix: str) -> Path:
    """A new folder, in the same file system as what it will become."""
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    folder.chmod(0o777 & ~_umask())
    return folder


def free_bytes(path: Path) -> int:
    """Bytes that may still be written where the path is."""
    return shutil.disk_usage(path).free


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
