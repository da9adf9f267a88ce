"""The simulation's event loop: virtual time, an order drawn from the seed, and no waiting for nothing."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator

import pytest

from modelmesh_cdk.testing.simulation import RunawayError, SimulatedClock, SimulationLoop, StalledError


@pytest.fixture
def loop() -> Iterator[SimulationLoop]:
    """A loop whose order is drawn from seed 1."""
    loop = SimulationLoop(1)
    yield loop
    loop.close()


def test_an_hour_takes_no_time(loop: SimulationLoop) -> None:
    """Its time moves on by what was slept, and the real one hardly at all."""
    began, real = loop.time(), time.monotonic()

    loop.run(asyncio.sleep(3_600.0))

    assert loop.time() - began == pytest.approx(3_600.0)
    assert time.monotonic() - real < 5.0


def test_sleepers_wake_in_the_order_of_their_times(loop: SimulationLoop) -> None:
    """Whatever order they went to sleep in."""
    woken: list[float] = []

    async def sleep(seconds: float) -> None:
        await asyncio.sleep(seconds)
        woken.append(seconds)

    async def all_of_them() -> None:
        await asyncio.gather(*(sleep(seconds) for seconds in (3.0, 1.0, 2.0)))

    loop.run(all_of_them())

    assert woken == [1.0, 2.0, 3.0]


def orders(seeds: range | list[None]) -> set[tuple[int, ...]]:
    """Return the orders in which five tasks run that are ready at once."""
    seen = set()
    for seed in seeds:
        order: list[int] = []

        async def step(number: int, order: list[int] = order) -> None:
            order.append(number)

        async def all_of_them() -> None:
            await asyncio.gather(*map(step, range(5)))

        loop = SimulationLoop(seed)
        loop.run(all_of_them())
        loop.close()
        seen.add(tuple(order))
    return seen


def test_what_is_ready_at_once_runs_in_an_order_of_the_seed() -> None:
    """Fifty seeds see many of the 120 orders."""
    assert len(orders(range(50))) > 20


def test_without_a_seed_the_order_is_that_of_asyncio() -> None:
    """First come, first served."""
    assert orders([None]) == {(0, 1, 2, 3, 4)}


def test_who_waits_for_nothing_is_told(loop: SimulationLoop) -> None:
    """A request that would hang for ever ends the run."""

    async def hang() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(StalledError, match="somebody still waits"):
        loop.run(hang())


def test_who_never_waits_is_told() -> None:
    """A loop without a pause ends the run, too."""
    loop = SimulationLoop(1, most_steps=1_000)

    async def spin() -> None:
        for _ in itertools.count():
            await asyncio.sleep(0)

    with pytest.raises(RunawayError, match="something never waits"):
        loop.run(spin())

    loop.close()


def test_timeouts_of_asyncio_work_in_virtual_time(loop: SimulationLoop) -> None:
    """The block is cancelled at its moment."""

    async def late() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5.0):
                await asyncio.sleep(60.0)
        return loop.time()

    began = loop.time()

    assert loop.run(late()) - began == pytest.approx(5.0)


def test_an_exception_that_nobody_takes_is_kept(loop: SimulationLoop) -> None:
    """So that a simulation can fail for it."""

    async def main() -> None:
        loop.call_soon(lambda: 1 / 0)
        await asyncio.sleep(1.0)

    loop.run(main())

    assert isinstance(loop.failures[0]["exception"], ZeroDivisionError)


def test_the_wall_clock_jumps_and_the_other_does_not(loop: SimulationLoop) -> None:
    """As when the operating system puts it right."""
    clock = SimulatedClock(loop, 1_000_000.0, skew=60.0)
    before = clock.monotonic()

    clock.jump(-3_600.0)

    assert clock.time() == pytest.approx(1_000_000.0 + 60.0 - 3_600.0)
    assert clock.true_time() == pytest.approx(1_000_000.0)
    assert clock.monotonic() == before
