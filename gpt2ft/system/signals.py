"""Signals: the first asks a run to stop where it can be resumed; a second may end it at once."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(KeyboardInterrupt):
    """The run was asked to stop, by that signal.

    Not an `Exception`: it may come in the middle of a library that would carry on after one.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = number

    def __str__(self) -> str:
        name = signal.Signals(self.signal).name
        return f"stopped by {'Ctrl-C' if name == 'SIGINT' else name}"


class Stop:
    """What the first signal does: it interrupts, or where work must be finished, it is noted."""

    def __init__(self, *, second_ends: bool = True) -> None:
        self._second_ends = second_ends
        self.signal: int | None = None
        self.agree: Callable[[int], int] = int
        """From the signal that came here, 0 if none, to that which came to any process."""
        self._postponed = False

    def ask(self, number: int, frame: FrameType | None) -> None:
        """Signal handler. The next signal ends the process, if a second one is to do that."""
        if self.signal is not None:
            return
        self.signal = number
        for other in SIGNALS:
            if signal.getsignal(other) == self.ask and self._second_ends:  # ignored stays so
                signal.signal(other, signal.SIG_DFL)
        if not self._postponed:
            raise Stopped(number)

    @contextlib.contextmanager
    def postponed(self) -> Iterator[None]:
        """From here to the end of the block a signal waits for `check`."""
        self._postponed = True
        try:
            yield
        finally:
            self._postponed = False

    def check(self) -> None:
        """Raise `Stopped` if a signal has come: where the state is whole.

        Where several processes train together, all are to call this at the same places.
        """
        if number := self.agree(self.signal or 0):
            raise Stopped(number)


@contextlib.contextmanager
def listening(*, second_ends: bool = True) -> Iterator[Stop]:
    """Signals ask to stop, from here to the end of the block.

    Under torchrun a second one is not to end the process: where a scheduler signals all processes,
    torchrun hands the same signal on once more, and kills what does not end in 30 seconds.
    """
    stop = Stop(second_ends=second_ends)
    # A hang-up that is ignored stays so: the run was started with nohup.
    listened = [n for n in SIGNALS if n == signal.SIGINT or signal.getsignal(n) != signal.SIG_IGN]
    before = {number: signal.signal(number, stop.ask) for number in listened}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
