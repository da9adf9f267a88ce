"""The clocks of a simulated process: one that never goes back, and one on the wall that may be wrong."""

from __future__ import annotations

import asyncio

from modelmesh_cdk.testing.simulation.loop import SimulationLoop


class SimulatedClock:
    """Time as one process sees it.

    Args:
        loop: Whose time passes.
        epoch: Unix time, by a clock that is right, when the loop's time was at its start.
        skew: Seconds this process's wall clock is ahead.

    Attributes:
        jumps: Seconds by which the wall clock was put forward in all.
    """

    def __init__(self, loop: SimulationLoop, epoch: float, skew: float = 0.0) -> None:
        self._loop = loop
        self._epoch = epoch - loop.time()
        self.jumps = skew
        # The loop's own function: a method around it would cost more than it does.
        self.monotonic = loop.time

    def time(self) -> float:
        """Unix time, as this process takes it to be."""
        return self._epoch + self._loop.time() + self.jumps

    def true_time(self) -> float:
        """Unix time."""
        return self._epoch + self._loop.time()

    def jump(self, seconds: float) -> None:
        """Put the wall clock forward, or back if negative."""
        self.jumps += seconds

    async def sleep(self, seconds: float) -> None:
        """Return after this many virtual seconds."""
        await asyncio.sleep(seconds)
