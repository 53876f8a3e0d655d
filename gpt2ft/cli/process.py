"""What the program changes in its process; a call of the library changes none of it."""

from __future__ import annotations

import os

from ..system.terminal import silence_libraries


def wait_without_spinning() -> None:
    """Have threads that wait for each other sleep, unless the environment says how to wait.

    To be called before torch is loaded. By default they spin, which on a machine that does
    something else too takes the processor from the thread that is waited for.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"} & os.environ.keys():
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"


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
