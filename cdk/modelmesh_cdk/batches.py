"""Many tasks' questions to few connections: what gathers while one batch is out goes out together in the next.

Batches have tasks of their own. So a connection is never shared, one round trip serves all who wait, and an asking task
may be cancelled at any moment without hurting the connection: it only stops waiting.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextvars import Context
from typing import Generic, TypeVar, cast

from modelmesh.errors import StateStoreError

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
        # When the callers stop waiting, soonest first: one timer serves all, for almost none of them ever does.
        self._limits: deque[tuple[float, asyncio.Future[Result]]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    async def ask(self, item: Item, *, within: float) -> Result:
        """Return an item's result.

        Args:
            item: Left out when its batch has not gone out by the time the caller stops waiting.
            within: Seconds this caller waits, its turn included.

        Raises:
            TimeoutError: There was no result in time; whether the item was carried out is not known.
            StateStoreError: It was closed before the item was answered.
        """
        return await self.put(item, within=within)

    async def ask_all(self, items: Iterable[Item], *, within: float) -> list[Result | Exception]:
        """Return each item's result, or the exception that `ask` would have raised."""
        return await outcomes_of([self.put(item, within=within) for item in items])

    def put(self, item: Item, *, within: float) -> asyncio.Future[Result]:
        """Give an item in; its future ends as `ask` does."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Result] = loop.create_future()
        self._waiting.append((item, answer))
        if len(self._workers) < self._lanes:
            # A context of its own: the batch serves many, and outlives the request that happened to start it.
            self._workers.add(loop.create_task(self._work(), context=Context()))
        self._end_at(loop.time() + within, answer, loop)
        return answer

    def _end_at(self, due: float, answer: asyncio.Future[Result], loop: asyncio.AbstractEventLoop) -> None:
        limits = self._limits
        while limits and limits[0][1].done():
            limits.popleft()
        if limits and due < limits[-1][0]:
            loop.call_at(due, _give_up, answer)
            return
        limits.append((due, answer))
        if self._timer is None:
            self._timer = loop.call_at(due, self._end_late, loop)

    def _end_late(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        while self._limits and (self._limits[0][1].done() or self._limits[0][0] <= now):
            _give_up(self._limits.popleft()[1])
        self._timer = loop.call_at(self._limits[0][0], self._end_late, loop) if self._limits else None

    async def end(self, grace: float) -> None:
        """Wait for what is out, for so many seconds; then stop it. What was not answered by then is refused."""
        while self._waiting:
            _close(self._waiting.popleft()[1])
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
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
                _close(answer)
            raise
        for (_, answer), outcome in zip(batch, outcomes, strict=True):
            if answer.done():
                continue
            if isinstance(outcome, Exception):
                answer.set_exception(outcome)
            else:
                answer.set_result(outcome)


async def outcomes_of(futures: Sequence[asyncio.Future[Result]]) -> list[Result | Exception]:
    """Wait for each; return its result or its exception. Where the wait is cancelled, so are they."""
    outcomes: list[Result | Exception] = []
    try:
        for future in futures:
            try:
                outcomes.append(await future)
            except Exception as error:
                outcomes.append(error)
    finally:
        for future in futures[len(outcomes) :]:
            future.cancel()
    return outcomes


def _close(answer: asyncio.Future[Result]) -> None:
    if not answer.done():
        answer.set_exception(StateStoreError("the state store is closed"))


def _give_up(answer: asyncio.Future[Result]) -> None:
    if not answer.done():
        answer.set_exception(TimeoutError())
