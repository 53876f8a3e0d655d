"""File operations that last through a power failure. What a run does to its folder is here.

Each function that changes something is one operation: tests stop the process, or let it fail, at
every one of them.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

HASH_BYTES = 1 << 20


def write(path: Path, data: bytes) -> None:
    """Create a file, exclusively, with that content; `sync_file` makes it last."""
    with _errors_name(path), open(path, "xb") as file:
        file.write(data)


def append(path: Path, data: bytes) -> None:
    """Add to a file; nothing makes it last, a crash may take some of it."""
    # Not through a link: it might lead to a file that a shell reads when it starts.
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
    with _errors_name(path), open(os.open(path, flags, 0o666), "ab") as file:
        file.write(data)


def write_at(path: Path, pieces: Iterable[tuple[int, Any]]) -> None:
    """Write bytes into a file that is there, each piece at its offset, and bring it to the disk."""
    with _errors_name(path), open(path, "rb+") as file:
        for offset, data in pieces:
            file.seek(offset)
            file.write(data)
        file.flush()
        os.fsync(file.fileno())


def write_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Create a file of tensors, as safetensors. Raises `OSError`."""
    from safetensors import SafetensorError  # only where it is used: it loads torch
    from safetensors.torch import save_file

    try:
        save_file(tensors, path)
    except SafetensorError as error:
        raise OSError(f"{path} cannot be written, {error}") from error
    _give_usual_mode(path)


def write_by(save: Callable[..., object], folder: Path, **options: Any) -> None:
    """Let a library save its files into a folder. Raises `OSError`, whatever the library raises."""
    try:
        with _errors_name(folder):
            save(folder, **options)
    except OSError:
        raise
    except Exception as error:  # tokenizers knows no other
        raise OSError(f"{folder} cannot be written, {error}") from error
    for path in folder.iterdir():
        if path.is_file():
            _give_usual_mode(path)


def sync_file(path: Path) -> None:
    """Bring a file's content to the disk for good."""
    with _errors_name(path), open(path, "rb+") as file:
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Bring the names in a folder to the disk: until then a rename may be undone."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with _errors_name(path):
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


def create_folder(path: Path) -> None:
    """A folder, unless it is there."""
    path.mkdir(exist_ok=True)


def make_folder(path: Path) -> None:
    """A folder that lasts, and those above it."""
    if not path.is_dir():
        make_folder(path.parent)
        create_folder(path)
        sync_folder(path.parent)


def temporary_folder(parent: Path, prefix: str) -> Path:
    """A new folder, in the same file system as what it will become."""
    while True:
        folder = parent / f"{prefix}{secrets.token_hex(4)}"
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder


def replace(path: Path, data: bytes) -> None:
    """Put a small file in the place of another: after a crash it is the old or the new, whole."""
    new = path.with_name(f".{path.name}.new")
    delete(new)
    write(new, data)
    sync_file(new)
    rename(new, path)
    sync_folder(path.parent)


def sha256(paths: Sequence[Path]) -> list[str]:
    """Hash of each file's content, in hexadecimal; large ones side by side on several cores."""
    with ThreadPoolExecutor(max_workers=4) as pool:
        return list(pool.map(_sha256, paths))


def free_bytes(path: Path) -> int:
    """Bytes that may still be written where the path is."""
    return shutil.disk_usage(path).free


@contextlib.contextmanager
def _errors_name(path: Path) -> Iterator[None]:
    """Put the path into disk errors: those of writing and syncing an open file lack it."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while data := file.read(HASH_BYTES):
            digest.update(data)
    return digest.hexdigest()


def _give_usual_mode(path: Path) -> None:
    """Let whoever may read the folder read the file: safetensors makes files of mode 0600.

    The folder was made here, with the mode that the umask gives.
    """
    mode = path.parent.stat().st_mode & 0o666
    if path.stat().st_mode & 0o777 != mode:
        path.chmod(mode)
