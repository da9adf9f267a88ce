"""What crosses the border between the core and whatever keeps the books: claims on limits, before anything is spent.

A request reserves the most it may cost, is carried out, and settles what it did cost. Between the two the reservation
stands in the way of others, so that no number of concurrent requests passes a limit. Amounts are integers: requests,
tokens, or nano-USD.

A reservation has a lease. When that ends unsettled, because a process died, say, then what was dispatched counts as
spent and what was not returns: a provider may bill what it never answered. Places, of which so many are held at once,
return in any case.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

if TYPE_CHECKING:
    from modelmesh.errors import StateStoreError

NANO_USD = 1_000_000_000
"""Nano-USD in a dollar: prices of a single token are whole numbers in it."""

LARGEST_AMOUNT = 2**60
"""The most that can be claimed, settled or a limit: a billion dollars in nano-USD, with room for sums in 64 bits."""


@dataclass(frozen=True, slots=True)
class WindowClaim:
    """A claim on so much in a window of time, or at once.

    Attributes:
        account: What is limited, its window included, such as ``budget/openai/day/2026-11-21``. A new window is a new
            account.
        amount: How much is claimed, 0 or more.
        limit: How much may be spent and reserved in all.
        keep: Seconds the account is kept after its last change; at least until its window ends. 0 makes it one of
            places that are held and never spent: when a lease ends, they return whatever was dispatched.
    """

    account: str
    amount: int
    limit: int
    keep: float


@dataclass(frozen=True, slots=True)
class RateClaim:
    """A claim on a rate: at most ``limit`` each ``period`` on the long run, ``burst`` of them at once (GCRA).

    Attributes:
        account: What is limited, such as ``rpm/gpt-4o-mini``.
        amount: How much is claimed, 0 or more.
        limit: How much flows back in one period; 1 or more.
        period: Seconds.
        burst: How much may be taken at once after a pause; 1 to ``limit``.
    """

    account: str
    amount: int
    limit: int
    period: float
    burst: int


Claim: TypeAlias = WindowClaim | RateClaim


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a reservation.

    Attributes:
        granted: Whether all claims were granted; otherwise none was.
        account: The first account that refused; empty when granted.
        available: What that account could still grant, 0 or more.
        retry_after: Seconds until a rate could grant it; None for windows, and for what no wait could grant.
    """

    granted: bool
    account: str = ""
    available: int = 0
    retry_after: float | None = None


GRANTED = Verdict(True)


@dataclass(frozen=True, slots=True)
class Balance:
    """An account's books: ``spent`` for good, ``reserved`` by leases that run."""

    spent: int = 0
    reserved: int = 0


@runtime_checkable
class Ledger(Protocol):
    """Keeps accounts. Every method is atomic, whoever else writes; times are the keeper's own clock.

    All raise `modelmesh.errors.StateStoreError` when the keeper is down or refuses.
    """

    async def reserve(
        self, reservation: str, claims: Sequence[Claim], *, lease: float, dispatched: bool = True
    ) -> Verdict:
        """Claim all or nothing. An ID that is reserved already is granted again and changes nothing.

        What was settled, released or has ended is forgotten: its ID would be a new reservation.

        Args:
            reservation: Unique ID, chosen by the caller.
            claims: On different accounts.
            lease: Seconds until the reservation settles itself.
            dispatched: Whether the lease's end counts as spent, but for places; False returns it instead.
        """
        ...

    async def settle(self, reservation: str, actual: Mapping[str, int]) -> bool:
        """Replace what was reserved by what was spent.

        More than was reserved is taken into the books, too, even past the limit: it is spent. Of rates, the difference
        moves the next grant: more postpones it, and what was not used flows back as far as it still weighs on the
        account, since a rate does not save up what it did not take. Accounts that ``actual`` leaves out are settled at
        what was reserved; accounts that were not reserved are ignored.

        Returns:
            Whether the reservation was open; settling again, or after its lease, changes nothing.
        """
        ...

    async def settle_all(self, settlements: Mapping[str, Mapping[str, int]]) -> Mapping[str, bool | StateStoreError]:
        """Settle several reservations, each for itself and as `settle` does, over as few round trips as there can be.

        Args:
            settlements: What was spent, by reservation.

        Returns:
            Of each, whether it was open, or why it could not be settled.

        Raises:
            StateStoreError: None could be settled.
        """
        ...

    async def release(self, reservation: str) -> bool:
        """Give everything back, rates included; return whether the reservation was open."""
        ...

    async def balances(self, accounts: Sequence[str]) -> Mapping[str, Balance]:
        """Return the books of window accounts; unknown ones are empty."""
        ...
