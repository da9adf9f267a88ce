"""Statistics are handed over at an interval, from a thread that keeps nothing alive."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from modelmesh._engine.flushing import PeriodicFlush
from modelmesh._engine.system import SystemClock
from modelmesh_cdk.testing import FakeClock


class Idle:
    """A worker that is never started: the test does what the thread would do."""

    def join(self, timeout: float | None = None) -> None:
        """Return at once."""


class Bench:
    """A flush every 60 seconds on a clock that stands still, without a thread."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.flushes = 0
        self.error: Exception | None = None
        self.errors: list[Exception] = []
        self.timer = PeriodicFlush(
            self.flush, 60.0, clock=self.clock, failed=self.errors.append, start_worker=lambda run, name: Idle()
        )

    def flush(self) -> None:
        self.flushes += 1
        if self.error is not None:
            raise self.error


@pytest.fixture
def bench() -> Bench:
    """A flush every 60 seconds."""
    return Bench()


def test_nothing_is_flushed_before_it_is_time(bench: Bench) -> None:
    """The answer is how long it still takes."""
    bench.clock.advance(59)

    assert (bench.timer.flush_if_due(), bench.flushes) == (1.0, 0)


def test_it_flushes_at_each_interval(bench: Bench) -> None:
    """Counted from the start, not from the end of the last one."""
    bench.clock.advance(61)
    first = bench.timer.flush_if_due()
    bench.clock.advance(59)
    second = bench.timer.flush_if_due()

    assert (first, second, bench.flushes) == (59.0, 60.0, 2)


def test_missed_intervals_are_not_made_up_for(bench: Bench) -> None:
    """A machine that slept for an hour flushes once."""
    bench.clock.advance(3_600)

    assert (bench.timer.flush_if_due(), bench.flushes) == (60.0, 1)
    assert (bench.timer.flush_if_due(), bench.flushes) == (60.0, 1)


def test_an_error_is_told_and_the_next_flush_comes(bench: Bench) -> None:
    """A flush that fails ends nothing."""
    bench.error = RuntimeError("no")
    bench.clock.advance(60)
    bench.timer.flush_if_due()
    bench.error = None
    bench.clock.advance(60)
    bench.timer.flush_if_due()

    assert (bench.flushes, [str(error) for error in bench.errors]) == (2, ["no"])


def test_a_stopped_timer_flushes_no_more(bench: Bench) -> None:
    """Not even when it is time; and stopping again is harmless."""
    bench.timer.stop()
    bench.timer.stop()
    bench.clock.advance(600)

    bench.timer.flush_if_due()

    assert bench.flushes == 0


def test_its_thread_flushes_and_ends() -> None:
    """Within milliseconds, when the interval is that short; `stop` ends the thread."""
    flushed = threading.Event()
    threads = set(threading.enumerate())
    timer = PeriodicFlush(flushed.set, 0.001, clock=SystemClock(), failed=lambda error: None)
    (thread,) = set(threading.enumerate()) - threads

    assert flushed.wait(5)
    timer.stop()
    thread.join(5)

    assert not thread.is_alive()


def test_stop_waits_for_a_flush_under_way() -> None:
    """So that the last flush of a mesh is really the last."""
    entered, go_on, order = threading.Event(), threading.Event(), list[str]()

    def flush() -> None:
        entered.set()
        go_on.wait(5)
        order.append("flushed")

    timer = PeriodicFlush(flush, 0.001, clock=SystemClock(), failed=lambda error: None)
    assert entered.wait(5)
    stopper = threading.Thread(target=lambda: (timer.stop(), order.append("stopped")))
    stopper.start()
    go_on.set()
    stopper.join(5)

    assert order == ["flushed", "stopped"]


def test_it_does_not_keep_the_interpreter_alive() -> None:
    """A program that forgets to shut down ends all the same."""
    program = """
from modelmesh._engine.flushing import PeriodicFlush
from modelmesh._engine.system import SystemClock
PeriodicFlush(lambda: None, 3600.0, clock=SystemClock(), failed=print)
print("over")
"""

    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=20, check=True)

    assert ended.stdout == "over\n"


Build = Callable[..., Any]


def test_a_mesh_flushes_what_accrued_and_then_only_what_is_new(build: Build) -> None:
    """Each request is handed over once, at the interval the configuration names or when the mesh ends."""
    world = build(a=["hi"] * 9, observe={"statistics": {"flush_interval": "10ms"}})
    world.ask()
    flushed = threading.Event()
    for _ in range(500):
        world.clock.advance(1)
        if world.sink.stats:
            break
        flushed.wait(0.01)
    world.ask()
    sink = world.seen()

    assert sum(stats["chat"].total_requests for stats in sink.stats if "chat" in stats) == 2
    assert len(sink.stats) >= 2


def test_a_mesh_nobody_takes_statistics_from_has_no_such_thread(build: Build) -> None:
    """Nothing is spent on what nobody reads."""
    before = {thread.name for thread in threading.enumerate()}
    build(a=["hi"])

    assert "modelmesh-flush" not in {thread.name for thread in threading.enumerate()} - before
