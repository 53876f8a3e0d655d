"""The report: one page of one or several runs, which opens from disk and fetches nothing."""

from __future__ import annotations

import base64
import hashlib
import json
import string
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any

from .report_parts import (
    card_section,
    copies_section,
    evaluations_table,
    facts_section,
    samples_section,
    settings_section,
)
from .run_folder import RunFolder

PAGE = Path(__file__).parent / "page"
CHARTS = (
    ("loss", "Loss, nats per token"),
    ("learning_rate", "Learning rate"),
    ("grad_norm", "Norm of the gradient, before clipping"),
    ("tokens_per_second", "Tokens per second"),
)


def page(
    runs: Sequence[RunFolder],
    *,
    version: str,
    settings: Mapping[str, Sequence[Any]],
    command: str = "",
    differences: str = "",
) -> str:
    """The page of a run, or of several with their curves laid over each other, as HTML.

    `settings` has for each setting that is to be shown its value in each run, `command` is what
    makes the run again. `differences`, of several runs, says how they compare, in plain text.
    """
    one = runs[0] if len(runs) == 1 else None
    style, script = (
        (PAGE / f"report.{kind}").read_text(encoding="utf-8") for kind in ("css", "js")
    )
    sections = [card_section(one.card)] if one else [_plain("Comparison", differences)]
    sections += [_charts(runs), *(evaluations_table(run) for run in runs)]
    if one:
        trained = one.facts.get("weights", {}).get("after")
        sections += [samples_section(one.samples), copies_section(one.copies, weights=trained)]
    sections.append(settings_section(settings, [run.name for run in runs], command))
    if one:
        sections.append(facts_section(one.facts))
    title = one.name if one else " and ".join(run.name for run in runs)
    filled = {
        **{"title": escape(title), "subtitle": escape(_subtitle(runs)), "version": escape(version)},
        **{"style": style, "style_hash": _hash(style), "script": script},
        **{"script_hash": _hash(script), "data": _data(runs)},
        "verdict": _verdict(one) if one else "",
        "sections": "\n".join(filter(None, sections)),
    }
    return string.Template(_asset("report.html")).substitute(filled)


def _asset(name: str) -> str:
    return (PAGE / name).read_text(encoding="utf-8")


def _subtitle(runs: Sequence[RunFolder]) -> str:
    """What the runs are, in a line."""
    lines = []
    for run in runs:
        steps = run.curves.steps["step"]
        tokens = run.curves.steps["tokens"]
        done = f"finished {run.facts['finished']}" if "finished" in run.facts else "not finished"
        told = f"{steps[-1]:,} steps, {tokens[-1]:,} tokens" if steps else "no step yet"
        lines.append(f"{run.name}: {told}, {done}" if len(runs) > 1 else f"{told}, {done}")
    return "; ".join(lines)


def _verdict(run: RunFolder) -> str:
    """What there is to know at a glance."""
    sentences, kind = [], ""
    if said := run.card.get("verdict"):
        sentences.append(f"The model is {said}." if said[0] in "bw" else f"{said.capitalize()}.")
        kind = "good" if said.startswith("better") else "bad" if said.startswith("worse") else ""
    found = run.curves
    if found.overfits and found.best is not None:
        kind = "bad"
        at = {name: found.evaluations[name] for name in ("step", "loss")}
        sentences.append(
            f"It overfits: the held-out loss was lowest at step {at['step'][found.best]:,}, "
            f"{at['loss'][found.best]:.4f}, and rose to {at['loss'][-1]:.4f} by step "
            f"{at['step'][-1]:,}."
        )
    said = "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences)
    return f'<div class="verdict {kind}">{said}</div>' if said else ""


def _plain(title: str, text: str) -> str:
    return (
        f'<h2>{title}</h2><div class="sheet scroll"><pre>{escape(text)}</pre></div>' if text else ""
    )


def _charts(runs: Sequence[RunFolder]) -> str:
    """Places for the charts, which the script draws; and what says the same without it."""
    parts = []
    for name, title in CHARTS:
        legend = _legend(runs) if name == "loss" or len(runs) > 1 else ""
        label = f"{title}. Arrow keys read off values."
        parts.append(
            f'<figure class="sheet{" wide" if name == "loss" else ""}" data-chart="{name}">'
            f'<div class="head"><h3>{title}</h3>{legend}</div>'
            f'<svg class="plot" tabindex="0" role="img" aria-label="{label}" height="240"></svg>'
            '<p class="readout" aria-live="polite"></p></figure>'
        )
    axis = "".join(
        f'<option value="{value}">{name}</option>'
        for value, name in (("step", "steps"), ("tokens", "tokens"), ("seconds", "seconds"))
    )
    together = max(run.curves.together for run in runs)
    note = f" Each point of a curve stands for {together} steps." if together > 1 else ""
    skipped = sum(len(run.curves.skipped) for run in runs)
    note += f" {skipped} updates were skipped, marked by crosses." if skipped else ""
    return (
        "<h2>Curves</h2>"
        '<div class="controls tools"><label>smoothing <input id="smooth" type="range" min="0" '
        f'max="99" value="90"></label><label>over <select id="axis">{axis}</select></label></div>'
        '<p class="nojs quiet">The curves are drawn by the script in this page, which is off.</p>'
        f'<p class="quiet small">{note}</p><div class="charts">{"".join(parts)}</div>'
    )


def _legend(runs: Sequence[RunFolder]) -> str:
    names = ["training", "held-out"] if len(runs) == 1 else [run.name for run in runs]
    items = "".join(
        f'<li><i class="k{number % 6}"></i>{escape(name)}</li>' for number, name in enumerate(names)
    )
    return f'<ul class="legend">{items}</ul>'


def _data(runs: Sequence[RunFolder]) -> str:
    """The curves as JSON that no text in it can break out of."""
    found = [
        {
            "name": run.name,
            **asdict(run.curves),
            "best": run.curves.best,
            "overfits": run.curves.overfits,
        }
        for run in runs
    ]
    text = json.dumps({"runs": found}, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _hash(text: str) -> str:
    """Of an inline style or script, as a Content Security Policy names it."""
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"sha256-{digest}"
