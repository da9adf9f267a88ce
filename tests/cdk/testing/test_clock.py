"""FakeClock, FakeRandom and context: time moves only when told, and then exactly so far."""

from __future__ import annotations

import asyncio
import threading

import pytest

from modelmesh.interfaces.observability import Severity
from modelmesh_cdk.testing import FakeClock, FakeRandom, context


def test_time_stands_still_until_it_is_advanced() -> None:
    """Both clocks move by what advance was given, and by nothing else."""
    clock = FakeClock(monotonic=10.0, time=500.0)

    before = (clock.monotonic(), clock.time())
    clock.advance(2.5)

    assert before == (10.0, 500.0)
    assert (clock.monotonic(), clock.time()) == (12.5, 502.5)


def test_sleepers_wake_in_the_order_they_are_due() -> None:
    """Who is due first goes on first, whoever began to sleep first."""
    clock = FakeClock()
    woken: list[str] = []

    async def sleeper(name: str, seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append(name)

    async def scenario() -> None:
        tasks = [asyncio.ensure_future(sleeper(*each)) for each in (("late", 3.0), ("early", 1.0), ("never", 9.0))]
        await clock.until_sleeping(3)
        clock.advance(5.0)
        await asyncio.gather(*tasks[:2])
        assert clock.sleepers == 1
        tasks[2].cancel()
        await asyncio.wait(tasks)

    asyncio.run(scenario())

    assert woken == ["early", "late"]
    assert clock.sleeps == [3.0, 1.0, 9.0]
    assert clock.sleepers == 0


def test_run_stops_at_each_sleepers_own_moment() -> None:
    """A periodic task ticks once a period, and reads the time of its tick."""
    clock = FakeClock(monotonic=0.0)
    ticks: list[float] = []

    async def periodic() -> None:
        while True:
            await clock.sleep(10.0)
            ticks.append(clock.monotonic())

    async def scenario() -> None:
        task = asyncio.ensure_future(periodic())
        await clock.run(35.0)
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(scenario())

    assert ticks == [10.0, 20.0, 30.0]
    assert clock.monotonic() == 35.0


def test_advance_wakes_a_sleeper_on_another_threads_loop() -> None:
    """A test may move the time of a loop that runs in a thread."""
    clock = FakeClock()
    thread = threading.Thread(target=lambda: asyncio.run(clock.sleep(60.0)))
    thread.start()

    clock.wait_until_sleeping()
    clock.advance(60.0)
    thread.join(5.0)

    assert not thread.is_alive()


def test_an_advancing_clock_never_waits() -> None:
    """With auto_advance a sleep moves the clock itself."""
    clock = FakeClock(monotonic=0.0, auto_advance=True)

    asyncio.run(clock.sleep(30.0))

    assert clock.monotonic() == 30.0
    assert clock.sleeps == [30.0]


def test_the_monotonic_clock_does_not_go_back() -> None:
    """A negative advance is refused; the wall clock may jump back alone."""
    clock = FakeClock(monotonic=5.0)

    with pytest.raises(ValueError, match="set_time"):
        clock.advance(-1.0)
    clock.set_time(100.0)

    assert (clock.monotonic(), clock.time()) == (5.0, 100.0)


def test_waiting_for_sleepers_that_never_come_says_so() -> None:
    """A test that waits for nobody fails with a message instead of hanging."""
    clock = FakeClock()

    with pytest.raises(AssertionError, match="expected 1 sleepers, have 0"):
        asyncio.run(clock.until_sleeping())
    with pytest.raises(AssertionError, match="expected 2 sleepers, have 0"):
        clock.wait_until_sleeping(2, timeout=0.01)


def test_random_hands_out_what_was_written_then_draws_from_its_seed() -> None:
    """Two with the same seed agree for ever."""
    one, other = FakeRandom(0.25, 0.5, seed=7), FakeRandom(seed=7)

    assert [one.random(), one.uniform(10.0, 20.0)] == [0.25, 15.0]
    assert [one.random() for _ in range(3)] == [other.random() for _ in range(3)]


def test_random_refuses_values_random_never_gives() -> None:
    """1.0 is outside [0, 1)."""
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        FakeRandom(1.0)


def test_a_context_collects_what_is_traced() -> None:
    """The traces list receives severity and message; without one they are dropped."""
    traces: list[tuple[Severity, str]] = []

    context("acme", traces=traces).trace(Severity.INFO, "ready")
    context().trace(Severity.INFO, "dropped")

    assert traces == [(Severity.INFO, "ready")]
