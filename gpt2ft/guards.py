"""Dropout from a seed, observation without side effects, updates that Ctrl-C cannot interrupt."""

from __future__ import annotations

import contextlib
import hashlib
import queue
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar, cast

import torch

T = TypeVar("T")


@contextlib.contextmanager
def seeded(device: torch.device, *numbers: int) -> Iterator[None]:
    """In here, what torch draws is a function of `numbers`.

    The generators of the CPU and of the device are seeded with a hash of the numbers. Afterwards
    they go on as if nothing had been drawn.
    """
    digest = hashlib.sha256(repr(numbers).encode()).digest()
    seed = int.from_bytes(digest[:8], "big")
    with _random_states_kept([device] if device.type == "cuda" else [], device.type == "mps"):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        elif device.type == "mps":
            torch.mps.manual_seed(seed)
        yield


@contextlib.contextmanager
def _random_states_kept(cuda: Sequence[Any], mps: bool) -> Iterator[None]:
    """After the block torch's generators go on as if nothing had been drawn in it.

    Those of the CPU, of these CUDA devices and, if `mps`, of Apple's device.
    """
    before = torch.mps.get_rng_state() if mps else None
    try:
        with torch.random.fork_rng(cuda):
            yield
    finally:
        if before is not None:
            torch.mps.set_rng_state(before)


@contextlib.contextmanager
def undisturbed(model: torch.nn.Module) -> Iterator[None]:
    """Model in evaluation mode without gradients; mode and torch's random states come back after.

    What happens inside leaves the training run bit-identical. It is not compiled: each shape of a
    batch, and each length of a text, would be compiled anew.
    """
    modes = {module: module.training for module in model.modules()}
    devices = range(torch.cuda.device_count())  # named, or torch warns where there are many
    states = _random_states_kept(devices, torch.backends.mps.is_available())
    # Only where something was compiled: to ask torch.compiler would load the compiler.
    compiles = "torch._dynamo" in sys.modules
    eager = torch.compiler.set_stance("force_eager") if compiles else contextlib.nullcontext()
    with states, torch.no_grad(), eager:
        model.eval()
        try:
            yield
        finally:
            for module, mode in modes.items():
                module.training = mode


def uninterrupted(work: Callable[[], T]) -> T:
    """The result of `work()`, which is done wholly or not at all, whenever Ctrl-C comes.

    Python raises `KeyboardInterrupt` in the main thread alone. So another thread does the work; the
    main thread waits until it is done, and raises then. (A second Ctrl-C ends the waiting.) In
    another thread, or where the program has its own handler for Ctrl-C, the work is done directly.
    """
    raises = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not raises or threading.current_thread() is not threading.main_thread():
        return work()
    task: queue.SimpleQueue[Callable[[], T] | None] = queue.SimpleQueue()
    outcome: Future[T | None] = Future()
    # Which stream is the current one is a property of a thread.
    stream = torch.cuda.current_stream() if torch.cuda.is_initialized() else None

    def run() -> None:
        todo = task.get()
        try:
            with torch.cuda.stream(stream):
                outcome.set_result(todo() if todo else None)
        except BaseException as error:
            outcome.set_exception(error)

    thread = threading.Thread(target=run, name="gpt2ft-update")
    try:
        thread.start()
        task.put(work)
        outcome.exception()  # waits; join() cannot be relied on once it was interrupted
    finally:  # also when interrupted, at any place above
        task.put(None)  # what comes first counts: without the work, the thread does nothing
        if thread.ident is not None:
            outcome.exception()
    return cast(T, outcome.result())
