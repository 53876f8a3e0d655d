"""Text laid out for a terminal: columns side by side, and bars."""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Iterator, Sequence

GAP = "  "
BAR_CELLS = 40
LEAST_CELLS = 8


def side_by_side(headings: Sequence[str], texts: Sequence[str], width: int) -> str:
    """Texts in columns under their headings, all of them within `width` cells of the terminal."""
    cells = max(LEAST_CELLS, (width - len(GAP) * (len(texts) - 1)) // len(texts))
    columns = [
        [*wrap(heading, cells), "─" * cells, *wrap(text, cells)]
        for heading, text in zip(headings, texts, strict=True)
    ]
    tallest = max(len(list(wrap(heading, cells))) for heading in headings)
    columns = [
        [""] * (tallest - len(list(wrap(heading, cells)))) + column
        for heading, column in zip(headings, columns, strict=True)
    ]
    rows = itertools.zip_longest(*columns, fillvalue="")
    return "\n".join(GAP.join(_padded(cell, cells) for cell in row).rstrip() for row in rows)


def wrap(text: str, cells: int) -> Iterator[str]:
    """Lines of at most that many cells, broken between words where there are any."""
    for line in text.expandtabs(4).split("\n"):
        while n_cells(line) > cells:
            fits = max(1, sum(used <= cells for used in itertools.accumulate(map(n_cells, line))))
            space = line.rfind(" ", 1, fits + 1)
            cut = space if space > 0 else fits
            yield line[:cut]
            line = line[cut:].removeprefix(" ")
        yield line


def n_cells(text: str) -> int:
    """Cells of a terminal that a text takes: two for wide characters, none for combining ones."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


def _padded(text: str, cells: int) -> str:
    return text + " " * (cells - n_cells(text))


def bars(labels: Sequence[str], shares: Sequence[float], width: int) -> str:
    """A line for each label: its share of 1 in per cent and as a bar, within `width` cells."""
    widest = max(map(n_cells, labels))
    room = max(LEAST_CELLS, min(BAR_CELLS, width - widest - 2 * len(GAP) - len("100.00%")))
    return "\n".join(
        f"{_padded(label, widest)}{GAP}{share:7.2%}{GAP}{'█' * round(share * room)}".rstrip()
        for label, share in zip(labels, shares, strict=True)
    )
