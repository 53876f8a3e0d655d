"""Device, autocast dtype and gradient scaler; and how values come back from the device."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

import torch

from .parallel import processes

Note = TypeVar("Note")
Name = Literal["fp32", "bf16", "fp16"]
DTYPES: dict[str, torch.dtype | None] = {
    "fp32": None,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "int8": None,
}


@dataclass(frozen=True)
class Precision:
    """Where a run computes, and in which dtype its matrix products are.

    `dtype` is autocast's, None for plain fp32. In training, weights and optimizer
    moments are fp32 in any case. `int8` is for generating alone: linear layers get weights and
    inputs of 8-bit integers, everything else is fp32.
    """

    device: torch.device
    dtype: torch.dtype | None
    int8: bool = False

    @property
    def name(self) -> Name:
        """That of `dtype`."""
        names: dict[torch.dtype | None, Name] = {torch.bfloat16: "bf16", torch.float16: "fp16"}
        return names.get(self.dtype, "fp32")

    def autocast(self) -> torch.autocast:
        """Context of a forward pass; in fp32 it casts nothing."""
        # An interrupt that came when a forward pass ended may have left weights cast in the cache.
        torch.clear_autocast_cache()
        enabled = self.dtype is not None
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=enabled)

    def scaler(self) -> torch.amp.GradScaler:
        """A gradient scaler: enabled for fp16 alone, so that the step is one code path.

        Raises `ValueError` for int8, in which nothing is trained.
        """
        if self.int8:
            raise ValueError("precision int8 is for generating, use fp32 or bf16 to train")
        return torch.amp.GradScaler(self.device.type, enabled=self.dtype is torch.float16)


def resolve_device(name: str) -> torch.device:
    """The device of that name; `auto` is CUDA, else MPS, else the CPU.

    Under `torchrun`, `cuda` is the GPU whose number on the machine is that of the process, and
    `auto` is never MPS. Raises `ValueError` if it is no device, or is not there.
    """
    several = processes.launched() > 1
    if several and name not in ("auto", "cpu", "cuda"):
        raise ValueError(f"--device {name} cannot be used by several processes, use cuda or cpu")
    if name == "auto":
        if not torch.cuda.is_available():
            has_mps = torch.backends.mps.is_available() and not several
            return torch.device("mps" if has_mps else "cpu")
        name = "cuda"
    if name == "cuda" and several:
        if processes.local_rank() >= (n := torch.cuda.device_count()) > 0:
            raise ValueError(
                f"process {processes.local_rank()} of this machine has no GPU of its own, there "
                f"are {n}: start {n} processes a machine, or name --device cpu"
            )
        name = f"cuda:{processes.local_rank()}"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"--device {name} is no device, use auto, cpu or cuda") from error
    if device.type not in ("cpu", "cuda", "mps"):
        raise ValueError(f"--device {name} is not supported, use auto, cpu or cuda")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"--device {name} is not there, use auto or cpu")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError(f"--device {name} is not there, use auto or cpu")
    return device


def cpu_multiplies_bf16() -> bool:
    """Whether this CPU has bf16 products in hardware (AMX, AVX512-BF16); without, they are slow."""
    has = torch.cpu.get_capabilities()
    return bool(has.get("amx_bf16") or has.get("avx512_bf16"))


def cpu_multiplies_int8() -> bool:
    """Whether this CPU adds up int8 products in hardware (VNNI, AMX); without, fp32 is as fast."""
    has = torch.cpu.get_capabilities()
    return bool(has.get("avx512_vnni") or has.get("avx_vnni") or has.get("amx_int8"))


def resolve_precision(name: str, device: torch.device) -> Precision:
    """Precision `name` on the device; `auto` is fp16 on CUDA, bf16 where the CPU has it, else fp32.

    `int8` is for generating alone. Raises `ValueError` where the device cannot do it.
    """
    if name == "auto":
        if device.type == "cuda":
            name = "fp16"
        else:
            name = "bf16" if device.type == "cpu" and cpu_multiplies_bf16() else "fp32"
    if name == "fp16" and device.type != "cuda":
        raise ValueError(f"precision fp16 is not supported on {device.type}, use bf16 or fp32")
    if name == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise ValueError(f"precision bf16 is not supported by {device}, use fp16 or fp32")
    if name == "int8" and device.type != "cpu":
        raise ValueError(f"precision int8 is not supported on {device.type}, use fp16 or fp32")
    if name == "int8" and not cpu_multiplies_int8():
        raise ValueError("precision int8 is not supported by this CPU, it has no VNNI, use fp32")
    return Precision(device, DTYPES[name], int8=name == "int8")


class Readback(Generic[Note]):
    """Reads 0-d tensors back from the device without waiting for it.

    Each is handed over, with the note given along, when it has arrived on the host: on CUDA some
    steps later, on a CPU at once. On other devices `put` waits.
    """

    def __init__(self) -> None:
        self._coming: deque[tuple[torch.Tensor, torch.cuda.Event | None, Note]] = deque()

    def put(self, tensor: torch.Tensor, note: Note) -> None:
        """Send a tensor on its way to the host."""
        event = torch.cuda.Event() if tensor.is_cuda else None
        copy = tensor.to("cpu", non_blocking=event is not None)  # on CUDA into pinned memory
        if event is not None:
            event.record(torch.cuda.current_stream(tensor.device))
        self._coming.append((copy, event, note))

    def arrived(self, *, wait: bool = False) -> Iterator[tuple[float, Note]]:
        """What has arrived since the last call, in order, as numbers; with `wait` all of it."""
        while self._coming:
            copy, event, note = self._coming[0]
            if event is not None and wait:
                event.synchronize()
            elif event is not None and not event.query():
                return
            self._coming.popleft()
            yield copy.item(), note
