"""Reservations whose answer nobody heard: the store may have granted them, and the calls they were for are not made."""

from __future__ import annotations

import asyncio
from contextvars import Context

from modelmesh.errors import StateStoreError
from modelmesh.interfaces.ledger import Ledger
from modelmesh.interfaces.runtime import Clock

AGAIN_SECONDS = 1.0
"""How long after a claim that was not answered, and after each attempt, its release is attempted."""

ANSWERS = 3
"""How many answers to releases are waited for that know nothing of a claim: it may still be on its way itself."""


class Unheard:
    """Releases such reservations as soon as the store answers, or leaves them to their leases when the loop ends first.

    Each event loop has a task of its own for it, as long as there is something to release.

    Args:
        ledger: Keeps the reservations.
        clock: Time.
    """

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        self._ledger = ledger
        self._clock = clock
        self._waiting: dict[asyncio.AbstractEventLoop, dict[str, int]] = {}
        self._tasks: dict[asyncio.AbstractEventLoop, asyncio.Task[None]] = {}

    def add(self, reservation: str) -> None:
        """Release a reservation that was asked for and not answered."""
        loop = asyncio.get_running_loop()
        waiting = self._waiting.get(loop)
        if waiting is None:
            waiting = self._waiting[loop] = {}
            self._tasks[loop] = loop.create_task(self._release_all(loop, waiting), context=Context())
        waiting[reservation] = ANSWERS

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

    async def _release_all(self, loop: asyncio.AbstractEventLoop, waiting: dict[str, int]) -> None:
        try:
            while waiting:
                await self._clock.sleep(AGAIN_SECONDS)
                await self._attempt(waiting)
        finally:
            # Nothing is awaited between the last look at what waits and this line.
            self._end(loop)

    def _end(self, loop: asyncio.AbstractEventLoop) -> None:
        self._waiting.pop(loop, None)
        self._tasks.pop(loop, None)

    async def _attempt(self, waiting: dict[str, int]) -> None:
        for reservation in list(waiting):
            try:
                was_granted = await self._ledger.release(reservation)
            except StateStoreError:
                return  # it does not answer yet
            waiting[reservation] -= 1
            if was_granted or not waiting[reservation]:
                del waiting[reservation]
