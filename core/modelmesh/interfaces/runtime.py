"""The world as the core sees it: a clock, randomness, and a way to start tasks.

The core takes these as arguments and never imports ``time`` or ``random``. The real ones are made by
`modelmesh.ModelMesh`; tests and the simulator pass their own (``modelmesh_cdk.testing.FakeClock``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

from modelmesh.interfaces.observability import Severity


class Clock(Protocol):
    """Time, in seconds."""

    def monotonic(self) -> float:
        """Seconds from an arbitrary start; never goes back. Measures durations and deadlines."""
        ...

    def time(self) -> float:
        """Unix time. May jump; used only for what people read and for calendar windows."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after this many seconds; cancellation ends the wait at once."""
        ...


class Random(Protocol):
    """The part of ``random.Random`` the core draws from."""

    def random(self) -> float:
        """Draw from [0, 1)."""
        ...

    def uniform(self, a: float, b: float) -> float:
        """Draw from [a, b]."""
        ...


class Spawn(Protocol):
    """Starts a task on the running loop and keeps it referenced until it ends."""

    def __call__(self, coroutine: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None]:
        """Start it; its exception, if any, is traced and does not spread."""
        ...


def _no_trace(severity: Severity, message: str) -> None:
    """Drop the trace: the connector stands alone."""


@dataclass(frozen=True, slots=True)
class ConnectorContext:
    """What the core hands a connector right after building it, through ``bind(context)``.

    Attributes:
        name: What it serves: the provider ID, the pool ID, or the section of the configuration.
        clock: Time.
        random: Randomness, seeded in tests.
        trace: Writes one line to the trace, as component ``<kind>.<name>``; never pass a secret or a prompt.
        redacts: Whether the core takes secrets out of all it hands over, so that the connector need not.
    """

    name: str
    clock: Clock
    random: Random
    trace: Callable[[Severity, str], None] = _no_trace
    redacts: bool = False
