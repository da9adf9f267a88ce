"""Time limits by the thousand: one timer of an event loop serves all of them.

``asyncio.timeout`` sets a timer of the loop for each block; a router sets one limit or more for each attempt and
almost none of them ever ends anything, so here a limit is an entry in a heap. What a block sees is the same: the task
is cancelled, and the cancellation becomes `TimeoutError` at the block's end.
"""

from __future__ import annotations

import asyncio
from contextvars import Context
from heapq import heapify, heappop, heappush
from itertools import count
from types import TracebackType

_FEW = 64
"""Entries that are not worth tidying."""
_LATE = 0.05
"""Seconds after which a timer that fires is late: something blocked the loop meanwhile."""
_GRACE = 0.01
"""Seconds that a loop gets to look at what arrived while it was blocked."""


class Limit:
    """One block's limit; a context manager, used once.

    Attributes:
        expired: Whether the time ran out.
        running: Whether the block has not ended yet.
    """

    __slots__ = ("_before", "_deadlines", "_seconds", "_task", "expired", "running")

    def __init__(self, deadlines: _LoopDeadlines, seconds: float | None) -> None:
        self._deadlines = deadlines
        self._seconds = seconds
        self._task: asyncio.Task[object] | None = None
        self._before = 0
        self.expired = False
        self.running = False

    def __enter__(self) -> Limit:
        if self._seconds is not None:
            self._task = task = asyncio.current_task()
            if task is None:
                raise RuntimeError("a time limit needs a task")
            self._before = task.cancelling()
            self.running = True
            self._deadlines.add(self, self._seconds)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self.running:
            return
        self.running = False
        # The entry stays in the heap until its time has come; what the task holds, a whole mesh at worst, must not.
        task, self._task = self._task, None
        self._deadlines.done()
        if self.expired:
            assert task is not None
            # A task that somebody else cancelled as well stays cancelled.
            if task.uncancel() <= self._before and kind is not None and issubclass(kind, asyncio.CancelledError):
                raise TimeoutError from error

    def expire(self) -> None:
        """End the block: called when the time has run out."""
        assert self._task is not None
        self.expired = True
        self._task.cancel()


class _LoopDeadlines:
    """The limits of one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._heap: list[tuple[float, int, Limit]] = []
        self._numbers = count()
        self._running = 0
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._in_grace = False

    def add(self, limit: Limit, seconds: float) -> None:
        when = self._loop.time() + seconds
        heap = self._heap
        heappush(heap, (when, next(self._numbers), limit))
        self._running += 1
        if heap[0][2] is limit:
            self._set_timer(when)

    def done(self) -> None:
        self._running -= 1
        heap = self._heap
        if len(heap) > _FEW and len(heap) > 2 * self._running:
            self._heap = [entry for entry in heap if entry[2].running]
            heapify(self._heap)

    def _set_timer(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._due = when
        # In a context of its own: that of the request would stay with the timer.
        self._timer = self._loop.call_at(when, self._expire, context=Context())

    def _expire(self) -> None:
        self._timer = None
        heap = self._heap
        now = self._loop.time()
        if now - self._due > _LATE and not self._in_grace:
            # The answer may be here already, unread because the application blocked its loop.
            self._in_grace = True
            self._set_timer(now + _GRACE)
            return
        self._in_grace = False
        while heap and (heap[0][0] <= now or not heap[0][2].running):
            limit = heappop(heap)[2]
            if limit.running:
                limit.expire()
        if heap:
            self._set_timer(heap[0][0])


class Deadlines:
    """Hands out limits on whatever loop is running."""

    def __init__(self) -> None:
        self._loops: dict[asyncio.AbstractEventLoop, _LoopDeadlines] = {}

    def within(self, seconds: float | None) -> Limit:
        """Return a limit for a ``with`` block of the running task; it raises `TimeoutError` when the time is over.

        Args:
            seconds: None for no limit.
        """
        loop = asyncio.get_running_loop()
        found = self._loops.get(loop)
        if found is None:
            # Not a weak dictionary: a timer refers to its loop, so the entries of closed loops are let go here.
            self._loops = {each: limits for each, limits in self._loops.items() if not each.is_closed()}
            found = self._loops[loop] = _LoopDeadlines(loop)
        return Limit(found, seconds)
