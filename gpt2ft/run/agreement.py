"""What the processes of one run must agree on, and the folder that all of them must see."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
import transformers

from .. import __version__
from ..checkpoint.divided import is_divided
from ..config import TrainConfig
from ..parallel import processes
from ..settings import names_where
from ..system.terminal import print_line
from .build import Run
from .recipe import SETTINGS_FILE


def settings_in_common(config: TrainConfig) -> dict[str, Any]:
    """What all processes of a run must have alike: all settings but places on their machines."""
    places = names_where(TrainConfig, "path") | {"device", "preprocessing_num_workers", "debug"}
    places |= {"output_dir"}
    settings = {k: v for k, v in dataclasses.asdict(config).items() if k not in places}
    versions = {
        "the version of gpt2ft": __version__,
        "the version of torch": torch.__version__,
        "the version of transformers": transformers.__version__,
    }
    return {**{f"--{name}": value for name, value in settings.items()}, **versions}


def decided_in_common(run: Run) -> dict[str, Any]:
    """What all must have alike of a run that is built: texts, length, and how they compute."""
    texts = dict(zip(("tokens", "held-out tokens"), run.digests, strict=True))
    decided = {f"--{name}": getattr(run.config, name) for name in ("precision", "threads")}
    return {**texts, **decided, "steps": run.max_steps, "first step": run.state.step}


def refuse_unseen(checkpoint: Path | None) -> None:
    """Raise `ValueError` if a machine does not see the checkpoint that process 0 has chosen."""
    seen = checkpoint is None or checkpoint.is_dir()
    for number, (sees,) in enumerate(processes.gather([seen])):
        if not sees:
            raise ValueError(
                f"process {number} does not see the checkpoint {checkpoint}: to resume, every "
                "machine needs the output folder, name one that all share"
            )


def note_unshared(run: Run, output_dir: Path) -> None:
    """Say it if another machine does not see the folder: from there it could not be resumed.

    Raises `ValueError` if each process is to write a part of the model there.
    """
    seen = (output_dir / SETTINGS_FILE).is_file()
    for number, (sees,) in enumerate(processes.gather([seen])):
        if not sees:
            what = f"process {number} does not see the output folder {output_dir.resolve()}"
            advice = "every machine needs the checkpoints, name a folder that all share"
            if is_divided(run.state.model):
                raise ValueError(f"{what}: with --fsdp {advice}")
            print_line(f"note: {what}: to resume, {advice}")
            return


def weights_fingerprint(run: Run) -> list[int]:
    """A number for each weight tensor that all have, which another bit in it changes."""
    if processes.size() == 1 or is_divided(run.state.model):
        return []
    ints = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    weights = (p.detach().flatten() for p in run.state.model.parameters())
    return [int(w.view(ints[w.element_size()]).sum(dtype=torch.int64)) for w in weights]
