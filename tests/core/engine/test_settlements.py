"""Settlements: off the path of requests, as many together as gather, and none lost for another's error."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any

import pytest

from modelmesh._engine.settlements import MOST, Settlements
from modelmesh.errors import StateStoreError
from modelmesh_plugins.state_stores.memory import MemoryStateStore

REQUEST: ContextVar[str] = ContextVar("request", default="none")


class Slow(MemoryStateStore):
    """Notes what is settled together, and waits for the test when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.together: list[list[str]] = []
        self.requests: set[str] = set()
        self.gate: asyncio.Event | None = None
        self.trouble: Callable[[list[str]], Any] = lambda names: dict.fromkeys(names, True)

    async def settle_all(self, settlements: Mapping[str, Mapping[str, int]]) -> Mapping[str, bool | StateStoreError]:
        """Note and wait."""
        names = list(settlements)
        self.together.append(names)
        self.requests.add(REQUEST.get())
        if self.gate is not None:
            await self.gate.wait()
        outcomes: Mapping[str, bool | StateStoreError] = self.trouble(names)
        return outcomes


def mistaken(names: list[str]) -> Any:
    """Raise what no store ought to."""
    raise KeyError("a mistake")


async def nothing() -> None:
    """Have nothing to do after a settlement."""


def drive(scenario: Callable[[Slow, Settlements], Any]) -> tuple[Slow, list[str]]:
    """Run a scenario, wait for what is being settled; return the store and what was told of errors."""
    store, told = Slow(), list[str]()
    settlements = Settlements(store, lambda error: told.append(str(error)), nothing)

    async def run() -> None:
        await scenario(store, settlements)
        await settlements.finish()
        await settlements.finish()

    asyncio.run(run())
    return store, told


def test_what_gathers_while_one_call_is_out_goes_along_with_the_next() -> None:
    """What is given in at once goes together, and nobody waits for it."""

    async def scenario(store: Slow, settlements: Settlements) -> None:
        store.gate = asyncio.Event()
        for name in ("a", "b"):
            settlements.add(name, {})
        assert store.together == []
        await asyncio.sleep(0)
        assert store.together == [["a", "b"]]
        for name in ("c", "d"):
            settlements.add(name, {})
        store.gate.set()

    store, told = drive(scenario)

    assert store.together == [["a", "b"], ["c", "d"]]
    assert told == []


def test_no_call_settles_more_than_it_has_time_for() -> None:
    """A thousand requests that end at once are settled by a few calls, one after the other."""

    async def scenario(store: Slow, settlements: Settlements) -> None:
        for number in range(2 * MOST + 1):
            settlements.add(f"{number}", {})

    store, _ = drive(scenario)

    assert [len(names) for names in store.together] == [MOST, MOST, 1]


@pytest.mark.parametrize(
    ("trouble", "told"),
    [
        pytest.param(lambda names: {names[0]: StateStoreError("full"), names[1]: True}, ["full"], id="one"),
        pytest.param(mistaken, ["'a mistake'"] * 2, id="mistake"),
    ],
)
def test_what_could_not_be_settled_is_told_and_what_comes_after_is_settled(trouble: Any, told: list[str]) -> None:
    """One error for each reservation, whatever a store raises."""

    async def scenario(store: Slow, settlements: Settlements) -> None:
        store.trouble = trouble
        settlements.add("a", {})
        settlements.add("b", {})
        await settlements.finish()
        store.trouble = lambda names: dict.fromkeys(names, True)
        settlements.add("c", {})

    store, said = drive(scenario)

    assert said == told
    assert store.together == [["a", "b"], ["c"]]


def test_settling_is_no_part_of_the_request_that_began_it() -> None:
    """Spans and what else a context holds are that request's own."""

    async def scenario(store: Slow, settlements: Settlements) -> None:
        REQUEST.set("first")
        settlements.add("a", {})

    store, _ = drive(scenario)

    assert store.requests == {"none"}


def test_each_loop_settles_what_its_own_requests_took() -> None:
    """A loop that ends in the middle of a call takes nothing along of another's; its leases settle the rest."""
    store, told = Slow(), list[str]()
    settlements = Settlements(store, lambda error: told.append(str(error)), nothing)

    async def leaves() -> None:
        store.gate = asyncio.Event()
        settlements.add("a", {})
        await asyncio.sleep(0)

    async def stays() -> None:
        store.gate = None
        settlements.add("b", {})
        await settlements.finish()

    asyncio.run(leaves())
    asyncio.run(stays())

    assert store.together == [["a"], ["b"]]
    assert told == []
    assert settlements._due == {}
