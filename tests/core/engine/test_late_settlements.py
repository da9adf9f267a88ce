"""Settlements that a store could not take just then are made when it answers again, and each at most once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from modelmesh._engine.guarded_ledger import NotAskedError
from modelmesh._engine.late_settlements import FIRST_WAIT, KEPT_SECONDS, LONGEST_WAIT, LateSettlements
from modelmesh.errors import StateStoreError
from modelmesh.interfaces.ledger import Balance, WindowClaim
from modelmesh_cdk.testing import FakeClock
from modelmesh_plugins.state_stores.memory import MemoryStateStore

GONE = StateStoreError("gone", retryable=True)
REFUSED = StateStoreError("refused")


class Store(MemoryStateStore):
    """Raises what it is told to, and counts how often it is asked."""

    error: Exception | None = None
    asked = 0

    async def settle_all(self, settlements: Mapping[str, Mapping[str, int]]) -> Mapping[str, bool | StateStoreError]:
        """Settle, or raise."""
        self.asked += 1
        if self.error is not None:
            raise self.error
        return await super().settle_all(settlements)

    async def books(self) -> Balance:
        """Return what is spent and reserved."""
        return (await self.balances(["budget"]))["budget"]


def drive(scenario: Callable[[Store, LateSettlements, FakeClock], Any]) -> tuple[Any, list[str]]:
    """Run a scenario in which two reservations of ten are open; nothing of it is left on the loop."""
    clock, told = FakeClock(), list[str]()

    async def run() -> Any:
        store = Store()
        late = LateSettlements(store, clock, lambda error: told.append(str(error)))
        for name in ("a", "b"):
            await store.reserve(name, [WindowClaim("budget", 10, 100, 86_400.0)], lease=2 * KEPT_SECONDS)
        result = await scenario(store, late, clock)
        await late.finish()
        assert len(asyncio.all_tasks()) == 1
        assert len(late._attempts) == 0
        return result

    return asyncio.run(run()), told


def test_what_could_not_be_settled_is_settled_once_the_store_answers() -> None:
    """However often it did not, at what was spent, and nobody is told of an error."""

    async def scenario(store: Store, late: LateSettlements, clock: FakeClock) -> list[Balance]:
        store.error = GONE
        taken = [late.takes(name, {"budget": 3}, error) for name, error in (("a", GONE), ("b", NotAskedError("rests")))]
        assert taken == [True, True]
        await clock.run(5 * LONGEST_WAIT)
        books = [await store.books()]
        store.error = None
        await clock.run(LONGEST_WAIT)
        return [*books, await store.books()]

    assert drive(scenario) == ([Balance(0, 20), Balance(6, 0)], [])


def test_what_the_store_settled_unheard_is_settled_once() -> None:
    """It answers that nothing is open, which is the end of it."""

    async def scenario(store: Store, late: LateSettlements, clock: FakeClock) -> tuple[Balance, int]:
        await store.settle("a", {"budget": 3})
        late.takes("a", {"budget": 3}, GONE)
        await clock.run(5 * LONGEST_WAIT)
        return await store.books(), store.asked

    assert drive(scenario) == ((Balance(3, 10), 1), [])


@pytest.mark.parametrize("error", [REFUSED, KeyError("mistake")], ids=["refused", "mistake"])
def test_what_the_store_refuses_is_not_asked_again(error: Exception) -> None:
    """It would refuse it each time; what was taken before it did so is told and left to its lease."""

    async def scenario(store: Store, late: LateSettlements, clock: FakeClock) -> tuple[bool, int]:
        taken = late.takes("a", {}, error)
        late.takes("b", {}, GONE)
        store.error = error
        await clock.run(5 * LONGEST_WAIT)
        return taken, store.asked

    assert drive(scenario) == ((False, 1), [str(error)])


@pytest.mark.parametrize(
    ("error", "asked"), [(GONE, 3), (NotAskedError("rests"), 8)], ids=["asked in vain", "not asked"]
)
def test_a_store_that_is_asked_in_vain_is_asked_less_often(error: Exception, asked: int) -> None:
    """After one second, two more and four more; while others find out whether it is back, each second."""

    async def scenario(store: Store, late: LateSettlements, clock: FakeClock) -> int:
        store.error = error
        late.takes("a", {}, GONE)
        await clock.run(8 * FIRST_WAIT)
        return store.asked

    assert drive(scenario)[0] == asked


def test_it_ends_with_the_leases() -> None:
    """A store that never comes back keeps no task, and what was not settled is told."""

    async def scenario(store: Store, late: LateSettlements, clock: FakeClock) -> int:
        store.error = GONE
        late.takes("a", {}, GONE)
        await clock.run(KEPT_SECONDS + LONGEST_WAIT)
        return len(asyncio.all_tasks())

    assert drive(scenario) == (1, ["gone"])


@pytest.mark.parametrize(("error", "told"), [(None, []), (GONE, ["gone"])], ids=["up", "down"])
def test_who_closes_makes_a_last_attempt_and_does_not_wait(error: Exception | None, told: list[str]) -> None:
    """A store that is still down leaves the reservation to its lease."""

    async def scenario(store: Store, late: LateSettlements, clock: FakeClock) -> None:
        late.takes("a", {}, GONE)
        store.error = error

    assert drive(scenario) == (None, told)
