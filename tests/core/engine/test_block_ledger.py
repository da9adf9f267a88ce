"""Limits in blocks: a thousand processes, one store, few calls, and never more than the limit."""

from __future__ import annotations

import asyncio
import importlib.util
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from modelmesh._engine.block_ledger import BLOCK_SECONDS, BlockLedger
from modelmesh._engine.limit_rules import NO_LIMIT
from modelmesh.errors import StateStoreError
from modelmesh.interfaces.ledger import Claim, RateClaim, Verdict, WindowClaim
from modelmesh_cdk.testing import FakeClock, context
from modelmesh_plugins.state_stores.memory import MemoryStateStore

LIMIT = 1_000_000
BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "block_leases.py"


class Counted(MemoryStateStore):
    """Counts the calls that a store elsewhere would have to carry."""

    calls = 0
    is_down = False
    is_silent = False
    is_stuck = False
    is_far = False

    async def reserve(self, *args: Any, **facts: Any) -> Verdict:
        self.calls += 1
        if self.is_far:
            await asyncio.sleep(0)  # others come while it is on its way
        verdict = await super().reserve(*args, **facts)
        if self.is_silent:
            await asyncio.Event().wait()  # what it decided is not heard
        return verdict

    async def settle(self, *args: Any, **facts: Any) -> bool:
        self.calls += 1
        if self.is_down:
            raise StateStoreError("down")
        if self.is_stuck:
            await asyncio.Event().wait()
        return await super().settle(*args, **facts)

    async def settle_all(self, *args: Any, **facts: Any) -> Any:
        self.calls += 1
        return await super().settle_all(*args, **facts)

    async def release(self, *args: Any, **facts: Any) -> bool:
        self.calls += 1
        if self.is_down:
            raise StateStoreError("down")
        return await super().release(*args, **facts)


def claim(amount: int, limit: int = LIMIT) -> list[Claim]:
    """Return a claim on the one account."""
    return [WindowClaim("budget", amount, limit, 86_400.0)]


class World:
    """Processes that share a store."""

    def __init__(self, processes: int, share: float) -> None:
        self.clock = FakeClock()
        self.store = Counted()
        self.store.bind(context(clock=self.clock))
        self.ledgers = [
            BlockLedger(self.store, self.clock, random.Random(number), share=share) for number in range(processes)
        ]
        self.asked = 0

    async def spend(self, process: int, amount: int, limit: int = LIMIT) -> bool:
        """Claim and settle at once; return whether it was granted."""
        self.asked += 1
        name = f"r{self.asked}"
        verdict = await self.ledgers[process].reserve(name, claim(amount, limit), lease=60.0)
        if verdict.granted:
            await self.ledgers[process].settle(name, {"budget": amount})
        return verdict.granted

    async def booked(self) -> tuple[int, int]:
        """Return what the store has as spent and as reserved."""
        balance = (await self.store.balances(["budget"]))["budget"]
        return balance.spent, balance.reserved


@pytest.mark.parametrize("seed", range(3))
def test_a_thousand_processes_never_pass_the_limit_and_hardly_ask_the_store(seed: int) -> None:
    """Random processes spend random amounts until a while after nothing is left."""

    async def scenario() -> int:
        world, draw, granted = World(1_000, share=0.000_2), random.Random(seed), 0
        for _ in range(25_000):
            amount = draw.randint(1, 100)
            if await world.spend(draw.randrange(1_000), amount):
                granted += amount
            spent, reserved = await world.booked() if world.asked % 1_000 == 0 else (0, 0)
            assert spent + reserved <= LIMIT
        return granted

    granted = asyncio.run(scenario())

    assert granted <= LIMIT
    assert granted >= LIMIT - 1_000 * 200  # at most a block a process is held and not used


@pytest.fixture(scope="module")
def leases() -> Any:
    """The simulation whose figures are in the documentation: a script, loaded by its place."""
    spec = importlib.util.spec_from_file_location("block_leases", BENCHMARK)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("share", [0.000_2, 0.001])
def test_a_thousand_processes_at_once_some_of_which_die_stay_within_the_limit(leases: Any, share: float) -> None:
    """Whatever the order of their calls; nothing stays reserved, and the dead take only what they held."""
    limit = 100_000

    result = leases.simulate(1_000, share, limit, seed=1, deaths=10)

    assert result.fullest <= limit
    assert result.left == 0
    assert 0 <= result.lost <= 10 * 10 * max(limit * share, leases.MOST)
    assert result.spent + result.lost <= limit
    assert result.spent >= 0.8 * limit


def test_a_block_saves_most_calls_to_the_store() -> None:
    """A thousand claims of one process take a few blocks of a hundred claims each."""

    async def scenario() -> int:
        world = World(1, share=0.01)
        for _ in range(1_000):
            assert await world.spend(0, 100)
        return world.store.calls

    assert asyncio.run(scenario()) <= 2 * 10


def test_requests_that_come_at_once_share_a_block() -> None:
    """A burst at the beginning takes what it needs of the limit, not a block each; so does one that goes beyond."""

    async def scenario() -> None:
        world = World(1, share=0.01)
        world.store.is_far = True
        burst = [world.ledgers[0].reserve(f"r{number}", claim(100), lease=60.0) for number in range(100)]
        assert all(verdict.granted for verdict in await asyncio.gather(*burst))
        assert (world.store.calls, await world.booked()) == (1, (0, 10_000))
        burst = [world.ledgers[0].reserve(f"s{number}", claim(100), lease=60.0) for number in range(250)]
        assert all(verdict.granted for verdict in await asyncio.gather(*burst))
        assert (world.store.calls, await world.booked()) == (4, (0, 40_000))

    asyncio.run(scenario())


def test_requests_that_come_at_once_share_a_refusal() -> None:
    """Of a limit that others hold, all are told when to ask again, by one question; a smaller request is granted."""

    async def scenario() -> None:
        world = World(1, share=0.01)
        await world.store.reserve("other", claim(LIMIT - 50), lease=60.0)
        world.store.is_far, world.store.calls = True, 0
        large = [world.ledgers[0].reserve(f"r{number}", claim(100), lease=60.0) for number in range(100)]
        *refused, small = await asyncio.gather(*large, world.ledgers[0].reserve("small", claim(50), lease=60.0))
        assert {(verdict.granted, verdict.available) for verdict in refused} == {(False, 50)}
        assert small.granted
        assert world.store.calls <= 3

    asyncio.run(scenario())


def test_those_who_wait_for_a_block_go_on_when_who_asked_for_it_leaves() -> None:
    """The first is cancelled while the store decides; the second asks for itself, and nothing is held twice."""

    async def scenario() -> None:
        world = World(1, share=0.01)
        world.store.is_far = True
        first, second = (
            asyncio.create_task(world.ledgers[0].reserve(name, claim(100), lease=60.0)) for name in ("first", "second")
        )
        await asyncio.sleep(0)
        first.cancel()
        assert (await second).granted
        await world.ledgers[0].close()
        assert await world.booked() == (100, 0)

    asyncio.run(scenario())


def test_what_is_released_goes_back_into_its_block() -> None:
    """Nothing is spent, the store is not asked, and whoever releases it again releases nothing."""

    async def scenario() -> tuple[list[bool], int]:
        world = World(1, share=0.01)
        ledger = world.ledgers[0]
        await ledger.reserve("r", claim(10_000), lease=60.0)
        calls = world.store.calls
        released = [await ledger.release("r") for _ in range(2)]
        calls = world.store.calls - calls
        assert await world.spend(0, 10_000)
        return released, calls

    assert asyncio.run(scenario()) == ([True, False], 0)


def test_what_is_not_used_is_given_back_when_a_process_ends() -> None:
    """The next one can spend all of it."""

    async def scenario() -> int:
        world = World(2, share=0.5)
        await world.spend(0, 1)
        await world.ledgers[0].close()
        return sum([await world.spend(1, 1_000) for _ in range(1_100)])

    assert asyncio.run(scenario()) == 999


def test_what_is_not_used_is_given_back_when_a_blocks_time_is_over() -> None:
    """A process that went quiet holds nothing for long once it asks again."""

    async def scenario() -> tuple[int, int]:
        world = World(1, share=0.5)
        await world.spend(0, 10)
        world.clock.advance(31.0)
        await world.spend(0, 10)
        return await world.booked()

    assert asyncio.run(scenario()) == (10, 500_000)


@pytest.mark.parametrize("lease", [630.0, 60.0], ids=["as_long_as_the_one_before", "longer_than_the_one_before"])
def test_a_request_that_takes_minutes_costs_no_more_than_it_used(lease: float) -> None:
    """The store keeps the block until it is settled, so that the rest of it is not taken for spent."""

    async def scenario() -> tuple[int, int]:
        world = World(1, share=0.25)
        ledger = world.ledgers[0]
        await ledger.reserve("first", claim(10), lease=lease)
        await ledger.settle("first", {"budget": 10})
        world.clock.advance(25.0)
        await ledger.reserve("long", claim(10), lease=630.0)
        world.clock.advance(6.0)
        await ledger.give_back_old()
        world.clock.advance(600.0)
        await ledger.give_back_old()
        await ledger.settle("long", {"budget": 7})
        await ledger.give_back_old()
        return await world.booked()

    assert asyncio.run(scenario()) == (17, 0)


def test_what_is_only_counted_is_not_taken_in_advance() -> None:
    """A budget that is not enforced refuses nobody, however many processes share it, and holds nothing unspent."""

    async def scenario() -> tuple[bool, tuple[int, int]]:
        world = World(3, share=0.5)
        granted = [await world.spend(process, 10, NO_LIMIT) for process in range(3)]
        return all(granted), await world.booked()

    assert asyncio.run(scenario()) == (True, (30, 0))


def test_a_process_that_dies_takes_its_block_with_it() -> None:
    """It counts as spent once the lease is over: nobody knows what was."""

    async def scenario() -> tuple[int, int]:
        world = World(1, share=0.1)
        await world.spend(0, 10)
        world.clock.advance(121.0)
        return await world.booked()

    assert asyncio.run(scenario()) == (100_000, 0)


def test_the_last_crumbs_can_be_spent() -> None:
    """A block shrinks to what is left."""

    async def scenario() -> list[bool]:
        world = World(2, share=0.4)
        first = [await world.spend(0, 40, limit=100), await world.spend(1, 40, limit=100)]
        return [*first, await world.spend(0, 20, limit=100), await world.spend(1, 1, limit=100)]

    assert asyncio.run(scenario()) == [True, True, True, False]


def test_all_or_nothing_over_several_accounts_and_rates() -> None:
    """A rate that refuses leaves no money held."""

    async def scenario() -> tuple[list[bool], tuple[int, int]]:
        world = World(1, share=0.000_01)
        claims: Sequence[Claim] = [*claim(10), RateClaim("rpm", 1, 60, 60.0, 1)]
        granted = [(await world.ledgers[0].reserve(name, claims, lease=60.0)).granted for name in ("first", "second")]
        await world.ledgers[0].settle("first", {"budget": 10, "rpm": 1})
        await world.ledgers[0].close()
        return granted, await world.booked()

    assert asyncio.run(scenario()) == ([True, False], (10, 0))


def test_money_that_refuses_takes_nothing_of_a_rate() -> None:
    """And the rate, which would grant, does not grant in its place."""

    async def scenario() -> tuple[bool, str, bool]:
        world = World(1, share=0.5)
        rate = RateClaim("rpm", 1, 60, 60.0, 1)
        refused = await world.ledgers[0].reserve("first", [*claim(101, limit=100), rate], lease=60.0)
        other = await world.ledgers[0].reserve("second", [rate], lease=60.0)
        return refused.granted, refused.account, other.granted

    assert asyncio.run(scenario()) == (False, "budget", True)


def test_an_id_that_is_reserved_is_granted_again() -> None:
    """And changes nothing; settling twice neither."""

    async def scenario() -> tuple[bool, bool, bool]:
        world = World(1, share=0.1)
        ledger = world.ledgers[0]
        await ledger.reserve("same", claim(10), lease=60.0)
        again = await ledger.reserve("same", claim(10), lease=60.0)
        return again.granted, await ledger.settle("same", {"budget": 10}), await ledger.settle("same", {"budget": 10})

    assert asyncio.run(scenario()) == (True, True, False)


def test_many_are_settled_on_their_blocks_and_what_the_store_holds_of_them_by_one_call() -> None:
    """A block that cannot be given back is told of its own reservation, and is owed; strangers were never open."""

    async def scenario() -> tuple[dict[str, bool], int, bool, tuple[int, int]]:
        world = World(1, share=0.1)
        ledger = world.ledgers[0]
        for name, amount in (("one", 40), ("two", 30)):
            flow = RateClaim(f"rpm-{name}", 1, 60, 60.0, 1)
            assert (await ledger.reserve(name, [*claim(amount, 1_000), flow], lease=60.0)).granted
        before = world.store.calls
        outcomes = await ledger.settle_all({"one": {"budget": 20, "rpm-one": 1}, "two": {}, "stranger": {}})
        calls = world.store.calls - before
        await ledger.reserve("all that is left", claim(50, 1_000), lease=60.0)
        await ledger.reserve("of another block", claim(60, 1_000), lease=60.0)
        world.store.is_down = True
        down = await ledger.settle_all({"all that is left": {}, "of another block": {"budget": 10}})
        failed = isinstance(down["all that is left"], StateStoreError) and down["of another block"] is True
        world.store.is_down = False
        await ledger.close()
        return {name: bool(outcome) for name, outcome in outcomes.items()}, calls, failed, await world.booked()

    outcomes, calls, failed, booked = asyncio.run(scenario())

    assert outcomes == {"one": True, "two": True, "stranger": False}
    assert calls == 1
    assert failed
    assert booked == (20 + 30 + 50 + 10, 0)


def test_a_refusal_says_when_others_may_give_blocks_back() -> None:
    """What is missing is held by blocks, so it may be there again when their time is over, at the latest."""

    async def scenario() -> Verdict:
        world = World(2, share=1.0)
        await world.spend(0, 1, limit=100)
        return await world.ledgers[1].reserve("refused", claim(1, limit=100), lease=60.0)

    verdict = asyncio.run(scenario())

    assert not verdict.granted
    assert verdict.retry_after == BLOCK_SECONDS


def test_a_refusal_of_what_is_spent_names_no_time() -> None:
    """Nobody can give back what is gone."""

    async def scenario() -> Verdict:
        world = World(2, share=1.0)
        await world.spend(0, 100, limit=100)
        return await world.ledgers[1].reserve("refused", claim(1, limit=100), lease=60.0)

    assert asyncio.run(scenario()).retry_after is None


def test_a_quiet_process_gives_its_blocks_back_when_their_time_is_over() -> None:
    """Others need not wait for it to ask again."""

    async def scenario() -> bool:
        world = World(2, share=1.0)
        await world.spend(0, 1, limit=100)
        world.clock.advance(BLOCK_SECONDS)
        await world.ledgers[0].give_back_old()
        return await world.spend(1, 99, limit=100)

    assert asyncio.run(scenario())


@pytest.mark.parametrize(
    "claims",
    [claim(10), [RateClaim("rpm", 1, 60, 60.0, 1)]],
    ids=["block", "rate"],
)
def test_what_was_granted_to_a_caller_who_had_left_is_given_back(claims: list[Claim]) -> None:
    """The store granted it, nobody heard: neither a block nor a rate stays reserved until its lease ends."""

    async def scenario() -> tuple[tuple[int, int], int]:
        world = World(1, share=0.5)
        world.store.is_silent = True
        asking = asyncio.create_task(world.ledgers[0].reserve("left", claims, lease=60.0))
        await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        world.store.is_silent = False
        await world.ledgers[0].release("left")
        await world.ledgers[0].give_back_old()
        return await world.booked(), len(world.store._books.reservations)

    assert asyncio.run(scenario()) == ((0, 0), 0)


def test_a_block_the_store_did_not_take_back_is_given_back_later() -> None:
    """What is not used is not lost because the store was down for a moment."""

    async def scenario() -> tuple[int, int]:
        world = World(1, share=0.5)
        await world.spend(0, 10)
        world.clock.advance(BLOCK_SECONDS)
        world.store.is_down = True
        await world.ledgers[0].give_back_old()
        world.store.is_down = False
        await world.ledgers[0].give_back_old()
        return await world.booked()

    assert asyncio.run(scenario()) == (10, 0)


def test_blocks_that_are_owed_are_not_forgotten_by_a_loop_that_ends_while_they_are_given_back() -> None:
    """Neither the one on its way nor those behind it."""
    accounts = ["budget", "other"]

    async def scenario() -> list[int]:
        world = World(1, share=0.5)
        ledger, store = world.ledgers[0], world.store
        for account in accounts:
            await ledger.reserve(account, [WindowClaim(account, 10, LIMIT, 86_400.0)], lease=60.0)
            await ledger.settle(account, {account: 10})
        world.clock.advance(BLOCK_SECONDS)
        store.is_down = True
        await ledger.give_back_old()
        store.is_down, store.is_stuck = False, True
        giving = asyncio.ensure_future(ledger.give_back_old())
        await asyncio.sleep(0)
        giving.cancel()
        await asyncio.wait({giving})
        store.is_stuck = False
        await ledger.give_back_old()
        return [balance.reserved for balance in (await store.balances(accounts)).values()]

    assert asyncio.run(scenario()) == [0, 0]


def test_what_a_silent_store_granted_is_released_however_often_that_takes() -> None:
    """A release that failed is not forgotten, nor is one that came to the store before the claim did."""

    async def scenario() -> tuple[list[bool], int, bool]:
        world = World(1, share=0.5)
        ledger, store = world.ledgers[0], world.store
        place = WindowClaim("concurrency", 1, 1, 0.0)
        store.is_silent = True
        asking = asyncio.create_task(ledger.reserve("unheard", [place], lease=3_600.0))
        await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait({asking})
        store.is_silent, store.is_down = False, True
        with pytest.raises(StateStoreError):
            await ledger.release("unheard")
        store.is_down = False
        await store.release("unheard")
        early = await ledger.release("unheard")
        await store.reserve("unheard", [place], lease=3_600.0)
        released = [early, await ledger.release("unheard"), await ledger.release("unheard")]
        return released, len(store._books.reservations), bool(ledger._holds)

    assert asyncio.run(scenario()) == ([False, True, False], 0, False)


def test_a_block_that_cannot_be_given_back_keeps_nothing_else_of_its_request() -> None:
    """What it held of other blocks and of the store is booked all the same: none of it waits for a lease to end."""
    held = ["first", "second"]

    async def scenario() -> tuple[bool, list[tuple[int, int]]]:
        world = World(1, share=0.1)
        ledger, store = world.ledgers[0], world.store
        place = WindowClaim("concurrency", 1, 1, 0.0)
        claims = [*(WindowClaim(account, 10, 100, 86_400.0) for account in held), place]
        await ledger.reserve("r", claims, lease=60.0)
        store.is_down = True
        outcome = (await ledger.settle_all({"r": {"first": 10, "second": 4, "concurrency": 0}}))["r"]
        store.is_down = False
        await ledger.close()
        books = await store.balances([*held, "concurrency"])
        return isinstance(outcome, StateStoreError), [(each.spent, each.reserved) for each in books.values()]

    assert asyncio.run(scenario()) == (True, [(10, 0), (4, 0), (0, 0)])


def test_a_block_that_ends_while_its_last_claim_fails_is_owed() -> None:
    """The store would otherwise keep all of it until the lease ends, and count it as spent."""

    async def scenario() -> tuple[int, int]:
        world = World(1, share=0.5)
        ledger, store = world.ledgers[0], world.store
        await world.spend(0, 10)
        store.is_silent = True
        asked = [*claim(10), RateClaim("rpm", 1, 60, 60.0, 1)]
        asking = asyncio.create_task(ledger.reserve("r", asked, lease=60.0))
        await asyncio.sleep(0)
        world.clock.advance(BLOCK_SECONDS)
        await ledger.give_back_old()
        asking.cancel()
        await asyncio.wait({asking})
        await ledger.give_back_old()
        return await world.booked()

    assert asyncio.run(scenario()) == (10, 0)
