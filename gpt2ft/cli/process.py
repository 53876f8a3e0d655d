"""What the program changes in its process; a call of the library changes none of it."""

from __future__ import annotations

import os

from ..system.terminal import silence_libraries

SPINS = "1000"


def spin_briefly() -> None:
    """Have threads that wait for each other spin for a moment, then sleep.

    Call it before torch is loaded; variables that are already set are not overridden. By default
    libgomp, whose threads torch uses on Linux, spins three hundred times as long. On a machine that
    is busy with something else too, that takes the processor from the thread that is waited for.
    See `benchmarks/spinning.py`.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = SPINS


def set_up_process(device: str, threads: int | None) -> None:
    """Threads, memory, and what the libraries say and ask; loads torch and transformers."""
    import torch

    from ..kernels.accelerate import keep_freed_memory
    from ..models.untrusted import never_ask
    from ..precision import resolve_device

    silence_libraries()
    never_ask()
    if threads is not None:
        torch.set_num_threads(threads)
    if resolve_device(device).type == "cpu":
        keep_freed_memory()
