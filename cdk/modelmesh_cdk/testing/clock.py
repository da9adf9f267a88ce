"""Time and randomness a test holds in its hands, and the context that hands them to a connector."""

from __future__ import annotations

import asyncio
import random
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count

from modelmesh.interfaces.observability import Severity
from modelmesh.interfaces.runtime import Clock, ConnectorContext, Random

_TURNS = 20
"""How often the event loop goes round for everything that became ready to have run."""


@dataclass(order=True, slots=True)
class _Sleeper:
    wakes_at: float
    place: int
    loop: asyncio.AbstractEventLoop = field(compare=False)
    future: asyncio.Future[None] = field(compare=False)


class FakeClock:
    """A clock that stands still until it is told to move; whoever sleeps on it really waits for the test.

    It may be used from several threads and event loops at once, so it also serves a mesh whose loop runs in a thread.

    Args:
        monotonic: Where the monotonic clock starts, in seconds.
        time: Where the wall clock starts, as Unix time; by default 2026-01-01 00:00 UTC.
        auto_advance: Whether a sleep moves the clock to its own end at once instead of waiting for `advance`.

    Attributes:
        sleeps: The seconds of every sleep that was asked for, in order.
    """

    def __init__(
        self, *, monotonic: float = 1_000.0, time: float = 1_767_225_600.0, auto_advance: bool = False
    ) -> None:
        self.sleeps: list[float] = []
        self._monotonic = monotonic
        self._time = time
        self._auto_advance = auto_advance
        self._sleepers: list[_Sleeper] = []
        self._places = count()
        self._changed = threading.Condition()

    def __repr__(self) -> str:
        return f"FakeClock(monotonic={self._monotonic:g}, time={self._time:g}, sleepers={self.sleepers})"

    def monotonic(self) -> float:
        """Seconds since an arbitrary start."""
        return self._monotonic

    def time(self) -> float:
        """Unix time."""
        return self._time

    @property
    def sleepers(self) -> int:
        """How many sleep now."""
        with self._changed:
            return sum(not sleeper.future.done() for sleeper in self._sleepers)

    async def sleep(self, seconds: float) -> None:
        """Return once the clock has been moved this far; cancellation ends the wait at once."""
        self.sleeps.append(seconds)
        if seconds <= 0 or self._auto_advance:
            if seconds > 0:
                self.advance(seconds)
            await asyncio.sleep(0)
            return
        loop = asyncio.get_running_loop()
        with self._changed:
            sleeper = _Sleeper(self._monotonic + seconds, next(self._places), loop, loop.create_future())
            heappush(self._sleepers, sleeper)
            self._changed.notify_all()
        try:
            await sleeper.future
        finally:
            with self._changed:
                if sleeper in self._sleepers:
                    self._sleepers.remove(sleeper)
                    self._sleepers.sort()

    def advance(self, seconds: float) -> None:
        """Move both clocks and wake whoever is due, in the order they are due.

        The woken run when their event loop gets to them and see the clock where it was moved to; `run` stops at each
        one's own moment instead.

        Args:
            seconds: Not negative: the monotonic clock never goes back.
        """
        if seconds < 0:
            raise ValueError("time does not go back; use set_time to let the wall clock jump")
        with self._changed:
            self._monotonic += seconds
            self._time += seconds
            due: list[_Sleeper] = []
            while self._sleepers and self._sleepers[0].wakes_at <= self._monotonic:
                due.append(heappop(self._sleepers))
        for sleeper in due:
            _wake(sleeper)

    async def run(self, seconds: float) -> None:
        """Move the clocks from one sleeper's moment to the next, letting each go on (and sleep again) in between."""
        end = self._monotonic + seconds
        await _settle()
        while True:
            with self._changed:
                following = self._sleepers[0].wakes_at if self._sleepers else end
            if following >= end:
                break
            self.advance(max(0.0, following - self._monotonic))
            await _settle()
        self.advance(max(0.0, end - self._monotonic))
        await _settle()

    def set_time(self, time: float) -> None:
        """Let the wall clock jump, as a correction by the operating system does; nobody wakes."""
        self._time = time

    async def until_sleeping(self, sleepers: int = 1) -> None:
        """Let the running event loop go on until this many sleep.

        Raises:
            AssertionError: They never did.
        """
        for _ in range(1_000):
            if self.sleepers >= sleepers:
                return
            await asyncio.sleep(0)
        raise AssertionError(f"expected {sleepers} sleepers, have {self.sleepers}")

    def wait_until_sleeping(self, sleepers: int = 1, *, timeout: float = 5.0) -> None:
        """Block this thread until this many sleep on loops of other threads.

        Raises:
            AssertionError: They did not within ``timeout`` real seconds.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._sleepers) >= sleepers, timeout):
                raise AssertionError(f"expected {sleepers} sleepers, have {len(self._sleepers)}")


class FakeRandom:
    """Randomness that hands out what a test wrote down, and after that draws from a seed.

    Args:
        values: What `random` returns first, each from [0, 1).
        seed: Of all further draws.
    """

    def __init__(self, *values: float, seed: int = 0) -> None:
        if not all(0.0 <= value < 1.0 for value in values):
            raise ValueError("values must be from [0, 1)")
        self._values = list(reversed(values))
        self._drawn = random.Random(seed)  # noqa: S311 (repeatable draws for tests)

    def random(self) -> float:
        """Return the next value from [0, 1)."""
        return self._values.pop() if self._values else self._drawn.random()

    def uniform(self, a: float, b: float) -> float:
        """Return the next value, stretched over [a, b]."""
        return a + (b - a) * self.random()


def context(
    name: str = "test",
    *,
    clock: Clock | None = None,
    random: Random | None = None,
    traces: list[tuple[Severity, str]] | None = None,
) -> ConnectorContext:
    """Build what the core would hand a connector through ``bind``.

    Args:
        name: What the connector serves.
        clock: By default a `FakeClock`.
        random: By default a `FakeRandom`.
        traces: Receives what the connector traces; dropped by default.
    """

    def write(severity: Severity, message: str) -> None:
        if traces is not None:
            traces.append((severity, message))

    return ConnectorContext(
        name, clock if clock is not None else FakeClock(), random if random is not None else FakeRandom(), write
    )


def _wake(sleeper: _Sleeper) -> None:
    def wake() -> None:
        if not sleeper.future.done():
            sleeper.future.set_result(None)

    try:
        here: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
    except RuntimeError:
        here = None
    if here is sleeper.loop:
        wake()
    else:
        with suppress(RuntimeError):  # its loop is closed: nobody is left to wake
            sleeper.loop.call_soon_threadsafe(wake)


async def _settle() -> None:
    for _ in range(_TURNS):
        await asyncio.sleep(0)
