"""Whether the user's run gives the same bits on different numbers of processes."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ..config import TrainConfig
from ..parallel.processes import usable_cores
from ..system.terminal import print_line
from .recipe import SETTINGS_FILE, to_yaml

COMPARED = ("model.safetensors", "optimizer.safetensors")


def verify_processes(config: TrainConfig, *, counts: Sequence[int], steps: int = 3) -> int:
    """Train 2 x `steps` optimizer steps on each number of processes, and compare all bits.

    Then once more from the middle of each of these runs, resumed on the next number. Says what was
    compared; returns 0 if it is equal, 1 if not. Raises `ValueError` if a run fails, with its
    message.
    """
    config = dataclasses.replace(
        config,
        max_steps=2 * steps,
        save_steps=steps,
        max_eval_samples=1,
        eval_steps=None,
        device="cpu",
        threads=config.threads or max(1, usable_cores() // max(counts)),
        micro_batches_per_step=config.micro_batches_per_step
        or config.gradient_accumulation_steps * math.lcm(*counts),
    )
    config.validate()
    print_line(
        f"{2 * steps} steps of {config.micro_batches_per_step} micro-batches, on a CPU with "
        f"{config.threads} threads each"
    )
    digests = []
    with tempfile.TemporaryDirectory(prefix="gpt2ft-verify-") as folder:
        for count in counts:
            out = Path(folder) / str(count)
            settings = Path(folder) / f"{count}.yaml"
            settings.write_text(to_yaml(config), encoding="utf-8")
            _train(count, "--config", str(settings), "--output_dir", str(out))
            digests.append(_digest(out / f"checkpoint-{2 * steps}"))
            print_line(f"{_named(count):<36}sha256 {digests[-1][:16]}")
        for before, after in zip(counts, [*counts[1:], counts[0]], strict=True):
            out = Path(folder) / f"{before}-{after}"
            name = f"checkpoint-{steps}"
            shutil.copytree(Path(folder) / str(before) / name, out / name)
            shutil.copy(Path(folder) / str(before) / SETTINGS_FILE, out)
            _train(after, "--output_dir", str(out), "--resume")
            digests.append(_digest(out / f"checkpoint-{2 * steps}"))
            what = f"{_named(before)}, resumed on {after}"
            print_line(f"{what:<36}sha256 {digests[-1][:16]}")
    if len(set(digests)) == 1:
        print_line("all weights and moments are equal")
        return 0
    print_line("weights or moments are NOT equal")
    return 1


def _named(count: int) -> str:
    return "1 process" if count == 1 else f"{count} processes"


def _train(n_processes: int, *flags: str) -> None:
    """Start a run as `torchrun` does, and wait until it is done."""
    start = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(n_processes)]
    command = [sys.executable, "-m", *start, "-m", "gpt2ft", "train", *flags]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("gpt2ft: error")]
        raise ValueError(
            f"the run on {_named(n_processes)} failed: "
            f"{errors[0] if errors else done.stderr[-500:]}"
        )


def _digest(checkpoint: Path) -> str:
    digest = hashlib.sha256()
    for name in COMPARED:
        with open(checkpoint / name, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
