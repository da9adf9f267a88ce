"""Settlements that a store which did not answer may not have made: made again when it does, while their leases run.

Without it each request that ended meanwhile would count as all it had reserved, and hold its place among its provider's
concurrent calls until its lease ends: ten minutes, for an outage of a second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextvars import Context
from dataclasses import dataclass
from itertools import islice

from modelmesh._engine.guarded_ledger import NotAskedError
from modelmesh.errors import StateStoreError
from modelmesh.interfaces.ledger import Ledger
from modelmesh.interfaces.runtime import Clock

FIRST_WAIT, LONGEST_WAIT = 1.0, 4.0
"""Seconds between attempts: doubled each time the store was asked in vain."""

KEPT_SECONDS = 3_600.0
"""After which a settlement is given up: the lease of almost every reservation has ended by then."""

MOST = 256
"""Reservations that are settled together at most, as with `Settlements`."""


@dataclass(frozen=True, slots=True)
class _Late:
    actual: Mapping[str, int]
    until: float
    error: Exception


class LateSettlements:
    """Settles such reservations, or leaves them to their leases when the loop ends first.

    One that the store has settled unheard is not settled twice: it finds nothing open. Each event loop has a task of
    its own for it, as long as there is something to settle.

    Args:
        ledger: Keeps the reservations.
        clock: Time.
        lost: Told why of each that is left to its lease.
    """

    def __init__(self, ledger: Ledger, clock: Clock, lost: Callable[[Exception], None]) -> None:
        self._ledger = ledger
        self._clock = clock
        self._lost = lost
        self._waiting: dict[asyncio.AbstractEventLoop, dict[str, _Late]] = {}
        self._tasks: dict[asyncio.AbstractEventLoop, asyncio.Task[None]] = {}

    def takes(self, reservation: str, actual: Mapping[str, int], error: Exception) -> bool:
        """Take a settlement that failed, if it did because the store could not be asked just then."""
        if not _passes(error):
            return False
        loop = asyncio.get_running_loop()
        waiting = self._waiting.get(loop)
        if waiting is None:
            waiting = self._waiting[loop] = {}
            # A context of its own: the task serves many requests, and is none of theirs.
            self._tasks[loop] = loop.create_task(self._settle_all(loop, waiting), context=Context())
        waiting[reservation] = _Late(actual, self._clock.monotonic() + KEPT_SECONDS, error)
        return True

    async def finish(self) -> None:
        """Make a last attempt for this loop."""
        loop = asyncio.get_running_loop()
        waiting, task = self._waiting.get(loop), self._tasks.get(loop)
        if waiting is None or task is None:
            return
        await self._attempt(waiting)
        task.cancel()
        await asyncio.wait([task])
        self._end(loop)  # a task that never began did not

    async def _settle_all(self, loop: asyncio.AbstractEventLoop, waiting: dict[str, _Late]) -> None:
        wait = FIRST_WAIT
        try:
            while waiting:
                await self._clock.sleep(wait)
                wait = min(2.0 * wait, LONGEST_WAIT) if await self._attempt(waiting) else FIRST_WAIT
        finally:
            # Nothing is awaited between the last look at what waits and this line.
            self._end(loop)

    def _end(self, loop: asyncio.AbstractEventLoop) -> None:
        self._tasks.pop(loop, None)
        for late in self._waiting.pop(loop, {}).values():
            self._lost(late.error)

    async def _attempt(self, waiting: dict[str, _Late]) -> bool:
        """Settle what waits; return whether the store was asked in vain."""
        in_vain = False
        names = iter(list(waiting))
        while batch := {name: waiting[name].actual for name in islice(names, MOST)}:
            outcomes: Mapping[str, object]
            try:
                outcomes = await self._ledger.settle_all(batch)
            except Exception as raised:  # of a store whoever wrote it
                outcomes = dict.fromkeys(batch, raised)
            for name in batch:
                error = outcomes.get(name)
                if not isinstance(error, Exception):
                    del waiting[name]
                    continue
                in_vain = in_vain or not isinstance(error, NotAskedError)
                if not _passes(error) or self._clock.monotonic() >= waiting[name].until:
                    del waiting[name]
                    self._lost(error)
            if any(name in waiting for name in batch):
                break
        return in_vain


def _passes(error: Exception) -> bool:
    """Whether it says nothing of what was asked, but only that the store could not answer now."""
    return isinstance(error, NotAskedError) or (isinstance(error, StateStoreError) and error.retryable)
