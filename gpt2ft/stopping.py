"""Signals: the first asks a run to stop where it can be resumed, a second ends it at once."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType


class Stop:
    """Whether SIGINT or SIGTERM has come. The first is noted here; a second ends the process."""

    signal: int | None = None

    def ask(self, number: int, frame: FrameType | None) -> None:
        """Signal handler."""
        self.signal = number
        signal.signal(
            number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        )

    def check(self) -> None:
        """Raise `Stopped` if a signal has come: where the state is whole."""
        if self.signal is not None:
            raise Stopped(self.signal)


class Stopped(Exception):
    """The run was asked to stop."""


@contextlib.contextmanager
def listening() -> Iterator[Stop]:
    """Signals ask to stop, from here to the end of the block."""
    stop = Stop()
    before = {number: signal.signal(number, stop.ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
