"""What the processes of a run must have alike: they are compared, and a difference is named."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch

from . import processes


def refuse_differences(settings: Mapping[str, Any]) -> None:
    """Raise `ValueError` unless all processes have the same; names the process and what differs.

    The names are the same in all of them, the values what JSON can hold.
    """
    first, *others = (json.loads(text) for text in processes.gather_text(json.dumps(settings)))
    for number, other in enumerate(others, 1):
        for name in first:
            if other[name] != first[name]:
                raise ValueError(
                    f"the processes of this run differ in {name}: process 0 has {first[name]}, "
                    f"process {number} has {other[name]}; start all with the same command, on "
                    "machines of the same kind, with the same versions and data"
                )


def refuse_other_shapes(model: torch.nn.Module) -> None:
    """Raise `ValueError` unless all processes have weights of the same names, shapes, dtypes."""
    weights = [f"{n} {tuple(t.shape)} {t.dtype}" for n, t in model.state_dict().items()]
    digest = hashlib.sha256("\n".join(weights).encode()).hexdigest()[:8]
    n = sum(p.numel() for p in model.parameters())
    refuse_differences({"their model": f"{n:,} parameters (shapes {digest})"})
