"""Batches: many tasks' questions over few connections."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from modelmesh_cdk.batches import Batches


class Wire:
    """Answers each item by its double; waits for the test before each batch, and fails when told to."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.out = 0
        self.most_out = 0
        self.open = asyncio.Event()
        self.open.set()
        self.broken: Exception | None = None

    async def carry_out(self, batch: Sequence[int]) -> Sequence[int | Exception]:
        """Carry out a batch."""
        self.batches.append(list(batch))
        self.out += 1
        self.most_out = max(self.most_out, self.out)
        try:
            await self.open.wait()
            if self.broken is not None:
                raise self.broken
            return [ValueError("odd") if item % 2 else item * 2 for item in batch]
        finally:
            self.out -= 1


def test_what_gathers_while_one_batch_is_out_goes_in_the_next() -> None:
    """The first goes alone, all others together, as many as are allowed in one."""

    async def scenario() -> None:
        wire = Wire()
        batches: Batches[int, int] = Batches(wire.carry_out, limit=3)
        wire.open.clear()
        asked = [asyncio.ensure_future(batches.ask(number, within=5.0)) for number in (0, 2, 4, 6, 8)]
        for _ in range(3):
            await asyncio.sleep(0)
        asked.append(asyncio.ensure_future(batches.ask(10, within=5.0)))
        wire.open.set()
        assert await asyncio.gather(*asked) == [0, 4, 8, 12, 16, 20]
        assert wire.batches == [[0, 2, 4], [6, 8, 10]]
        assert wire.most_out == 1

    asyncio.run(scenario())


def test_each_item_has_its_own_error() -> None:
    """One that fails leaves its neighbours their results; an error of the whole befalls all."""

    async def scenario() -> None:
        wire = Wire()
        batches: Batches[int, int] = Batches(wire.carry_out)
        asked = [batches.ask(number, within=5.0) for number in (1, 2)]
        odd, even = await asyncio.gather(*asked, return_exceptions=True)
        assert isinstance(odd, ValueError)
        assert even == 4
        wire.broken = OSError("gone")
        failed = await asyncio.gather(*(batches.ask(number, within=5.0) for number in (2, 4)), return_exceptions=True)
        assert failed == [wire.broken, wire.broken]

    asyncio.run(scenario())


def test_many_items_are_asked_at_once_and_each_has_its_outcome() -> None:
    """They go out together; who stops waiting for them waits for none, and what has not gone out never does."""

    async def scenario() -> None:
        wire = Wire()
        batches: Batches[int, int] = Batches(wire.carry_out, limit=3)
        odd, *even = await batches.ask_all([1, 2, 4, 6], within=5.0)
        assert isinstance(odd, ValueError)
        assert even == [4, 8, 12]
        wire.open.clear()
        first = asyncio.ensure_future(batches.ask(0, within=5.0))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        gone = asyncio.ensure_future(batches.ask_all([2, 4], within=5.0))
        await asyncio.sleep(0)
        gone.cancel()
        wire.open.set()
        assert await first == 0
        assert wire.batches == [[1, 2, 4], [6], [0]]

    asyncio.run(scenario())


def test_who_stops_waiting_is_left_out_and_hurts_nobody() -> None:
    """A cancelled item that has not gone out never does; one that has leaves the batch's others alone."""

    async def scenario() -> None:
        wire = Wire()
        batches: Batches[int, int] = Batches(wire.carry_out)
        wire.open.clear()
        first = asyncio.ensure_future(batches.ask(0, within=5.0))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        gone, stays = (asyncio.ensure_future(batches.ask(number, within=5.0)) for number in (2, 4))
        await asyncio.sleep(0)
        gone.cancel()
        first.cancel()
        wire.open.set()
        assert await stays == 8
        assert wire.batches == [[0], [4]]

    asyncio.run(scenario())


def test_waiting_ends_in_time() -> None:
    """However long a batch takes, its turn included."""

    async def scenario() -> None:
        wire = Wire()
        batches: Batches[int, int] = Batches(wire.carry_out)
        wire.open.clear()
        with pytest.raises(TimeoutError):
            await batches.ask(0, within=0.01)
        with pytest.raises(TimeoutError):
            await batches.ask(2, within=0.01)
        wire.open.set()
        assert await batches.ask(4, within=5.0) == 8
        assert wire.batches == [[0], [4]]

    asyncio.run(scenario())


def test_each_waits_as_long_as_it_said() -> None:
    """Also one that comes later and has less time, and one behind others that were answered."""

    async def scenario() -> None:
        wire = Wire()
        batches: Batches[int, int] = Batches(wire.carry_out)
        assert await batches.ask(0, within=0.01) == 0
        wire.open.clear()
        patient = asyncio.ensure_future(batches.ask(2, within=5.0))
        for hasty in (4, 6):
            with pytest.raises(TimeoutError):
                await batches.ask(hasty, within=0.01)
        assert not patient.done()
        wire.open.set()
        assert await patient == 4

    asyncio.run(scenario())


def test_several_lanes_are_out_at_once() -> None:
    """As many as are allowed."""

    async def scenario() -> None:
        wire = Wire()
        batches: Batches[int, int] = Batches(wire.carry_out, limit=1, lanes=3)
        wire.open.clear()
        asked = [asyncio.ensure_future(batches.ask(number, within=5.0)) for number in range(0, 12, 2)]
        for _ in range(5):
            await asyncio.sleep(0)
        wire.open.set()
        assert await asyncio.gather(*asked) == [0, 4, 8, 12, 16, 20]
        assert wire.most_out == 3

    asyncio.run(scenario())


def test_the_end_waits_for_what_is_out_and_refuses_the_rest() -> None:
    """After the grace, what is out is stopped as well, and whoever waits is told; no task is left."""

    async def scenario() -> None:
        wire = Wire()
        batches: Batches[int, int] = Batches(wire.carry_out, limit=1)
        wire.open.clear()
        asked = [asyncio.ensure_future(batches.ask(number, within=5.0)) for number in (0, 2)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await batches.end(0.01)
        assert [str(each) for each in await asyncio.gather(*asked, return_exceptions=True)] == [
            "the state store is closed"
        ] * 2
        assert wire.batches == [[0]]
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(scenario())
