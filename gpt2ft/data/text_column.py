"""Which column of a table, or field of a record, holds the text."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def choose_column(
    source: str, wanted: str | None, strings: Sequence[str], names: Collection[str]
) -> str:
    """The column that holds the text: the one wanted, else `text`, else the only one of strings.

    `names` are all columns, `strings` those of strings. Raises `ValueError`.
    """
    column = wanted or ("text" if "text" in names else None)
    if column is None and len(strings) == 1:
        column = strings[0]
    if column is not None and column in strings:
        return column
    if column in names:
        raise ValueError(
            f"{source} has no strings in its column {column}, name another --text_column"
        )
    example = f"; add for example --text_column {strings[-1]}" if strings else ""
    have = ", ".join(names) or "none"
    raise ValueError(f"{source} has no column {column or 'text'}; its columns: {have}{example}")
