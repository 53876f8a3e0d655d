"""A model of the playground: one request at a time, the others wait in a line."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ..generation.ready_model import ReadyModel

Event = dict[str, Any]
Work = Callable[[ReadyModel], Generator[Event, None, None]]
LONGEST_LINE = 100  # requests


class ServedModel:
    """A model by name, loaded when it is needed first, that answers requests in their order."""

    def __init__(self, name: str, what: str, load: Callable[[str], ReadyModel]) -> None:
        """`what` says what it is beside the others; `load` loads a model of that name."""
        self.name, self.what = name, what
        self.ready: ReadyModel | None = None
        self._load = load
        self._line: list[object] = []  # the request that is answered first, then those who wait
        self._moved = asyncio.Event()
        self._thread = ThreadPoolExecutor(max_workers=1)

    @property
    def is_full(self) -> bool:
        """Whether no further request can wait."""
        return len(self._line) >= LONGEST_LINE

    def load(self) -> ReadyModel:
        """The model, loaded now if it was not."""
        if self.ready is None:
            self.ready = self._load(self.name)
        return self.ready

    async def answer(self, work: Work) -> AsyncGenerator[Event, None]:
        """What `work` yields, when all requests that came before are answered.

        Until then `{"waiting": n}` each time that their number changes. Whoever leaves, closes
        this: the request leaves the line, and `work` ends at its next event.
        """
        place = object()
        self._line.append(place)
        try:
            while before := self._line.index(place):
                yield {"waiting": before}
                await self._moved.wait()
            if self.ready is None:
                yield {"loading": self.name}
                await asyncio.get_running_loop().run_in_executor(self._thread, self.load)
            async with contextlib.aclosing(self._in_thread(work(self.load()))) as events:
                async for event in events:
                    yield event
        finally:
            self._line.remove(place)
            moved, self._moved = self._moved, asyncio.Event()
            moved.set()

    async def _in_thread(self, events: Generator[Event, None, None]) -> AsyncGenerator[Event, None]:
        """What a generator yields that runs in the thread of the model."""
        loop = asyncio.get_running_loop()
        try:
            while event := await loop.run_in_executor(self._thread, next, events, None):
                yield event
        finally:
            self._thread.submit(events.close)  # behind what it computes at this moment
