"""A picture of the losses of runs, for papers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .run_folder import RunFolder

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito
FORMATS = (".png", ".svg", ".pdf")
SMOOTHING = 0.9


def plot_losses(runs: Sequence[RunFolder], output: Path, *, width: float = 5.5) -> None:
    """Draw training and held-out loss over the steps into a file: PNG, SVG or PDF.

    `width` is in inches. The training loss is an exponential moving average, with the losses
    themselves faint behind it. Raises `ValueError` for another format, or without matplotlib.
    """
    if output.suffix.lower() not in FORMATS:
        raise ValueError(f"-o {output} has no ending that can be drawn, use {', '.join(FORMATS)}")
    try:
        import matplotlib
    except ImportError as error:
        raise ValueError("this needs matplotlib: pip install 'gpt2ft[plot]'") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    style: Any = {
        **{"font.size": 9, "axes.spines.top": False, "axes.spines.right": False},
        **{"svg.fonttype": "none", "pdf.fonttype": 42, "axes.linewidth": 0.6},
    }
    with pyplot.rc_context(style):
        figure, axes = pyplot.subplots(figsize=(width, width * 0.6), layout="constrained")
        for number, run in enumerate(runs):
            _draw(axes, run, number, several=len(runs) > 1)
        axes.set_xlabel("step")
        axes.set_ylabel("loss (nats per token)")
        axes.grid(axis="y", linewidth=0.4, alpha=0.5)
        axes.legend(frameon=False)
        metadata = {"Date": None} if output.suffix.lower() == ".svg" else None
        figure.savefig(output, dpi=300, metadata=metadata)
        pyplot.close(figure)


def _draw(axes: Any, run: RunFolder, number: int, *, several: bool) -> None:
    steps, evaluations = run.curves.steps, run.curves.evaluations
    own = f"{run.name}, " if several else ""
    colour = COLOURS[number % len(COLOURS)]
    held_out = colour if several else COLOURS[1]
    losses = [(s, x) for s, x in zip(steps["step"], steps["loss"], strict=True) if x is not None]
    if losses:
        at, values = zip(*losses, strict=True)
        axes.plot(at, values, color=colour, linewidth=0.5, alpha=0.25)
        axes.plot(at, smoothed(values), color=colour, linewidth=1.2, label=f"{own}training")
    found = zip(evaluations["step"], evaluations["loss"], strict=True)
    if points := [(step, loss) for step, loss in found if loss is not None]:
        axes.plot(
            *zip(*points, strict=True),
            color=held_out,
            linewidth=1.2,
            linestyle="--" if several else "-",
            marker="o",
            markersize=3,
            label=f"{own}held-out",
        )


def smoothed(values: Sequence[float], weight: float = SMOOTHING) -> list[float]:
    """Exponential moving average, unbiased at its beginning."""
    total, weights, found = 0.0, 0.0, []
    for value in values:
        total = weight * total + (1 - weight) * value
        weights = weight * weights + 1 - weight
        found.append(total / weights)
    return found
