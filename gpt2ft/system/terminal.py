"""What reaches the terminal: escaped, without the libraries' noise, never in a run's way."""

from __future__ import annotations

import logging
import os
import re
import sys
import warnings
from typing import Any

from tqdm import tqdm

# C0 but newline and tab, DEL, C1, and the bidirectional controls: what a terminal would obey.
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")

FORMAT_WARNING = warnings.formatwarning
_is_quiet = False


def printable(text: str) -> str:
    """Text from outside, made harmless to a terminal: control characters as `\\x1b`, `\\u202e`."""
    return CONTROLS.sub(lambda match: ascii(match[0])[1:-1], text)


def print_line(text: str = "") -> None:
    """Lines on standard output, above the progress bar if there is one.

    If they cannot be written any more (`| head`, a terminal that was closed, a full disk), they go
    nowhere: a run must not end for that.
    """
    try:
        tqdm.write(printable(text), file=sys.stdout)
        sys.stdout.flush()
    except OSError:
        discard_output()


def bar(total: int, what: str, *, unit: str = "batch", initial: int = 0) -> tqdm[Any]:
    """A progress bar that goes away when it is done; none where standard error is no terminal."""
    return tqdm(
        total=total,
        initial=initial,
        desc=what,
        unit=unit,
        disable=_is_quiet or None,
        leave=False,
        dynamic_ncols=True,
    )


def be_quiet() -> None:
    """From here on there are no lines and bars of this process, only errors."""
    global _is_quiet
    _is_quiet = True
    discard_output()


def discard_output() -> None:
    """From here on standard output goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def error_line(error: Exception) -> str:
    """What an error says, in one line."""
    if isinstance(error, OSError) and error.strerror and error.filename:  # the system's own
        return f"{error.filename} cannot be used, {error.strerror}, name another or mend it"
    return " ".join(str(error).split()) or type(error).__name__


def silence_libraries(*, bars: bool = True) -> None:
    """Keep from the terminal what the libraries say that a user can do nothing about.

    Without `bars`, or without a terminal, there are no progress bars of theirs either. What they
    still say is escaped: it may quote a file.
    """
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    _silence_datasets(bars=bars and sys.stderr.isatty())
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    logging.setLogRecordFactory(_PrintableRecord)
    warnings.formatwarning = _printable_warning


def _silence_datasets(*, bars: bool) -> None:
    """It reads its variables when it is imported, which takes half a second: not for this alone."""
    os.environ["DATASETS_VERBOSITY"] = "critical"
    if not bars:
        os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
    if "datasets" in sys.modules:
        import datasets

        datasets.logging.set_verbosity(logging.CRITICAL)
        if not bars:
            datasets.disable_progress_bars()


class _PrintableRecord(logging.LogRecord):
    def getMessage(self) -> str:
        return printable(super().getMessage())


def _printable_warning(*args: Any, **keywords: Any) -> str:
    return printable(FORMAT_WARNING(*args, **keywords))
