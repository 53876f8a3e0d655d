"""One request at a time: pytest tests/playground/test_served_model.py"""

import asyncio
import contextlib
import threading

import pytest

from gpt2ft.playground.served_model import LONGEST_LINE, ServedModel


class Gate:
    """Work that waits at each event until it is let on; and what it did."""

    def __init__(self, *events):
        self.events, self.opened, self.closed = events, threading.Semaphore(0), threading.Event()

    def work(self, _):
        try:
            for event in self.events:
                assert self.opened.acquire(timeout=20)
                yield event
        finally:
            self.closed.set()


async def collect(model, work, into):
    async with contextlib.aclosing(model.answer(work)) as events:
        async for event in events:
            into.append(event)


async def until(condition):
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it does not come")


def test_requests_are_answered_in_their_order_and_know_their_place():
    async def main():
        model = ServedModel("tiny", "", lambda name: f"model {name}")
        gates = [Gate({"n": n}) for n in range(3)]
        found = [[], [], []]
        tasks = []
        for gate, into in zip(gates, found, strict=True):
            tasks.append(asyncio.create_task(collect(model, gate.work, into)))
            await asyncio.sleep(0.01)
        await until(lambda: found[2] == [{"waiting": 2}] and found[0] == [{"loading": "tiny"}])
        for gate in gates:
            gate.opened.release()
        await asyncio.gather(*tasks)
        return found

    first, second, third = asyncio.run(main())
    assert first == [{"loading": "tiny"}, {"n": 0}] and second == [{"waiting": 1}, {"n": 1}]
    assert third == [{"waiting": 2}, {"waiting": 1}, {"n": 2}]


def test_who_leaves_ends_the_work_and_lets_the_next_one_come():
    async def main():
        model = ServedModel("tiny", "", lambda name: name)
        gates = [Gate(*({"n": n} for n in range(100))), Gate({"never": 1}), Gate({"last": 1})]
        found = [[], [], []]
        tasks = []
        for gate, into in zip(gates, found, strict=True):
            tasks.append(asyncio.create_task(collect(model, gate.work, into)))
            await asyncio.sleep(0.01)
        gates[0].opened.release()
        await until(lambda: {"n": 0} in found[0])
        tasks[1].cancel()  # while it waits
        await until(lambda: found[2][-1] == {"waiting": 1})
        tasks[0].cancel()  # while it computes
        gates[0].opened.release()
        gates[2].opened.release()
        await tasks[2]
        await until(gates[0].closed.is_set)
        return found, gates

    found, gates = asyncio.run(main())
    assert found[0][-1] == {"n": 0} and found[2][-1] == {"last": 1}
    assert found[1] == [{"waiting": 1}] and not gates[1].closed.is_set()  # it never began


def test_two_models_write_at_once():
    async def main():
        gates = [Gate({"n": 0}, {"n": 1}) for _ in range(2)]
        found = [[], []]
        models = [ServedModel(name, "", lambda name: name) for name in "ab"]
        tasks = [
            asyncio.create_task(collect(model, gate.work, into))
            for model, gate, into in zip(models, gates, found, strict=True)
        ]
        for gate in gates:
            gate.opened.release()
        await until(lambda: all({"n": 0} in events for events in found))  # neither has ended
        for gate in gates:
            gate.opened.release()
        await asyncio.gather(*tasks)

    asyncio.run(main())


def test_an_error_is_the_requests_own():
    def fails(_):
        yield {"n": 0}
        raise ValueError("of this text")

    async def main():
        model = ServedModel("tiny", "", lambda name: name)
        found = []
        with pytest.raises(ValueError, match="of this text"):
            await collect(model, fails, found)
        gate = Gate({"n": 1})
        gate.opened.release()
        await collect(model, gate.work, found)
        assert found == [{"loading": "tiny"}, {"n": 0}, {"n": 1}]

    asyncio.run(main())


def test_a_model_that_cannot_be_loaded_is_tried_again():
    tries = []

    def load(name):
        tries.append(name)
        if len(tries) == 1:
            raise OSError("no connection")
        return name

    async def main():
        model = ServedModel("tiny", "", load)
        gate = Gate({"n": 0})
        gate.opened.release()
        with pytest.raises(OSError, match="no connection"):
            await collect(model, gate.work, [])
        await collect(model, gate.work, [])

    asyncio.run(main())
    assert tries == ["tiny", "tiny"]


def test_the_line_has_an_end():
    async def main():
        model = ServedModel("tiny", "", lambda name: name)
        gate = Gate({"n": 0})
        tasks = [
            asyncio.create_task(collect(model, gate.work, [])) for _ in range(LONGEST_LINE - 1)
        ]
        await asyncio.sleep(0.05)
        assert not model.is_full
        tasks.append(asyncio.create_task(collect(model, gate.work, [])))
        await asyncio.sleep(0.05)
        assert model.is_full
        for task in tasks:
            task.cancel()
        gate.opened.release()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert not model.is_full

    asyncio.run(main())
