"""What is attempted again and again on the event loop it came up on, as long as anything waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import Context
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from modelmesh.interfaces.runtime import Clock

Item = TypeVar("Item")


@dataclass(slots=True)
class _Place(Generic[Item]):
    """What waits on one loop; an attempt is made by one at a time, for it takes out what it saw before."""

    waiting: dict[str, Item] = field(default_factory=dict)
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    task: asyncio.Task[None] | None = None


class Attempts(Generic[Item]):
    """Keeps what waits, and a task of its own on each event loop on which something does.

    Args:
        clock: Time.
        first: Seconds before the first attempt.
        attempt: Takes out of what waits what is done with, and returns the seconds before the next attempt; given what
            waits, and how long was waited before. Raises nothing.
        left: Told of each that still waits when its loop ends, or the mesh.
    """

    def __init__(
        self,
        clock: Clock,
        first: float,
        attempt: Callable[[dict[str, Item], float], Awaitable[float]],
        left: Callable[[Item], None] = lambda _: None,
    ) -> None:
        self._clock = clock
        self._first = first
        self._attempt = attempt
        self._left = left
        self._places: dict[asyncio.AbstractEventLoop, _Place[Item]] = {}

    def __len__(self) -> int:
        return sum(len(place.waiting) for place in self._places.values())

    def put(self, name: str, item: Item) -> None:
        """Have something attempted on this loop."""
        loop = asyncio.get_running_loop()
        place = self._places.get(loop)
        if place is None:
            place = self._places[loop] = _Place()
            # A context of its own: the task serves many requests, and is none of theirs.
            place.task = loop.create_task(self._run(loop, place), context=Context())
        place.waiting[name] = item

    async def finish(self) -> None:
        """Make a last attempt for this loop."""
        loop = asyncio.get_running_loop()
        place = self._places.get(loop)
        if place is None or place.task is None:
            return
        async with place.turn:
            await self._attempt(place.waiting, self._first)
        place.task.cancel()
        await asyncio.wait([place.task])
        self._end(loop)  # a task that never began did not

    async def _run(self, loop: asyncio.AbstractEventLoop, place: _Place[Item]) -> None:
        wait = self._first
        try:
            while place.waiting:
                await self._clock.sleep(wait)
                async with place.turn:
                    wait = await self._attempt(place.waiting, wait)
        finally:
            # Nothing is awaited between the last look at what waits and this line.
            self._end(loop)

    def _end(self, loop: asyncio.AbstractEventLoop) -> None:
        place = self._places.pop(loop, None)
        for item in place.waiting.values() if place is not None else ():
            self._left(item)
