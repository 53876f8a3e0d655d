"""Records of a run for TensorBoard, Weights & Biases and trackio, by the writer of each."""

from __future__ import annotations

import contextlib
import importlib
import io
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..config import TRACKERS
from ..system.terminal import print_line

PROJECT = "gpt2ft"
LOGS = "tensorboard"  # folder of the event files in the output folder
STEP = ("loss", "learning_rate", "grad_norm", "n_targets")
EVALUATION = ("eval_loss", "eval_perplexity", "bits_per_byte", "accuracy")

Record = Mapping[str, Any]
Log = Callable[[Mapping[str, float], int], None]


def scalars(record: Record) -> dict[str, float]:
    """What trackers are told of a record: `train/loss`, `eval/loss`, and so on."""
    if "eval_loss" in record:
        found = {f"eval/{name.removeprefix('eval_')}": record.get(name) for name in EVALUATION}
    elif "loss" not in record:  # not of a step, but of what changed before it
        return {}
    else:
        found = {f"train/{name}": record.get(name) for name in STEP}
        if seconds := record.get("seconds"):
            found["train/tokens_per_second"] = record["n_targets"] / seconds
        found["train/skipped"] = float(record.get("skipped", False))
    return {name: float(value) for name, value in found.items() if value is not None}


@contextlib.contextmanager
def tracked(
    names: Sequence[str], output_dir: Path, settings: Mapping[str, Any], *, first_step: int
) -> Iterator[list[Callable[[Sequence[Record]], None]]]:
    """Functions that take records for the trackers of these names; closed after the block.

    `first_step` is 0, or the step that a run goes on from. A tracker that fails says so once, and
    is left out from there on: the run does not end for it. Raises `ValueError` if one is not
    installed.
    """
    check_installed(names)
    with contextlib.ExitStack() as stack:
        trackers: list[Callable[[Sequence[Record]], None]] = []
        for name in names:
            if name == "none":
                continue
            manager = OPENED[name](output_dir, settings, first_step)
            try:
                with contextlib.redirect_stdout(io.StringIO()):
                    log = manager.__enter__()
            except Exception as error:
                print_line(_note(name, error))
                continue
            stack.callback(_close, name, manager)
            trackers.append(_Guarded(name, log))
        yield trackers


def _close(name: str, manager: contextlib.AbstractContextManager[Any]) -> None:
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            manager.__exit__(None, None, None)
    except Exception as error:
        print_line(_note(name, error))


def _note(name: str, error: Exception) -> str:
    return (
        f"note: {name} takes no records, {error}; the run goes on, and `gpt2ft track` can give "
        "them to it later"
    )


class _Guarded:
    """Gives records to a tracker until it fails."""

    def __init__(self, name: str, log: Log) -> None:
        self._name, self._log = name, log
        self._failed = False

    def __call__(self, records: Sequence[Record]) -> None:
        if self._failed:
            return
        try:
            for record in records:
                if values := scalars(record):
                    self._log(values, record["step"])
        except Exception as error:
            self._failed = True
            print_line(_note(self._name, error))


def check_installed(names: Sequence[str]) -> None:
    """Raise `ValueError` if a tracker is not installed."""
    for name in names:
        if name == "none":
            continue
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ValueError(
                f"--report_to {name} needs a library: pip install 'gpt2ft[{name}]'"
            ) from error


@contextlib.contextmanager
def _tensorboard(output_dir: Path, settings: Mapping[str, Any], first_step: int) -> Iterator[Log]:
    from torch.utils.tensorboard import SummaryWriter

    folder = output_dir / LOGS
    purge = first_step + 1 if first_step else None  # a run that goes on repeats those after it
    if not first_step:  # of a run that is no more, or the same records once more
        shutil.rmtree(folder, ignore_errors=True)
    with SummaryWriter(str(folder), purge_step=purge) as writer:
        told = "\n".join(f"    {name}: {value}" for name, value in settings.items())
        writer.add_text("settings", told, global_step=first_step)

        def log(values: Mapping[str, float], step: int) -> None:
            for name, value in values.items():
                writer.add_scalar(name, value, step)

        yield log


@contextlib.contextmanager
def _wandb(output_dir: Path, settings: Mapping[str, Any], first_step: int) -> Iterator[Log]:
    import wandb

    run = wandb.init(
        project=PROJECT,
        name=output_dir.resolve().name,
        dir=str(output_dir),
        config=dict(settings),
        settings=wandb.Settings(console="off", silent=True),
    )
    try:
        yield lambda values, step: run.log(dict(values), step=step)
    finally:
        run.finish()


@contextlib.contextmanager
def _trackio(output_dir: Path, settings: Mapping[str, Any], first_step: int) -> Iterator[Log]:
    import trackio

    trackio.init(
        project=PROJECT,
        name=output_dir.resolve().name,
        config={name: str(value) for name, value in settings.items()},
        resume="allow",
        embed=False,
        auto_log_gpu=False,
        auto_log_cpu=False,
    )
    try:
        yield lambda values, step: trackio.log(dict(values), step=step)
    finally:
        trackio.finish()


OPENED = {"tensorboard": _tensorboard, "wandb": _wandb, "trackio": _trackio}
assert OPENED.keys() == set(TRACKERS) - {"none"}
