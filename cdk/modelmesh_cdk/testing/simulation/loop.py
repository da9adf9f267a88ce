"""An event loop on which an hour takes no time and every run of a seed is the same run.

Its time is virtual: when nothing is ready, it moves on to the next timer. Of the callbacks that are ready it takes one
by lot, so that a thousand seeds see a thousand interleavings, and it counts each draw into a digest, so that two runs
can be compared. It has no selector: sockets, subprocesses and threads are beyond it.
"""

from __future__ import annotations

import asyncio
import random
from asyncio import base_events
from collections.abc import Callable, Coroutine
from heapq import heappop
from typing import Any, TypeVar

Result = TypeVar("Result")

_MASK = (1 << 64) - 1


class StalledError(AssertionError):
    """Everybody waits and no timer is set: what the loop was to run would never end."""


class RunawayError(AssertionError):
    """More callbacks ran than a simulation of this size may need: something spins without waiting."""


class SimulationLoop(base_events.BaseEventLoop):
    """A seeded event loop in virtual time.

    Args:
        seed: Of the order among callbacks that are ready; None keeps them in the order they came in.
        start: Where its time begins, in seconds.
        most_steps: Callbacks after which it gives up.

    Attributes:
        steps: Callbacks run so far.
        after_step: Called after each callback; what it raises ends the run.
        failures: What the loop's exception handler was told: exceptions that nobody took.
    """

    _ready: Any
    _scheduled: list[asyncio.TimerHandle]

    def __init__(self, seed: int | None = 0, *, start: float = 1_000.0, most_steps: int = 2_000_000) -> None:
        super().__init__()
        self._now = start
        self._draw = None if seed is None else random.Random(seed)  # noqa: S311 (repeatable draws for tests)
        self._digest = 0
        self._most_steps = most_steps
        self._ready = []
        self.steps = 0
        self.after_step: Callable[[], None] | None = None
        self.failures: list[dict[str, Any]] = []
        self.set_exception_handler(lambda _, context: self.failures.append(context))

    def time(self) -> float:
        """Seconds of virtual time."""
        return self._now

    @property
    def digest(self) -> str:
        """What identifies the run so far: equal digests, equal runs."""
        return f"{self._digest:016x}"

    def note(self, what: str) -> None:
        """Count something into the digest."""
        digest = self._digest
        for letter in what.encode():
            digest = (digest * 1_099_511_628_211 ^ letter) & _MASK
        self._digest = digest

    def run(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """Run a coroutine to its end.

        Raises:
            StalledError: It waits for something that nothing is left to bring about.
        """
        asyncio.set_event_loop(self)
        try:
            return self.run_until_complete(coroutine)
        finally:
            asyncio.set_event_loop(None)

    def close(self) -> None:
        """Cancel what still runs, and close."""
        if self.is_closed():
            return
        if not self.is_running():
            leftover = tasks_of(self)
            for task in leftover:
                task.cancel()
            for _ in range(1_000):
                if all(task.done() for task in leftover) and not self._ready:
                    break
                self._step_all()
            for task in leftover:
                if task.done() and not task.cancelled():
                    task.exception()  # taken: nobody wants to hear of it any more
        super().close()

    # --- what BaseEventLoop asks of its kind ------------------------------------------

    def _run_once(self) -> None:
        """Run one callback; move time on when none is ready."""
        scheduled, ready = self._scheduled, self._ready
        while not ready:
            while scheduled and scheduled[0]._cancelled:
                heappop(scheduled)._scheduled = False  # type: ignore[attr-defined]  # as its base class does
            if not scheduled:
                if self._stopping:  # type: ignore[attr-defined]  # of the base class
                    return
                raise StalledError(f"nothing is left to do at {self._now:.3f} s, and somebody still waits")
            self._now = max(self._now, scheduled[0].when())
            while scheduled and scheduled[0].when() <= self._now:
                timer = heappop(scheduled)
                timer._scheduled = False  # type: ignore[attr-defined]
                if not timer.cancelled():
                    ready.append(timer)
        count = len(ready)
        place = 0 if count == 1 or self._draw is None else int(self._draw.random() * count)
        handle = ready.pop(place)
        self._digest = (self._digest * 1_099_511_628_211 ^ (count << 20) ^ place) & _MASK
        self.steps += 1
        if self.steps > self._most_steps:
            raise RunawayError(f"{self.steps:,} callbacks ran by {self._now:.3f} s; something never waits")
        if not handle._cancelled:
            handle._run()
            if self.after_step is not None:
                self.after_step()

    def _step_all(self) -> None:
        """Run what is ready, without moving time; for closing."""
        events = asyncio.events
        events._set_running_loop(self)
        try:
            for handle in self._ready[:]:
                self._ready.remove(handle)
                if not handle._cancelled:
                    handle._run()
        finally:
            events._set_running_loop(None)

    def _process_events(self, event_list: object) -> None:
        """Nothing comes from outside."""

    def _write_to_self(self) -> None:
        """Nobody sleeps in a selector: what is called from elsewhere is called in its turn."""


def tasks_of(loop: asyncio.AbstractEventLoop) -> list[asyncio.Task[Any]]:
    """Return the tasks of a loop that are not done, in an order that is the same in every run."""
    return sorted(asyncio.all_tasks(loop), key=_age)


def _age(task: asyncio.Task[Any]) -> tuple[int, str]:
    name = task.get_name()
    number = name.rpartition("-")[2]
    return (int(number) if number.isdigit() else 0, name)
