"""Signals: the first asks a run to stop where it can be resumed, a second ends it at once."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stop:
    """Whether a signal has come. The first is noted here; a second ends the process."""

    signal: int | None = None

    def ask(self, number: int, frame: FrameType | None) -> None:
        """Signal handler."""
        self.signal = number
        for other in SIGNALS:
            signal.signal(other, signal.SIG_DFL)

    def check(self) -> None:
        """Raise `Stopped` if a signal has come: where the state is whole."""
        if self.signal is not None:
            raise Stopped(self.signal)


class Stopped(Exception):
    """The run was asked to stop, by that signal."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = number


@contextlib.contextmanager
def listening() -> Iterator[Stop]:
    """Signals ask to stop, from here to the end of the block."""
    stop = Stop()
    # A hang-up that is ignored stays so: the run was started with nohup.
    listened = [n for n in SIGNALS if n == signal.SIGINT or signal.getsignal(n) != signal.SIG_IGN]
    before = {number: signal.signal(number, stop.ask) for number in listened}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
