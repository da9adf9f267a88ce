"""Many tasks' questions to few connections: what gathers while one batch is out goes out together in the next.

Batches have tasks of their own. So a connection is never shared, one round trip serves all who wait, and an asking task
may be cancelled at any moment without hurting the connection: it only stops waiting.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from typing import Generic, TypeVar, cast

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batches(Generic[Item, Result]):
    """Carries items out in batches, on one event loop.

    Args:
        carry_out: Awaited with a batch; returns a result, or the exception, of each item. What it raises befalls the
            whole batch.
        limit: Items in a batch at most.
        lanes: Batches that may be out at a time.
    """

    def __init__(
        self,
        carry_out: Callable[[Sequence[Item]], Awaitable[Sequence[Result | Exception]]],
        *,
        limit: int = 256,
        lanes: int = 1,
    ) -> None:
        self._carry_out = carry_out
        self._limit = limit
        self._lanes = lanes
        self._waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._workers: set[asyncio.Task[None]] = set()

    async def ask(self, item: Item, *, within: float) -> Result:
        """Return an item's result.

        Args:
            item: Left out when its batch has not gone out by the time the caller stops waiting.
            within: Seconds this caller waits, its turn included.

        Raises:
            TimeoutError: There was no result in time; whether the item was carried out is not known.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Result] = loop.create_future()
        self._waiting.append((item, answer))
        if len(self._workers) < self._lanes:
            # A context of its own: the batch serves many, and outlives the request that happened to start it.
            self._workers.add(loop.create_task(self._work(), context=Context()))
        async with asyncio.timeout(within):
            return await answer

    async def end(self, grace: float) -> None:
        """Wait for what is out, for so many seconds; then stop it. What has not gone out yet is cancelled."""
        while self._waiting:
            self._waiting.popleft()[1].cancel()
        workers = set(self._workers)
        if workers:
            _, late = await asyncio.wait(workers, timeout=grace)
            for worker in late:
                worker.cancel()
            if late:
                await asyncio.wait(late, timeout=grace)

    async def _work(self) -> None:
        try:
            while batch := self._next():
                await self._serve(batch)
        finally:
            # Nothing is awaited between the last look at the queue and this line.
            self._workers.discard(cast("asyncio.Task[None]", asyncio.current_task()))

    def _next(self) -> list[tuple[Item, asyncio.Future[Result]]]:
        batch: list[tuple[Item, asyncio.Future[Result]]] = []
        while self._waiting and len(batch) < self._limit:
            waiting = self._waiting.popleft()
            if not waiting[1].done():
                batch.append(waiting)
        return batch

    async def _serve(self, batch: list[tuple[Item, asyncio.Future[Result]]]) -> None:
        outcomes: Sequence[Result | Exception]
        try:
            outcomes = await self._carry_out([item for item, _ in batch])
        except Exception as error:
            outcomes = [error] * len(batch)
        except BaseException:
            for _, answer in batch:
                answer.cancel()
            raise
        for (_, answer), outcome in zip(batch, outcomes, strict=True):
            if answer.done():
                continue
            if isinstance(outcome, Exception):
                answer.set_exception(outcome)
            else:
                answer.set_result(outcome)
