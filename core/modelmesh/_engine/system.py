"""The real world: the only module of the core that reads the system's clock and randomness."""

from __future__ import annotations

import asyncio
import random
import time

from modelmesh.interfaces.runtime import Random


class SystemClock:
    """The system's clocks."""

    __slots__ = ()

    # The functions themselves: a method around them would cost more than they do, several times a request.
    monotonic = staticmethod(time.monotonic)
    time = staticmethod(time.time)

    async def sleep(self, seconds: float) -> None:
        """Wait on the running event loop."""
        await asyncio.sleep(seconds)


def system_random() -> Random:
    """Return randomness seeded by the system."""
    return random.Random()  # noqa: S311 (jitter and weighted choice, nothing secret)
