"""Settlements off the path of requests: those that end at about the same time are settled together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextvars import Context
from itertools import islice

from modelmesh.errors import StateStoreError
from modelmesh.interfaces.ledger import Ledger

MOST = 256
"""Reservations that are settled together at most: a call has its time limit, however many it settles."""


class Settlements:
    """Settles what is given in, soon; what gathers while one call is out goes along with the next.

    Each event loop has a task of its own for it, as long as there is something to settle.

    Args:
        ledger: Keeps the reservations.
        failed: Told of each reservation that could not be settled.
        settled: Awaited after each call; raises nothing.
        late: Asked whether it takes a settlement that failed; ``failed`` is not told of those.
    """

    def __init__(
        self,
        ledger: Ledger,
        failed: Callable[[Exception], None],
        settled: Callable[[], Awaitable[None]],
        late: Callable[[str, Mapping[str, int], Exception], bool] = lambda *_: False,
    ) -> None:
        self._ledger = ledger
        self._failed = failed
        self._settled = settled
        self._late = late
        self._due: dict[asyncio.AbstractEventLoop, dict[str, Mapping[str, int]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def add(self, reservation: str, actual: Mapping[str, int]) -> None:
        """Settle a reservation at what was spent."""
        loop = asyncio.get_running_loop()
        due = self._due.get(loop)
        if due is None:
            due = self._due[loop] = {}
            # A context of its own: the task serves many requests, and is none of theirs.
            task = loop.create_task(self._settle(loop, due), context=Context())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        due[reservation] = actual

    async def finish(self) -> None:
        """Wait for what is still being settled on this loop."""
        loop = asyncio.get_running_loop()
        waiting = [task for task in self._tasks if task.get_loop() is loop]
        if waiting:
            await asyncio.wait(waiting)

    async def _settle(self, loop: asyncio.AbstractEventLoop, due: dict[str, Mapping[str, int]]) -> None:
        try:
            while due:
                batch = {reservation: due.pop(reservation) for reservation in list(islice(due, MOST))}
                for reservation, error in (await self._errors(batch)).items():
                    if not self._late(reservation, batch[reservation], error):
                        self._failed(error)
                await self._settled()
        finally:
            # Nothing is awaited between the last look at what is due and this line.
            del self._due[loop]

    async def _errors(self, batch: Mapping[str, Mapping[str, int]]) -> Mapping[str, Exception]:
        """Settle a batch; return the error of each reservation that was not."""
        try:
            outcomes = await self._ledger.settle_all(batch)
        except Exception as error:  # of a store whoever wrote it: the next batch is settled all the same
            return dict.fromkeys(batch, error)
        return {name: outcome for name, outcome in outcomes.items() if isinstance(outcome, StateStoreError)}
