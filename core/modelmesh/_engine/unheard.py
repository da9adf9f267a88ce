"""Reservations whose answer nobody heard: the store may have granted them, and the calls they were for are not made."""

from __future__ import annotations

from modelmesh._engine.attempts import Attempts
from modelmesh.errors import StateStoreError
from modelmesh.interfaces.ledger import Ledger
from modelmesh.interfaces.runtime import Clock

AGAIN_SECONDS = 1.0
"""How long after a claim that was not answered, and after each attempt, its release is attempted."""

ANSWERS = 3
"""How many answers to releases are waited for that know nothing of a claim: it may still be on its way itself."""


class Unheard:
    """Releases such reservations as soon as the store answers, or leaves them to their leases when the loop ends first.

    Args:
        ledger: Keeps the reservations.
        clock: Time.
    """

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        self._ledger = ledger
        self._attempts = Attempts(clock, AGAIN_SECONDS, self._attempt)

    def add(self, reservation: str) -> None:
        """Release a reservation that was asked for and not answered."""
        self._attempts.put(reservation, ANSWERS)

    async def finish(self) -> None:
        """Make a last attempt for this loop."""
        await self._attempts.finish()

    async def _attempt(self, waiting: dict[str, int], _: float) -> float:
        for reservation in list(waiting):
            try:
                was_granted = await self._ledger.release(reservation)
            except StateStoreError:
                break  # it does not answer yet
            waiting[reservation] -= 1
            if was_granted or not waiting[reservation]:
                del waiting[reservation]
        return AGAIN_SECONDS
