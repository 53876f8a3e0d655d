"""What the program changes in its process, and which of several it is."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence

from ..models.gguf_header import dequantised, is_gguf
from ..models.names import located
from ..system.hub import go_offline_if_unreachable
from ..system.signals import Stop
from ..system.terminal import be_quiet, printable, silence_libraries
from .run_settings import UsageError

SPINS = "1000"
WAITS_SILENTLY = 10  # seconds


def spin_briefly() -> None:
    """Have threads that wait for each other spin for a moment, then sleep.

    Call it before torch is loaded; variables that are already set are not overridden. By default
    libgomp, whose threads torch uses on Linux, spins three hundred times as long. On a machine that
    is busy with something else too, that takes the processor from the thread that is waited for.
    See `benchmarks/spinning.py`.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = SPINS


def silence_lost_connections() -> None:
    """Have torch not print a page of addresses where another process has ended: we say it.

    Call it before torch is loaded.
    """
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


def set_up_process(device: str, threads: int | None, *, library_bars: bool = True) -> None:
    """Threads, memory, and what the libraries say and ask; loads torch and transformers."""
    import torch

    from ..kernels.accelerate import keep_freed_memory
    from ..models.untrusted import never_ask
    from ..parallel import processes
    from ..precision import resolve_device

    silence_libraries(bars=library_bars)
    never_ask()
    is_many = launched_together() > 1 and under_torchrun()
    if threads is None and is_many and os.environ.get("OMP_NUM_THREADS") == "1":
        # torchrun's default, not the user's wish: the cores are for all processes of the machine.
        threads = max(1, processes.usable_cores() // int(os.environ["LOCAL_WORLD_SIZE"]))
    if threads is not None:
        torch.set_num_threads(threads)
    if resolve_device(device).type == "cpu":
        keep_freed_memory()


def launched_together() -> int:
    """How many processes `torchrun` has started, 1 without it. Raises `UsageError`."""
    from ..parallel import processes

    try:
        return processes.launched()
    except ValueError as error:
        raise UsageError(str(error)) from error


def meet(device: str, stop: Stop) -> None:
    """Meet the other processes of the run, if there are any; only one of them goes on speaking."""
    from ..parallel import processes
    from ..precision import resolve_device

    if (n := launched_together()) > 1:
        place = f"{os.environ['MASTER_ADDR']}, port {os.environ['MASTER_PORT']}"
        note = (
            f"gpt2ft: process {os.environ['RANK']} waits for the others, {n} in all, at {place}\n"
        )
        timer = threading.Timer(WAITS_SILENTLY, sys.stderr.write, [note])
        timer.daemon = True
        timer.start()
        try:
            processes.join(resolve_device(device))
        finally:
            timer.cancel()
    stop.agree = processes.largest
    if processes.rank() > 0:
        be_quiet()


def are_several() -> bool:
    """Whether other processes belong to the run: what one finds out, they may not."""
    from ..parallel import processes

    return processes.size() > 1


def under_torchrun() -> bool:
    """Whether torchrun has started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def whose_error(message: str, *, is_usage: bool) -> str | None:
    """Which process it is that has this error, in words; None if another one says the same."""
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return ""
    number = os.environ.get("RANK", "0")
    who = f" in process {number}" if number != "0" else ""
    if is_usage and under_torchrun():  # of the command, which torchrun gives to all
        return who if os.environ.get("LOCAL_RANK", "0") == "0" else None
    from ..parallel import processes

    return who if processes.first_to_say(message) else None


def ask_hub_once(names: Sequence[str | None]) -> None:
    """Ask the hub once, if any of the names is neither a folder, a GGUF file, nor built in."""
    local = [name is None or is_gguf(name) or os.path.isdir(located(name)) for name in names]
    if not all(local):
        go_offline_if_unreachable()


def say_dequantised(names: Sequence[str | None]) -> None:
    """Say on standard error which of the models are GGUF files, and what their weights become."""
    for name in filter(None, names):
        if said := dequantised(name):
            print(f"gpt2ft: {printable(said)}", file=sys.stderr)
