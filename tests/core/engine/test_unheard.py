"""Reservations that were asked for and never heard of go back as soon as the store answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from modelmesh._engine.unheard import AGAIN_SECONDS, Unheard
from modelmesh.errors import StateStoreError
from modelmesh.interfaces.ledger import Balance, WindowClaim
from modelmesh_cdk.testing import FakeClock
from modelmesh_plugins.state_stores.memory import MemoryStateStore

CLAIM = [WindowClaim("budget", 1, 10, 60.0)]


class Store(MemoryStateStore):
    """Does not answer releases while it is down, and counts those that it answers."""

    is_down = False
    answered = 0

    async def release(self, reservation: str) -> bool:
        """Release, or raise."""
        if self.is_down:
            raise StateStoreError("gone")
        self.answered += 1
        return await super().release(reservation)


def drive(scenario: Callable[[Store, Unheard, FakeClock], Any]) -> Any:
    """Run a scenario; nothing of it is left on the loop."""
    clock = FakeClock()

    async def run() -> Any:
        store = Store()
        unheard = Unheard(store, clock)
        result = await scenario(store, unheard, clock)
        await unheard.finish()
        assert len(asyncio.all_tasks()) == 1
        assert len(unheard._attempts) == 0
        return result

    return asyncio.run(run())


async def pass_time(clock: FakeClock) -> None:
    """Let the next attempt be made."""
    await clock.run(AGAIN_SECONDS)


def test_what_was_granted_unheard_is_released_once_the_store_answers() -> None:
    """However often it did not."""

    async def scenario(store: Store, unheard: Unheard, clock: FakeClock) -> tuple[Balance, Balance]:
        for name in ("a", "b"):
            await store.reserve(name, CLAIM, lease=600.0)
            unheard.add(name)
        store.is_down = True
        for _ in range(5):
            await pass_time(clock)
        held = (await store.balances(["budget"]))["budget"]
        store.is_down = False
        await pass_time(clock)
        return held, (await store.balances(["budget"]))["budget"]

    assert drive(scenario) == (Balance(0, 2), Balance(0, 0))


def test_a_claim_that_arrives_after_its_release_is_released_as_well() -> None:
    """It may have been on its way all the time; a store that never heard of it is asked three times and no more."""

    async def scenario(store: Store, unheard: Unheard, clock: FakeClock) -> tuple[Balance, int]:
        unheard.add("late")
        unheard.add("never")
        await pass_time(clock)
        await store.reserve("late", CLAIM, lease=600.0)
        for _ in range(5):
            await pass_time(clock)
        return (await store.balances(["budget"]))["budget"], store.answered

    assert drive(scenario) == (Balance(0, 0), 2 + 3)


@pytest.mark.parametrize(("is_down", "left"), [(False, 0), (True, 1)], ids=["up", "down"])
def test_who_closes_makes_a_last_attempt_and_does_not_wait(is_down: bool, left: int) -> None:
    """A store that is still down leaves the reservation to its lease."""

    async def scenario(store: Store, unheard: Unheard, clock: FakeClock) -> int:
        await store.reserve("a", CLAIM, lease=600.0)
        unheard.add("a")
        store.is_down = is_down
        await unheard.finish()
        return (await store.balances(["budget"]))["budget"].reserved

    assert drive(scenario) == left
