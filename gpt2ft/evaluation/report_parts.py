"""The parts of a report that are text: all that comes from outside is escaped here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from .card import short
from .run_folder import RunFolder

TIMES_SHOWN = 4  # of samples, side by side
MEASURES = (
    ("loss", "{:.4f}"),
    ("perplexity", ""),
    ("bits_per_byte", "{:.4f}"),
    ("accuracy", "{:.1%}"),
)
COPIED_SHOWN = 5  # samples with the longest copied spans


def _words(name: str) -> str:
    return escape(str(name).replace("_", " "))


def _value(name: str, form: str, value: Any) -> str:
    if not isinstance(value, (int, float)):
        return ""
    return short(value) if name == "perplexity" else form.format(value)


def card_section(card: Mapping[str, Any]) -> str:
    """The card of a run, as a table."""
    if not card:
        return ""
    model, baseline = card.get("model") or {}, card.get("baseline") or {}
    heads = [card.get("baseline_name")] * bool(baseline) + [card.get("model_name", "model")]
    columns = [baseline] * bool(baseline) + [model]
    head = "".join(f'<th scope="col">{escape(str(name))}</th>' for name in heads)
    rows = "".join(
        f'<tr><th scope="row">{_words(name)}</th>'
        + "".join(f"<td>{_value(name, form, column.get(name))}</td>" for column in columns)
        + "</tr>"
        for name, form in MEASURES
    )
    of_what = (
        f"{model.get('n_targets', 0):,} tokens, {model.get('n_bytes', 0):,} bytes; "
        f"{card.get('protocol', '')}; {card.get('units', '')}"
    )
    return (
        '<h2>The card</h2><div class="sheet scroll"><table><thead><tr><th scope="col">held-out '
        f"text</th>{head}</tr></thead><tbody>{rows}</tbody></table>"
        f'<p class="quiet small">{escape(of_what)}</p></div>'
    )


def evaluations_table(run: RunFolder) -> str:
    """All evaluations, for who cannot see the chart."""
    columns = run.curves.evaluations
    if not columns["step"]:
        return ""
    head = "".join(f'<th scope="col">{_words(name)}</th>' for name in columns)
    rows = []
    for number, step in enumerate(columns["step"]):
        cells = "".join(f"<td>{_value(n, f, columns[n][number])}</td>" for n, f in MEASURES)
        rows.append(f'<tr><th scope="row">{step:,}</th>{cells}</tr>')
    return (
        f"<details><summary>Evaluations of {escape(run.name)} as a table</summary>"
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody>'
        "</table></div></details>"
    )


def samples_section(samples: Sequence[Mapping[str, Any]]) -> str:
    """What the model wrote over time: a row for each prompt, side by side."""
    prompts: dict[tuple[str, Any], dict[int, str]] = {}
    for record in samples:
        texts = prompts.setdefault((str(record.get("prompt", "")), record.get("seed")), {})
        texts[int(record["step"])] = str(record.get("text", ""))
    if not prompts:
        return ""
    rows = []
    for (prompt, _), texts in prompts.items():
        steps = sorted(texts)
        n = len(steps)
        shown = {steps[round(i * (n - 1) / (TIMES_SHOWN - 1))] for i in range(TIMES_SHOWN)}
        main = "".join(_written(prompt, step, texts[step]) for step in sorted(shown))
        rest = "".join(_written(prompt, step, texts[step]) for step in steps if step not in shown)
        if rest:
            more = f"<summary>{n - len(shown)} more times</summary>"
            rest = f'<details>{more}<div class="times">{rest}</div></details>'
        rows.append(f'<div class="sheet sample"><div class="times">{main}</div>{rest}</div>')
    return f"<h2>What it wrote</h2>{''.join(rows)}"


def _written(prompt: str, step: int, text: str) -> str:
    when = "before training" if step == 0 else f"step {step:,}"
    return f'<div><h4>{when}</h4><p class="written"><b>{escape(prompt)}</b>{escape(text)}</p></div>'


def copies_section(copies: Mapping[str, Any], *, weights: str | None) -> str:
    """How much of the training text the model repeats; `weights` is the hash of its weights."""
    if not copies:
        return ""
    measured = copies.get("model_sha256")
    earlier = " (of an earlier model)" if measured and weights and measured != weights else ""
    kinds = [(name, copies[name]) for name in ("model", "human") if copies.get(name)]
    head = "".join(f'<th scope="col">{_words(name)}</th>' for name, _ in kinds)
    rows = {
        "median of the longest copied spans, tokens": [k.get("median_longest") for _, k in kinds],
        "longest of all, tokens": [k.get("largest_longest") for _, k in kinds],
    }
    for n in kinds[0][1].get("overlap", {}) if kinds else ():
        overlaps = [k.get("overlap", {}).get(n) for _, k in kinds]
        rows[f"sequences of {n} tokens that stand in the training text"] = [
            f"{x:.1%}" if isinstance(x, float) else x for x in overlaps
        ]
    table = "".join(
        f'<tr><th scope="row">{escape(name)}</th>'
        + "".join(f"<td>{escape(str(value))}</td>" for value in values)
        + "</tr>"
        for name, values in rows.items()
    )
    longest = sorted(copies.get("samples", []), key=lambda s: -s.get("longest_tokens", 0))
    shown = "".join(
        f"<p>{s.get('longest_tokens')} tokens, {escape(str(s.get('place', '')))}:</p>"
        f'<p class="written"><mark>{escape(str(s.get("longest_text", "")))}</mark></p>'
        for s in longest[:COPIED_SHOWN]
    )
    return (
        f"<h2>Copies of the training text{earlier}</h2>"
        '<div class="sheet scroll"><table><thead><tr><th></th>'
        f"{head}</tr></thead><tbody>{table}</tbody></table><details><summary>The longest copied "
        f"spans</summary>{shown}</details></div>"
    )


def settings_section(
    settings: Mapping[str, Sequence[Any]], names: Sequence[str], command: str
) -> str:
    """Settings that are not the defaults, or that differ between runs; and the command."""
    head = "".join(f'<th scope="col" class="text">{escape(name)}</th>' for name in names)
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th>'
        + "".join(f'<td class="text">{_setting(value)}</td>' for value in values)
        + "</tr>"
        for name, values in settings.items()
    )
    table = f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{rows}</tbody></table>"
    title = "Settings that are not the defaults" if len(names) == 1 else "Settings that differ"
    again = (
        f'<h2>To make it again</h2><div class="sheet"><pre>{escape(command)}</pre></div>'
        if command
        else ""
    )
    return f'<h2>{title}</h2><div class="sheet scroll">{table}</div>{again}' if rows else again


def _setting(value: Any) -> str:
    return escape(", ".join(map(str, value)) if isinstance(value, list) else str(value))


def facts_section(facts: Mapping[str, Any]) -> str:
    """Versions, machine, hashes, times: whatever run.json holds."""
    told = {name: value for name, value in facts.items() if name != "command"}
    if not told:
        return ""
    return f'<h2>Made with</h2><div class="sheet">{_definitions(told)}</div>'


def _definitions(values: Mapping[str, Any]) -> str:
    items = []
    for name, value in values.items():
        if isinstance(value, dict):
            shown = _definitions(value)
        elif isinstance(value, list):
            shown = "".join(
                _definitions(item) if isinstance(item, dict) else escape(str(item))
                for item in value
            )
        else:
            shown = escape(f"{value:,}" if isinstance(value, int) else str(value))
        items.append(f"<dt>{_words(name)}</dt><dd>{shown}</dd>")
    return f"<dl>{''.join(items)}</dl>"
