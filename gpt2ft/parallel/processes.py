"""One process or many: which of them this is, what they tell each other, and who goes first.

`torchrun` starts the processes and sets the environment that is read here; `torch.distributed`
carries what they exchange. One process is the same code: there is nobody to ask or to wait for.
"""

from __future__ import annotations

import atexit
import contextlib
import datetime
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist

VARIABLES = ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
# A process that has ended is noticed at once: its connections close, and torchrun ends the others.
# A machine that has lost power or its network closes nothing. In a step, and where they meet, they
# wait for each other as long as this:
PATIENCE = datetime.timedelta(minutes=10)
# Where they agree, one may be tokenizing a large corpus, or saving:
LONG_PATIENCE = datetime.timedelta(days=7)
_store: Any = None  # where all processes can leave a word
_agreeing: Any = None  # the group of those who agree: numbers and texts, on the CPU

LOST = "another process of this run has ended or cannot be reached, see its own message"


class LostProcessError(ConnectionError):
    """Another process of this run has ended, or cannot be reached."""


def launched() -> int:
    """How many processes the environment says there are, 1 without `torchrun`.

    Raises `ValueError` if it names several, but not which of them this is.
    """
    size = _variable("WORLD_SIZE", 1)
    if size > 1 and (missing := [name for name in VARIABLES if not os.environ.get(name)]):
        raise ValueError(
            f"WORLD_SIZE is {size}, but {', '.join(missing)} is not set: start several processes "
            "with torchrun, or unset WORLD_SIZE"
        )
    return size


def usable_cores() -> int:
    """Cores of this machine that this process may use."""
    has_affinity = hasattr(os, "sched_getaffinity")  # Linux
    return len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1


def _variable(name: str, default: int) -> int:
    text = os.environ.get(name) or str(default)
    if not text.isdecimal():
        raise ValueError(f"the variable {name} is {text!r}, torchrun sets it to a whole number")
    return int(text)


def join(device: str | torch.device = "cpu") -> None:
    """Meet the other processes, if `torchrun` has started several; once is enough.

    On CUDA they exchange tensors by NCCL, and small numbers by gloo, as on a CPU. Raises
    `ValueError` if the environment is incomplete, `LostProcessError` if they do not all come.
    """
    if dist.is_initialized() or launched() == 1:
        return
    is_cuda = torch.device(device).type == "cuda"
    if is_cuda:
        torch.cuda.set_device(device)
    failures: list[Exception] = []

    def meet() -> None:
        try:
            with reaching():
                _meet("cpu:gloo,cuda:nccl" if is_cuda else "gloo")
        except Exception as error:
            failures.append(error)

    # In another thread: while the main thread waits for torch itself, Python answers no signal.
    thread = threading.Thread(target=meet, name="gpt2ft-meet", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.1)
    if failures:
        raise failures[0]
    atexit.register(leave)


def _meet(backend: str) -> None:
    global _store, _agreeing
    rendezvous = dist.rendezvous("env://", timeout=PATIENCE)  # type: ignore[attr-defined]
    _store, number, n = next(rendezvous)
    _store.set_timeout(PATIENCE)
    dist.init_process_group(backend, store=_store, rank=number, world_size=n, timeout=PATIENCE)
    _agreeing = dist.new_group(backend="gloo", timeout=LONG_PATIENCE)


def leave() -> None:
    """End the exchange with the other processes."""
    global _store, _agreeing
    if dist.is_initialized():
        with contextlib.suppress(RuntimeError):  # some may be gone
            dist.destroy_process_group()
    _store = _agreeing = None


def size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """The number of this process, from 0; process 0 writes files and speaks."""
    return dist.get_rank() if dist.is_initialized() else 0


def local_rank() -> int:
    """The number of this process on its machine, from 0."""
    return _variable("LOCAL_RANK", 0) if launched() > 1 else 0


def local_size() -> int:
    """How many processes of the run are on this machine."""
    return _variable("LOCAL_WORLD_SIZE", 1) if launched() > 1 else 1


def gather(numbers: Sequence[float]) -> list[list[float]]:
    """The numbers of each process, in the order of their ranks: as many from each."""
    if size() == 1:
        return [list(numbers)]
    own = torch.tensor(numbers, dtype=torch.float64)
    rows = [torch.empty_like(own) for _ in range(size())]
    wait_for(own, lambda: dist.all_gather(rows, own, group=_agreeing, async_op=True))
    return [[int(x) if x.is_integer() else x for x in row.tolist()] for row in rows]


def gather_text(text: str) -> list[str]:
    """The text of each process, in the order of their ranks."""
    data = text.encode()
    lengths = [int(n) for (n,) in gather([len(data)])]
    if size() == 1:
        return [text]
    own = torch.zeros(max(lengths), dtype=torch.uint8)
    own[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else own[:0]
    rows = [torch.empty_like(own) for _ in range(size())]
    wait_for(own, lambda: dist.all_gather(rows, own, group=_agreeing, async_op=True))
    pairs = zip(rows, lengths, strict=True)
    return [row[:length].numpy().tobytes().decode() for row, length in pairs]


def of_main(text: str) -> str:
    """The text of process 0."""
    return gather_text(text if rank() == 0 else "")[0]


def largest(number: int) -> int:
    """The largest of the numbers of all processes."""
    return int(max(number for (number,) in gather([number])))


def any_of(flags: Sequence[bool]) -> list[bool]:
    """For each place whether any process has true there; all have as many."""
    found = torch.tensor(flags, dtype=torch.uint8)
    if size() > 1:
        largest = dist.ReduceOp.MAX
        wait_for(found, lambda: dist.all_reduce(found, largest, group=_agreeing, async_op=True))
    return [bool(flag) for flag in found]


def on_main(work: Callable[[], str], assist: Callable[[str], None] | None = None) -> str:
    """What `work()` returns in process 0, where alone it is done, and where its errors are raised.

    The others then raise `LostProcessError`. In its midst, `work` may call `with_help`: then the
    others call `assist` with the message, and an error of theirs ends all, too.
    """
    error: BaseException | None = None
    while rank() > 0:
        outcome, text = of_main("").split(" ", 1)
        if outcome == "failed":
            raise error or LostProcessError(LOST)
        if outcome == "done":
            return text
        assert assist is not None
        error = _error_of(lambda text=text: assist(text))  # type: ignore[misc]
        any_of([error is not None])
    try:
        text = work()
    except BaseException:
        of_main("failed ")
        raise
    return of_main(f"done {text}").split(" ", 1)[1]


def with_help(message: str, own_part: Callable[[], None]) -> None:
    """Within the `work` of `on_main`: do a part of it here, while the others `assist`.

    Raises the error of this part, or `LostProcessError` if another process could not do its own.
    """
    of_main(f"help {message}")
    error = _error_of(own_part)
    (failed,) = any_of([error is not None])
    if failed:
        raise error or LostProcessError(LOST)


def _error_of(work: Callable[[], None]) -> BaseException | None:
    try:
        work()
    except BaseException as error:
        return error
    return None


def wait() -> None:
    """Wait until all processes are here."""
    gather([0])


def copy_from_main(tensors: Iterable[torch.Tensor]) -> None:
    """Give these tensors, in place, the values that process 0 has in them.

    Not those of which each process holds some rows.
    """
    wait()  # one may have been reading for a while
    for tensor in tensors if size() > 1 else ():
        if hasattr(tensor, "full_tensor"):
            continue
        data = tensor.detach().contiguous().flatten().view(torch.uint8)  # gloo lacks some dtypes
        wait_for(data, lambda data=data: dist.broadcast(data, 0, async_op=True))  # type: ignore[misc]
        tensor.detach().copy_(data.view(tensor.dtype).view(tensor.shape))


@contextlib.contextmanager
def first_on_its_machine() -> Iterator[None]:
    """One process of each machine does what is in the block, then the others of that machine do.

    For what is found in a cache the second time. If it fails in the first, the others learn of it
    when that process ends.
    """
    if local_rank() > 0:
        wait()
    yield
    if local_rank() == 0:
        wait()


def first_to_say(message: str) -> bool:
    """Whether no other process has asked this of the same message: what all find is said once."""
    try:
        return _store is None or int(_store.add(f"said {message}", 1)) == 1
    except RuntimeError:  # whoever keeps the store is gone
        return True


def wait_for(tensor: torch.Tensor, exchange: Callable[[], Any]) -> None:
    """Begin the exchange of a tensor, and wait until it is done.

    `exchange()` begins it and returns torch's handle. On a CPU signals are answered meanwhile; on
    CUDA it is the device that waits, not the host.
    """
    with reaching():
        work, start = exchange(), time.monotonic()
        while tensor.is_cpu and not work.is_completed():
            # A twentieth of the time that it took so far: short waits are not made longer.
            time.sleep(min(0.05, max(1e-5, (time.monotonic() - start) / 20)))
        work.wait()


@contextlib.contextmanager
def reaching() -> Iterator[None]:
    """Say of an exchange that fails what that means."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise LostProcessError(LOST) from error
