"""How long callbacks hold an event loop up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def timed_callbacks() -> Iterator[list[tuple[float, float]]]:
    """Time every callback of asyncio's own event loops, while this lasts.

    Yields:
        Of each, in the order they ended: seconds of CPU its thread took, and seconds by the clock on the wall.
    """
    spans: list[tuple[float, float]] = []
    run = asyncio.events.Handle._run

    def timed(self: asyncio.events.Handle) -> None:
        wall, spent = time.perf_counter(), time.thread_time()
        run(self)
        spans.append((time.thread_time() - spent, time.perf_counter() - wall))

    asyncio.events.Handle._run = timed  # type: ignore[method-assign]
    try:
        yield spans
    finally:
        asyncio.events.Handle._run = run  # type: ignore[method-assign]
