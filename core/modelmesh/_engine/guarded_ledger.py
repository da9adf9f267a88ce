"""A ledger elsewhere, watched: no request waits long for it, and while it is down none waits at all."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

from modelmesh._engine.deadlines import Deadlines
from modelmesh._engine.origin import store_erred
from modelmesh.errors import StateStoreError
from modelmesh.interfaces.ledger import Balance, Claim, Ledger, Verdict
from modelmesh.interfaces.runtime import Clock

Result = TypeVar("Result")

_FIRST_REST = 0.5
_LONGEST_REST = 2.0


GONE = "the state store does not answer; limits are kept as on_store_error says"
BACK = "the state store answers again"
"""What is told of a keeper."""


class NotAskedError(StateStoreError):
    """The keeper rests, and was not asked."""


class GuardedLedger:
    """Passes calls on within a time limit, and stops asking for a while when the keeper does not answer.

    Rests begin at half a second and double to two, so that a keeper that is back is noticed in time; when one is over,
    a single call finds out and the others do not wait for it.

    Args:
        ledger: The keeper.
        clock: Time.
        timeout: Seconds a call may take.
        told: Called with a line, and what the keeper said, when it goes and when it is back.
    """

    def __init__(
        self, ledger: Ledger, clock: Clock, *, timeout: float, told: Callable[[str, str | None], None]
    ) -> None:
        self._ledger = ledger
        self._clock = clock
        self._timeout = timeout
        self._told = told
        self._failures = 0
        self._down_until = 0.0
        self._is_trying = False
        self._deadlines = Deadlines()

    @property
    def is_down(self) -> bool:
        """Whether it rests just now."""
        return self._failures > 0 and (self._is_trying or self._clock.monotonic() < self._down_until)

    async def reserve(
        self, reservation: str, claims: Sequence[Claim], *, lease: float, dispatched: bool = True
    ) -> Verdict:
        """Claim all or nothing."""
        return await self.within(self._ledger.reserve(reservation, claims, lease=lease, dispatched=dispatched))

    async def settle(self, reservation: str, actual: Mapping[str, int]) -> bool:
        """Replace what was reserved by what was spent."""
        return await self.within(self._ledger.settle(reservation, actual))

    async def settle_all(self, settlements: Mapping[str, Mapping[str, int]]) -> Mapping[str, bool | StateStoreError]:
        """Settle several reservations, each for itself."""
        return await self.within(self._ledger.settle_all(settlements))

    async def release(self, reservation: str) -> bool:
        """Give everything back."""
        return await self.within(self._ledger.release(reservation))

    async def balances(self, accounts: Sequence[str]) -> Mapping[str, Balance]:
        """Return the books of accounts."""
        return await self.within(self._ledger.balances(accounts))

    async def within(self, call: Awaitable[Result]) -> Result:
        """Await a call to the keeper under the same watch.

        Raises:
            NotAskedError: The keeper rests.
            StateStoreError: It failed or took too long.
        """
        if self.is_down:
            _discard(call)
            raise NotAskedError("the state store does not answer; it is asked again in a moment")
        begun = self._failures
        self._is_trying = tries = begun > 0
        try:
            with self._deadlines.within(self._timeout):
                result = await call
        except TimeoutError:
            late = StateStoreError(f"the state store did not answer within {self._timeout:g} s", retryable=True)
            self._failed(begun, late)
            raise late from None
        except StateStoreError as error:
            self._failed(begun, error)
            raise
        except Exception as error:  # what the author of a store did not foresee is no answer either
            erred = store_erred(error, type(self._ledger))
            self._failed(begun, erred)
            raise erred from error
        finally:
            if tries:
                self._is_trying = False
        if begun and self._failures:
            self._failures = 0
            self._told(BACK, None)
        return result

    def _failed(self, begun: int, error: StateStoreError) -> None:
        if self._failures != begun:
            return  # of many calls that were out at once, one counts
        self._failures += 1
        rest = min(_FIRST_REST * 2.0 ** min(begun, 10), _LONGEST_REST)
        self._down_until = self._clock.monotonic() + rest
        if begun == 0:
            self._told(GONE, error.message)


def _discard(call: Awaitable[object]) -> None:
    close = getattr(call, "close", None)
    if close is not None:
        close()
