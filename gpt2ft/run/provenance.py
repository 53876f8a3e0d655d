"""What a run was made with: written down, so that it can be shown, compared and made again."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import platform
import shlex
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..checkpoint.divided import is_divided
from ..checkpoint.folders import finished_weights
from ..config import TrainConfig
from ..evaluation.run_folder import RUN_FILE, read_object
from ..models.adapters import fingerprint
from ..parallel import processes
from ..settings import field_types, names_where
from ..system import durable
from .build import Run

LIBRARIES = ("torch", "transformers", "tokenizers", "datasets", "numpy")


def read_run_file(output_dir: Path) -> dict[str, Any]:
    """What is written down of the run in a folder; empty if nothing is."""
    return read_object(output_dir / RUN_FILE)


def begin_run_file(output_dir: Path, run: Run, *, asked: TrainConfig) -> None:
    """Write down a run that begins at its first step, or goes on; `asked` is what was given."""
    now = made_with(run)
    earlier = read_run_file(output_dir) if run.state.step else {}
    if "started" in earlier:
        then = {name: earlier.get(name) for name in now}
        entry: dict[str, Any] = {"at": _now(), "step": run.state.step}
        entry |= {name: value for name, value in now.items() if then[name] != value}
        facts = {**earlier, "resumed": [*earlier.get("resumed", []), entry]}
    else:
        facts = {
            "started": _now(),
            "first_step": run.state.step,
            "command": command_of(asked, earlier.get("fork")),
            **now,
            "data": dict(zip(("train", "held_out"), run.digests, strict=True)),
            "weights": {"before": weights_hash(run)},
            **earlier,
        }
    facts.pop("finished", None)
    _write(output_dir, facts)


def note_fork(output_dir: Path, folder: Path, step: int) -> None:
    """Write down of a run that is to begin which one it is a fork of."""
    _write(output_dir, {"fork": {"of": str(folder.resolve()), "step": step}})


def add_to_run_file(output_dir: Path, **facts: Any) -> None:
    """Write down more of a run, what is not empty."""
    added = {name: value for name, value in facts.items() if value}
    _write(output_dir, {**read_run_file(output_dir), **added})


def end_run_file(
    output_dir: Path, records: Sequence[Mapping[str, Any]], *, step: int
) -> dict[str, Any]:
    """Write down how a run ended, and return it all: `step` is that of the model in the folder."""
    facts = read_run_file(output_dir)
    records = [record for record in records if "loss" in record]
    facts["weights"] = {**facts.get("weights", {}), "after": finished_weights(output_dir)}
    facts |= {
        "finished": _now(),
        "steps": len(records),
        "step_of_the_model": step,
        "tokens": sum(record["n_targets"] for record in records),
        "seconds": round(sum(record.get("seconds") or 0 for record in records), 1),
    }
    _write(output_dir, facts)
    return facts


def made_with(run: Run) -> dict[str, Any]:
    """Versions, machine, threads and processes: what the last bits of a result depend on."""
    device = run.state.precision.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    return {
        "gpt2ft": __version__,
        "versions": {
            "python": platform.python_version(),
            **{library: version(library) for library in LIBRARIES},
        },
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "processor": _processor(),
            "cores": os.cpu_count(),
            "device": name,
        },
        "threads": run.config.threads,
        "processes": processes.size(),
    }


def command_of(config: TrainConfig, fork: Mapping[str, Any] | None = None) -> str:
    """The command line of a run: its settings that are not the defaults."""
    words = ["python", "train.py"]
    words += ["--fork", fork["of"], "--step", str(fork["step"])] if fork else []
    types, defaults = field_types(TrainConfig), TrainConfig()
    hidden = names_where(TrainConfig, "of_command")
    for field in dataclasses.fields(TrainConfig):
        value = getattr(config, field.name)
        if value == getattr(defaults, field.name) or field.name in hidden or value is None:
            continue
        if types[field.name][0] is bool:
            words.append(f"--{field.name}" if value else f"--no_{field.name}")
        else:
            values = value if isinstance(value, list) else [value]
            words += [f"--{field.name}", *map(str, values)]
    return shlex.join(words)


def weights_hash(run: Run) -> str | None:
    """xxh3 of all weights in their order; None if they are divided among processes."""
    if is_divided(run.state.model):
        return None
    return fingerprint(run.state.model)


def _processor() -> str:
    """The name of the processor, as the system has it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            lines = [line.partition(":")[2].strip() for line in file if "model name" in line]
    except OSError:  # no Linux
        lines = []
    return lines[0] if lines else platform.processor() or platform.machine()


def _now() -> str:
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")


def _write(output_dir: Path, facts: Mapping[str, Any]) -> None:
    data = json.dumps(facts, indent=1, ensure_ascii=False).encode()
    durable.replace(output_dir / RUN_FILE, data)
