"""Who holds which lock, with the time passed in and nothing kept elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelmesh.errors import StateStoreError
from modelmesh.interfaces.state_store import StoreLock
from modelmesh_cdk.ledger import LONGEST_SECONDS


class LockTable:
    """Locks by name. Not thread-safe: whoever shares it locks around each call.

    Attributes:
        fence: The highest that was given; it grows over all names, so that a lock nobody holds needs no memory.
        held: Fence and end (seconds of the clock that is passed in) of each lock that was taken.
    """

    def __init__(self) -> None:
        self.fence = 0
        self.held: dict[str, tuple[int, float]] = {}

    def lock(self, now: float, name: str, expires_in: float) -> StoreLock | None:
        """Take a lock that nobody holds or whose time is over; None when somebody does."""
        holder = self.held.get(name)
        if holder is not None and now < holder[1]:
            return None
        self.held = {other: each for other, each in self.held.items() if now < each[1]}
        self.fence += 1
        self.held[name] = (self.fence, now + expires_in)
        return StoreLock(name, self.fence, expires_in)

    def unlock(self, now: float, lock: StoreLock) -> bool:
        """Give it back; False when it was no longer this holder's."""
        holder = self.held.get(lock.name)
        if holder is None or holder[0] != lock.fence:
            return False
        del self.held[lock.name]
        return now < holder[1]

    def dump(self) -> dict[str, Any]:
        """Return everything as lists, numbers and text, for `LockTable.read`."""
        return {"fence": self.fence, "held": {name: list(each) for name, each in self.held.items()}}

    @classmethod
    def read(cls, dumped: Mapping[str, Any]) -> LockTable:
        """Make the table that `dump` described.

        Raises:
            ValueError: It is no such description; or KeyError, TypeError.
        """
        table = cls()
        table.fence = int(dumped["fence"])
        table.held = {name: (int(fence), float(until)) for name, (fence, until) in dumped["held"].items()}
        return table


def check_expiry(expires_in: float) -> None:
    """Refuse a lock that never ends, or never begins.

    Raises:
        StateStoreError: ``expires_in`` is no positive time.
    """
    if not 0.0 < expires_in <= LONGEST_SECONDS:
        raise StateStoreError(f"a lock expires after a positive number of seconds, 1e10 at most, not {expires_in!r}")
