"""Tensors of which each process holds some rows, in one file: all write it, any number reads it.

The file is safetensors, as it is for a model that one process holds. A process's rows of a tensor
are one piece of it, so each writes its own in their places, and none gathers a tensor: beyond what
it holds already it needs memory for the rows of one tensor at most. To load, it needs its part of
the weights, and twice that of the moments.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from ..parallel import processes
from ..parallel.sharding import is_sharded, of_own_rows, own_rows
from ..system import durable
from . import snapshot

if TYPE_CHECKING:
    from ..loop import TrainState

MODEL = "model.safetensors"
DTYPES = {
    **{torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"},
    **{torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8"},
    **{torch.uint8: "U8", torch.bool: "BOOL"},
}


def is_divided(model: torch.nn.Module) -> bool:
    """Whether each process holds only a part of the model."""
    return any(map(is_sharded, model.parameters()))


def save(state: TrainState, work: Callable[[], str]) -> str:
    """What `work()` returns, which saves the state, or a part of it.

    Where the model is divided, all processes call this, and those other than process 0 write what
    they hold when `work` comes to it.
    """
    if not is_divided(state.model):
        return work()
    return processes.on_main(work, lambda message: _assist(message, state))


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Create a file of tensors, as safetensors. Raises `OSError`.

    If some are divided, this is within the `work` of `save`, and the other processes assist.
    """
    if not any(map(is_sharded, tensors.values())):
        durable.write_tensors(path, {name: t.contiguous() for name, t in tensors.items()})
        return
    header, starts = _layout(tensors)
    durable.write(path, header)
    message = json.dumps([str(path), list(tensors)])
    processes.with_help(message, lambda: _write_own(path, tensors, starts))


def _assist(message: str, state: TrainState) -> None:
    """Write what this process holds of the tensors of a file that process 0 is writing."""
    path, names = json.loads(message)
    there = {**snapshot.named_tensors(state.model), **snapshot.optimizer_tensors(state)}
    there |= state.extra if names[0] in state.extra else {}
    tensors = {name: there[name] for name in names}
    try:
        _write_own(Path(path), tensors, _layout(tensors)[1])
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"process {processes.rank()} does not see {path}, where all processes save their parts "
            "of the model: name a folder that all machines share"
        ) from error


def _layout(tensors: Mapping[str, torch.Tensor]) -> tuple[bytes, dict[str, int]]:
    """The head of the file, and where in the file each tensor starts."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    stop = 0
    # The largest numbers first, so that all are aligned.
    for name, t in sorted(tensors.items(), key=lambda item: -item[1].element_size()):
        start, stop = stop, stop + t.numel() * t.element_size()
        entries[name] = {"dtype": DTYPES[t.dtype], "shape": list(t.shape)}
        entries[name]["data_offsets"] = [start, stop]
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    head = len(text).to_bytes(8, "little") + text
    return head, {name: len(head) + entries[name]["data_offsets"][0] for name in tensors}


def _write_own(path: Path, tensors: Mapping[str, torch.Tensor], starts: Mapping[str, int]) -> None:
    """Write the rows that this process has; process 0 also writes what is not divided."""

    def pieces() -> Iterator[tuple[int, Any]]:
        for name, tensor in tensors.items():
            local, start = tensor.detach(), starts[name]
            if is_sharded(tensor):
                local, rows = own_rows(local)
                start += rows.start * math.prod(tensor.shape[1:]) * tensor.element_size()
            elif processes.rank() > 0:
                continue
            yield start, local.contiguous().cpu().flatten().view(torch.uint8).numpy()

    durable.write_at(path, pieces())


def write_model(folder: Path, model: Any) -> None:
    """What `save_pretrained` writes into a folder, of a model that is divided."""
    names = _write_stand_ins(folder, model)
    durable.delete(folder / MODEL)
    tensors = snapshot.named_tensors(model)
    write_tensors(folder / MODEL, {name: tensors[name] for name in names})


def check_names(model: Any) -> None:
    """Raise `ValueError` if the files of this type of model have other tensors than its memory.

    All processes call this: transformers writes in process 0 alone.
    """

    def names() -> str:
        with tempfile.TemporaryDirectory(prefix="gpt2ft-names-") as folder:
            return " ".join(_write_stand_ins(Path(folder), model))

    processes.on_main(names)


def _write_stand_ins(folder: Path, model: Any) -> list[str]:
    """Let transformers save a number in the place of each tensor; returns the names that it used.

    It leaves out one of two names that are tied, and for some types of models it would rename
    tensors, or cut them in another way.
    """
    numbers: dict[int, torch.Tensor] = {}
    stand_ins = {
        name: numbers.setdefault(id(tensor), torch.tensor([float(len(numbers))]))
        for name, tensor in snapshot.named_tensors(model).items()
    }
    refusal = (
        f"{type(model).__name__} is saved with other tensors than it has in memory: such a model "
        "cannot be divided among processes yet"
    )
    try:
        durable.write_by(model.save_pretrained, folder, state_dict=dict(stand_ins))
    except OSError as error:
        if error.errno is not None:
            raise
        raise ValueError(refusal) from error  # transformers could not cut what are no matrices
    saved = load_file(folder / MODEL)
    same = all(torch.equal(t, stand_ins.get(n, t + 1)) for n, t in saved.items())
    if not same or {float(t) for t in saved.values()} != {float(t) for t in numbers.values()}:
        raise ValueError(refusal)
    return sorted(saved)


def read_model(path: Path, model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The weights of a model that is divided, by their names in memory: this process's rows."""
    own = snapshot.named_tensors(model)
    weights = read_tensors(path, own.get)
    by_tensor = {id(own[name]): weights[name] for name in weights if name in own}
    tied = {n: by_tensor[id(t)] for n, t in own.items() if n not in weights and id(t) in by_tensor}
    return {**weights, **tied}


def read_tensors(path: Path, like: Callable[[str], torch.Tensor | None]) -> dict[str, torch.Tensor]:
    """The tensors of a file; one that `like` gives a divided tensor for is divided as that is."""
    tensors: dict[str, torch.Tensor] = {}
    with safe_open(path, framework="pt") as file:
        names = file.keys()
        for name in names:
            own, part = like(name), file.get_slice(name)
            if own is None or not is_sharded(own) or list(own.shape) != part.get_shape():
                tensors[name] = file.get_tensor(name)
                continue
            rows = own_rows(own)[1]
            # safetensors refuses to read no rows
            local = part[rows.start : rows.stop] if rows else part[:1][:0]
            tensors[name] = of_own_rows(own, local)
    return tensors
