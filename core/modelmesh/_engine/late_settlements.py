"""Settlements that a store which did not answer may not have made: made again when it does, while their leases run.

Without it each request that ended meanwhile would count as all it had reserved, and hold its place among its provider's
concurrent calls until its lease ends: ten minutes, for an outage of a second.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice

from modelmesh._engine.attempts import Attempts
from modelmesh._engine.guarded_ledger import NotAskedError
from modelmesh.errors import StateStoreError
from modelmesh.interfaces.ledger import Ledger
from modelmesh.interfaces.runtime import Clock

FIRST_WAIT, LONGEST_WAIT = 1.0, 4.0
"""Seconds between attempts: doubled each time the store was asked in vain."""

KEPT_SECONDS = 3_600.0
"""After which a settlement is given up: the lease of almost every reservation has ended by then."""

MOST = 256
"""Reservations that are settled together at most, as with `Settlements`."""


@dataclass(frozen=True, slots=True)
class _Late:
    actual: Mapping[str, int]
    until: float
    error: Exception


class LateSettlements:
    """Settles such reservations, or leaves them to their leases when the loop ends first.

    One that the store has settled unheard is not settled twice: it finds nothing open.

    Args:
        ledger: Keeps the reservations.
        clock: Time.
        lost: Told why of each that is left to its lease.
    """

    def __init__(self, ledger: Ledger, clock: Clock, lost: Callable[[Exception], None]) -> None:
        self._ledger = ledger
        self._clock = clock
        self._lost = lost
        self._attempts = Attempts(clock, FIRST_WAIT, self._attempt, self._leave)

    def takes(self, reservation: str, actual: Mapping[str, int], error: Exception) -> bool:
        """Take a settlement that failed, if it did because the store could not be asked just then."""
        if not _passes(error):
            return False
        self._attempts.put(reservation, _Late(actual, self._clock.monotonic() + KEPT_SECONDS, error))
        return True

    async def finish(self) -> None:
        """Make a last attempt for this loop."""
        await self._attempts.finish()

    def _leave(self, late: _Late) -> None:
        self._lost(late.error)

    async def _attempt(self, waiting: dict[str, _Late], waited: float) -> float:
        """Settle what waits; wait longer and longer while the store is asked in vain."""
        in_vain = False
        names = iter(list(waiting))
        while batch := {name: waiting[name].actual for name in islice(names, MOST)}:
            outcomes: Mapping[str, object]
            try:
                outcomes = await self._ledger.settle_all(batch)
            except Exception as raised:  # of a store whoever wrote it
                outcomes = dict.fromkeys(batch, raised)
            for name in batch:
                error = outcomes.get(name)
                if not isinstance(error, Exception):
                    del waiting[name]
                    continue
                in_vain = in_vain or not isinstance(error, NotAskedError)
                if not _passes(error) or self._clock.monotonic() >= waiting[name].until:
                    del waiting[name]
                    self._lost(error)
            if any(name in waiting for name in batch):
                break
        return min(2.0 * waited, LONGEST_WAIT) if in_vain else FIRST_WAIT


def _passes(error: Exception) -> bool:
    """Whether it says nothing of what was asked, but only that the store could not answer now."""
    return isinstance(error, NotAskedError) or (isinstance(error, StateStoreError) and error.retryable)
