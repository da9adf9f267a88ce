"""What one mesh shares between its doors: time, randomness, the driver, and the thread for blocking callers."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING
from weakref import WeakSet

from modelmesh._engine.batches import Batches
from modelmesh._engine.driver import Driver
from modelmesh._engine.loop_thread import LoopThread
from modelmesh._engine.telemetry import Telemetry
from modelmesh.interfaces.runtime import Clock, Random
from modelmesh.statistics import StatisticsCollector

if TYPE_CHECKING:
    from modelmesh.router import RoutedStream


class RequestIds:
    """Request IDs: a random prefix for the mesh and a running number, so they cost nothing and sort by age."""

    def __init__(self, random: Random) -> None:
        self.prefix = f"req_{int(random.random() * 2**48):012x}_"
        self._numbers = count(1)

    def __call__(self) -> str:
        """Return the next one."""
        return f"{self.prefix}{next(self._numbers):x}"


@dataclass(slots=True)
class Engine:
    """The parts of a mesh that its router works with; ``streams`` are those somebody may still read."""

    clock: Clock
    random: Random
    driver: Driver
    telemetry: Telemetry
    statistics: StatisticsCollector
    loop: LoopThread
    request_ids: RequestIds
    batches: Batches
    lock: threading.RLock = field(default_factory=threading.RLock)
    streams: WeakSet[RoutedStream] = field(default_factory=WeakSet)
