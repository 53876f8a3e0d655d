"""Which learning rate a run should have, found out by short runs that differ in nothing else."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from ..checkpoint.snapshot import named_tensors
from ..config import TrainConfig
from ..evaluation.card import PERCENT, difference
from ..evaluation.interval import FEWEST_UNITS
from ..evaluation.learning_rates import Findings, Trial, rate_at
from ..evaluation.scores import Score
from ..loop import StepResult, train
from ..parallel import processes
from ..precision import Readback
from ..system.signals import Stop, Stopped
from ..system.terminal import bar, print_line
from .build import Run, build, first_state
from .observe import evaluate_once
from .provenance import command_of
from .summary import description
from .trouble import less_memory, on_skipped

MOST_ADDED = 3  # rates beyond the range, where the lowest loss is at an end of it
SHARE, FEWEST_STEPS, MOST_STEPS = 10, 50, 500


def pilot(config: TrainConfig, *, n_rates: int = 5, steps: int | None = None, stop: Stop) -> int:
    """Try `n_rates` learning rates in runs of `steps` optimizer steps, and recommend one.

    The rates are a factor of 3.2 apart, around the one that the run would have. Each short run is
    what `finetune` does with that rate and `max_steps`, bit for bit: it has the first weights, data
    and seed of the run, and a whole schedule of its own, as a run is at its best only if its
    schedule ends where it does (Hoffmann et al. 2022; Hägele et al. 2024). `warmup_steps` are
    shortened with it. Where the lowest loss is at an end of the range, up to 3 rates are added
    beyond it, see `Findings.beyond`; a last one may lie between two others, see `halfway`. `steps`
    is by default a tenth of the run's, from 50 to 500. Nothing is kept.

    Returns 0, or 128 + signal if it was stopped; then it shows what was found so far. Raises
    `ValueError` if the held-out text is too small to tell rates apart, and what `build` raises.
    """
    config.validate()
    if processes.size() > 1:
        raise ValueError("pilot is for one process, start it without torchrun")
    findings, status = None, 0
    # Standard output is for the JSON alone.
    with contextlib.redirect_stdout(sys.stderr if config.json else sys.stdout):
        run = build(dataclasses.replace(config, dry_run=True))
        short = _shortened(run, steps)
        print_line(description(run))
        print_line(f"pilot  {short.max_steps:,} of the run's {run.max_steps:,} steps, at each rate")
        with stop.postponed():
            try:
                for found in _found(short, n_rates, stop):
                    findings = found
            except Stopped as stopped:
                status = 128 + stopped.signal
                print_line(f"{stopped}; nothing was kept")
            except torch.OutOfMemoryError as error:
                raise MemoryError(less_memory(short)) from error
    if findings and findings.trials:
        facts = _facts(findings, config, run.max_steps, short.max_steps, is_whole=status == 0)
        print_line(json.dumps(facts, indent=1) if config.json else _text(facts))
    return status


def _shortened(run: Run, steps: int | None) -> Run:
    """The run with fewer steps, and its warm-up in proportion."""
    if steps is None:
        steps = min(run.max_steps, max(FEWEST_STEPS, min(MOST_STEPS, run.max_steps // SHARE)))
    if steps > run.max_steps:
        raise ValueError(
            f"--pilot_steps is {steps}, but the run has {run.max_steps} steps, give fewer"
        )
    warmup_steps = math.ceil(run.config.warmup_steps * steps / run.max_steps)
    config = dataclasses.replace(run.config, max_steps=steps, warmup_steps=warmup_steps)
    return dataclasses.replace(run, config=config, max_steps=steps)


def _found(short: Run, n_rates: int, stop: Stop) -> Iterator[Findings]:
    """What is found after each short run, and said; the model has its first weights at the end."""
    if not (own_rate := short.config.learning_rate):
        raise ValueError("--learning_rate is 0, give the middle of the range to try")
    model, rates = short.state.model, _range(own_rate, n_rates)
    tensors = named_tensors(model)
    weights = {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}
    findings = Findings(_checked(evaluate_once(short, stop)), own_rate)
    print_line(f"{'before':>10}  held-out loss {findings.before.loss:.4f}")
    try:
        while rate := _next(findings, rates):
            _put_back(model, weights)
            trial = _tried(short, rate, findings.before, stop)
            said = trial.trouble or f"held-out loss {trial.loss:.4f}"
            print_line(f"{rate:>10g}  {said}")
            trials = sorted([*findings.trials, trial], key=lambda trial: trial.rate)
            findings = dataclasses.replace(findings, trials=trials)
            yield findings
    finally:
        _put_back(model, weights)


def _range(middle: float, n: int) -> list[float]:
    """So many rates a factor apart, in the order in which they are tried: from the middle on."""
    exponents = sorted(range(-(n // 2), n - n // 2), key=lambda exponent: (abs(exponent), exponent))
    return [rate_at(middle, exponent) for exponent in exponents]


def _next(findings: Findings, rates: Sequence[float]) -> float | None:
    """The rate to try next, None if all is done."""
    n = len(findings.trials)
    if n < len(rates):
        return rates[n]
    beyond = findings.beyond() if n < len(rates) + MOST_ADDED else None
    return beyond or findings.halfway()


def _checked(before: Score | None) -> Score:
    """The score; raises `ValueError` if its text is too small for intervals."""
    n = len(before.units.losses) if before else 0
    if before is None or n < FEWEST_UNITS:
        found = f"{n} {before.units.kind}" if before else "no text"
        raise ValueError(
            f"{found} held out, {FEWEST_UNITS} are needed to tell learning rates apart: name a "
            "longer --validation_file, or give a higher --validation_split_percentage or a lower "
            "--block_size"
        )
    return before


def _put_back(model: torch.nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    with torch.no_grad():
        for name, tensor in named_tensors(model).items():
            tensor.copy_(weights[name])


def _tried(short: Run, rate: float, before: Score, stop: Stop) -> Trial:
    """Carry out the short run at that rate."""
    config = dataclasses.replace(short.config, learning_rate=rate)
    state = first_state(config, short.state.model, short.state.precision)
    short = dataclasses.replace(short, config=config, state=state)
    steps = train(state, short.data, max_steps=short.max_steps, **short.loop_settings())
    skips: Readback[StepResult] = Readback()
    try:
        with bar(short.max_steps, f"rate {rate:g}", unit="step") as shown:
            for result in steps:
                skips.put(result.skipped, result)
                for skipped, late in skips.arrived(wait=state.step == short.max_steps):
                    if skipped:
                        on_skipped(short, late, short.data)
                shown.update()
                stop.check()
    except FloatingPointError:
        return Trial(rate, None, f"diverges: loss or gradient not finite by step {state.step}")
    score = evaluate_once(short, stop)
    assert score
    if not math.isfinite(score.loss):
        return Trial(rate, None, "diverges: the held-out loss is not finite")
    change = difference(score, before)
    worse = change is not None and change.low > 0
    return Trial(rate, score, "worse than before training" if worse else "")


def _facts(
    findings: Findings, config: TrainConfig, steps: int, pilot_steps: int, *, is_whole: bool
) -> dict[str, Any]:
    """All that was found, for JSON."""
    rows = []
    for trial in findings.trials:
        interval = findings.above_best(trial)
        above = interval._asdict() if interval else None
        loss = trial.score.loss if trial.score else None
        rows.append({"rate": trial.rate, "loss": loss, "above": above, "trouble": trial.trouble})
    rate, why = findings.recommended() if is_whole else (None, "not all rates were tried")
    units = findings.before.units
    return {
        "steps": steps,
        "pilot_steps": pilot_steps,
        "loss_before": findings.before.loss,
        "units": f"{len(units.losses)} {units.kind}",
        "rates": rows,
        "recommended": rate,
        "why": why,
        "beyond": findings.beyond() if is_whole else None,
        "command": command_of(dataclasses.replace(config, learning_rate=rate)) if rate else None,
    }


def _text(facts: Mapping[str, Any]) -> str:
    """For a terminal."""
    lines = ["", f"{'rate':>10}{'held-out loss':>15}{'above the lowest':>18}   {PERCENT} interval"]
    for row in facts["rates"]:
        line, above = f"{row['rate']:>10g}", row["above"]
        line += f"{row['loss']:>15.4f}" if row["loss"] is not None else ""
        line += f"{above['difference']:>+18.4f}" if above else ""
        line += f"   {above['low']:+.4f} to {above['high']:+.4f}" if above else ""
        lines.append(f"{line}  {row['trouble']}".rstrip())
    lines += [f"{'before':>10}{facts['loss_before']:>15.4f}   over {facts['units']}", ""]
    if facts["recommended"] is None:
        return "\n".join([*lines, f"no rate is recommended: {facts['why']}"])
    lines.append(f"learning rate {facts['recommended']:g}: {facts['why']}")
    if facts["beyond"]:
        middle = facts["beyond"]
        lines.append(
            f"the lowest loss is at the end of the range: to go on, add --learning_rate {middle:g}"
        )
    return "\n".join([*lines, "", facts["command"]])
