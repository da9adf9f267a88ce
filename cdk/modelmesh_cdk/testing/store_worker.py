"""What the contract of state stores does in other processes, which find it here by its name."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from modelmesh.errors import StateStoreError
from modelmesh.interfaces.ledger import WindowClaim
from modelmesh.interfaces.state_store import StateStore
from modelmesh_cdk.testing.clock import context

LONG = 100_000.0


class RealClock:
    """The system's clocks: several processes can share no fake one."""

    monotonic = staticmethod(time.monotonic)
    time = staticmethod(time.time)

    async def sleep(self, seconds: float) -> None:
        """Wait on the running event loop."""
        await asyncio.sleep(seconds)


def work(factory: Callable[[], StateStore], task: str, name: str, start: Any, results: Any) -> None:
    """Build a store, wait for the others, carry out one task and put its result, or its error's text, into a queue."""
    try:
        results.put((name, asyncio.run(_work(factory, TASKS[task], name, start))))
    except BaseException as error:
        start.abort()  # nobody shall wait for this one
        results.put((name, f"{type(error).__name__}: {error}"))
        raise


async def _work(
    factory: Callable[[], StateStore], task: Callable[[StateStore, str], Awaitable[Any]], name: str, start: Any
) -> Any:
    store = factory()
    bind = getattr(store, "bind", None)
    if bind is not None:
        bind(context("storage", clock=RealClock()))
    try:
        await store.load("warm-up")
        start.wait(60.0)
        return await task(store, name)
    finally:
        await store.close()


async def claim(store: StateStore, name: str) -> int:
    """Claim ten cents 250 times at once; return how often it was granted."""
    dime = WindowClaim("budget", 100_000_000, 5_000_000_000, LONG)
    verdicts = await asyncio.gather(*(store.reserve(f"{name}-{i}", [dime], lease=LONG) for i in range(250)))
    return sum(verdict.granted for verdict in verdicts)


async def count(store: StateStore, name: str) -> list[int]:
    """Count a record up 20 times by compare and set and another 10 times under a lock; return the lock's fences."""
    for _ in range(20):
        await _count_up(store, "counted", compare=True)
    fences: list[int] = []
    while len(fences) < 10:
        lock = await store.lock("counting", expires_in=LONG)
        if lock is None:
            await asyncio.sleep(0.001)
            continue
        await _count_up(store, "locked", compare=False)
        fences.append(lock.fence)
        if not await store.unlock(lock):
            raise StateStoreError("a lock that was held could not be given back")
    return fences


async def _count_up(store: StateStore, key: str, *, compare: bool) -> None:
    while True:
        record = await store.load(key)
        version, value = (record.version, int(record.data)) if record is not None else (0, 0)
        if await store.save(key, b"%d" % (value + 1), expected_version=version if compare else None) is not None:
            return


TASKS: dict[str, Callable[[StateStore, str], Awaitable[Any]]] = {"claim": claim, "count": count}
"""What a worker can be told to do."""
