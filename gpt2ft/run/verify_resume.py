"""Whether resuming is exact: tried with the user's own model, data, settings and machine."""

from __future__ import annotations

import hashlib
import json
import tempfile
from typing import Any

import torch

from ..checkpoint import checkpoints, snapshot
from ..checkpoint.folders import find_checkpoint
from ..config import TrainConfig
from ..loop import train
from ..system.terminal import bar, print_line
from .build import Run, build
from .summary import description

Digests = dict[str, dict[str, str]]


def verify_resume(config: TrainConfig, *, steps: int = 3) -> int:
    """Train 2 x `steps` optimizer steps, and again with a stop in the middle; compare all bits.

    The second run saves a checkpoint in a temporary folder, and is built anew and resumed from
    there. Says what was compared; returns 0 if it is equal, 1 if not. Raises `ValueError` if the
    run has too few steps, and what its parts raise.
    """
    config.validate()
    run = build(config)
    print_line(description(run))
    if 2 * steps > run.max_steps:
        raise ValueError(
            f"--steps {steps} needs a run of {2 * steps} steps, this one has {run.max_steps}: add "
            f"--max_steps {2 * steps}"
        )
    print_line(f"steps 1 to {2 * steps} without a stop")
    straight = _trained(run, 2 * steps)
    del run  # before the next is built: two may be more than fits
    print_line(
        f"steps 1 to {steps}, a checkpoint, and steps {steps + 1} to {2 * steps} resumed from it"
    )
    with tempfile.TemporaryDirectory(prefix="gpt2ft-verify-") as folder:
        run = build(config)
        _trained(run, steps)
        checkpoints.save_checkpoint(folder, run.state, tokenizer=run.tokenizer, run=run.record())
        path, _ = find_checkpoint(folder)
        assert path
        del run
        run = build(config, path)
        checkpoints.load_checkpoint(path, run.state)
    resumed = _trained(run, 2 * steps)
    where = f"{run.state.precision.name} on {run.state.precision.device}"
    if _compared(straight, resumed):
        print_line(f"resuming is exact with {where}, torch {torch.__version__}")
        return 0
    print_line(f"resuming is NOT exact with {where}, torch {torch.__version__}")
    if _trained(build(config), 2 * steps) != straight:
        print_line(
            "two runs that are never stopped differ as well: this device's sums have no fixed order"
        )
    return 1


def _trained(run: Run, until: int) -> Digests:
    """Train up to that step; returns what the state is then."""
    state = run.state
    with bar(until, "training", unit="step", initial=state.step) as shown:
        for _ in train(state, run.data, max_steps=until, **run.loop_settings()):
            shown.update(state.step - shown.n)
    return {
        "weights": _digests(dict(state.model.named_parameters())),
        "moments": _digests(snapshot.optimizer_tensors(state)),
        "counters": _digests(snapshot.state_values(state)),
    }


def _digests(values: dict[str, Any]) -> dict[str, str]:
    """sha256 of each value, a tensor or what JSON can hold."""

    def data(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
        return json.dumps(value).encode()

    return {name: hashlib.sha256(data(value)).hexdigest() for name, value in values.items()}


def _compared(straight: Digests, resumed: Digests) -> bool:
    """Say of each part whether it is equal; returns whether all are."""
    for part, expected in straight.items():
        names = sorted(expected.keys() | resumed[part].keys())
        differ = [name for name in names if expected.get(name) != resumed[part].get(name)]
        digest = hashlib.sha256(json.dumps(resumed[part], sort_keys=True).encode()).hexdigest()
        verdict = f"{len(differ)} differ: {', '.join(differ[:5])}" if differ else "equal"
        print_line(f"{part:<14}{len(names):>5} values  sha256 {digest[:16]}  {verdict}")
    return straight == resumed
