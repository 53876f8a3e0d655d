"""What was found of copies, in words and in a table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

SHOWN = 5  # spans
SHOWN_CHARACTERS = 300
LEAKED = 50
"""Tokens from which on a span is no chance: such duplicates Lee et al., 2022, take out."""


def copies_lines(result: Mapping[str, Any]) -> list[str]:
    """A measurement, see `run_folder.COPIES`, as lines to read."""
    model, human, leak = result["model"], result["human"], result["leakage"]
    samples = result["samples"]
    lines = [
        f"{_count(len(samples), 'sample')}, looked for in {result['train_tokens']:,} tokens of "
        "training text",
        "",
        *_table(model, human),
        "",
        *_longest(samples),
        conclusion(model, human, len(samples)),
    ]
    if leak:
        lines += ["", *leak_lines(leak)]
    return lines


def conclusion(model: Mapping[str, Any], human: Mapping[str, Any] | None, n: int) -> str:
    """What the figures of the samples say beside those of the held-out text, and no more."""
    median, largest = model["median_longest"], model["largest_longest"]
    samples, s = (f"the {n} samples", "") if n > 1 else ("the sample", "s")
    if human is None:
        return (
            f"The longest span that {samples} copied has {_count(largest, 'token')}. There is no "
            "held-out text of this length to compare it with."
        )
    median_2, largest_2 = human["median_longest"], human["largest_longest"]
    figures = (
        f"median {median:g} tokens beside {median_2:g}, longest {largest:,} beside {largest_2:,}"
    )
    subject = samples[0].upper() + samples[1:]
    if median > median_2 and largest > largest_2:
        what = f"{subject} repeat{s} longer spans of the training text than held-out text does"
    elif largest > largest_2:
        what = f"Of {samples} at least one repeats a longer span than any held-out piece does"
    elif median > median_2:
        what = f"{subject} repeat{s} longer spans in the median, but none longer than held-out text"
    else:
        what = f"{subject} repeat{s} no longer spans of the training text than held-out text does"
    return f"{what}: {figures}."


def leak_lines(leak: Mapping[str, Any]) -> list[str]:
    """How much of the held-out text stands in the training text, with a warning if that is long."""
    longest = leak["longest_tokens"]
    shares = ", ".join(f"{_percent(share)} of {n}-grams" for n, share in leak["overlap"].items())
    lines = [
        f"Of the whole held-out text, in the training text: {shares}; the longest span has "
        f"{_count(longest, 'token')}."
    ]
    if longest >= LEAKED:
        lines += [
            f"warning: a span of {longest:,} tokens of the held-out text stands in the training "
            f"text, at {leak['place']}: loss and perplexity on it are better than on new text",
            _quoted(leak["longest_text"]),
        ]
    return lines


def _table(model: Mapping[str, Any], human: Mapping[str, Any] | None) -> list[str]:
    columns = [model, human] if human else [model]
    rows = [("", ["samples", "held-out text"][: len(columns)])]
    for name, what in (("median_longest", "median"), ("largest_longest", "longest")):
        rows.append((f"longest span, {what}, tokens", [f"{each[name]:,g}" for each in columns]))
    for n in model["overlap"]:
        shares = [_percent(each["overlap"][n]) for each in columns]
        rows.append((f"{n}-grams in the training text", shares))
    return [f"{name:<32}" + "".join(f"{cell:>16}" for cell in cells) for name, cells in rows]


def _longest(samples: list[dict[str, Any]]) -> list[str]:
    """The longest spans of the samples, each of another one."""
    numbered = [(i, each) for i, each in enumerate(samples, 1) if each["longest_tokens"]]
    numbered.sort(key=lambda pair: -pair[1]["longest_tokens"])
    lines = []
    for number, each in numbered[:SHOWN]:
        tokens, characters = each["longest_tokens"], each["longest_characters"]
        lines += [
            f"{_count(tokens, 'token')} ({_count(characters, 'character')}) of sample {number}, "
            f"at {each['place']}:",
            _quoted(each["longest_text"]),
        ]
    return [*lines, ""] if lines else []


def _quoted(text: str) -> str:
    """A text in one line, its middle left out if it is long."""
    if len(text) > SHOWN_CHARACTERS:
        half = SHOWN_CHARACTERS // 2
        text = f"{text[:half]} ... {text[-half:]}"
    return f"    {json.dumps(text, ensure_ascii=False)}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"
