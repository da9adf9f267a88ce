"""The contract of state stores: the books of limits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import pytest

from modelmesh.errors import StateStoreError
from modelmesh.interfaces.ledger import GRANTED, NANO_USD, Balance, Claim, RateClaim, Verdict, WindowClaim
from modelmesh.interfaces.state_store import StateStore
from modelmesh_cdk.ledger import Books
from modelmesh_cdk.testing.clock import FakeClock
from modelmesh_cdk.testing.contracts.store_scenarios import StoreScenarios

LONG = 100_000.0
"""Seconds that no test outlasts."""


class LedgerScenarios(StoreScenarios):
    """Reserve, settle, release, balances."""

    # --- windows --------------------------------------------------------------------------

    def test_of_many_at_once_exactly_what_fits_is_admitted(self) -> None:
        """A thousand requests of $0.10 at the same time on $5.00: fifty are granted, and the books say $5.00."""
        claim = window("budget", NANO_USD // 10, 5 * NANO_USD)

        async def scenario(store: StateStore) -> tuple[int, Balance]:
            verdicts = await asyncio.gather(
                *(store.reserve(f"request-{number}", [claim], lease=LONG) for number in range(1_000))
            )
            return sum(verdict.granted for verdict in verdicts), (await store.balances(["budget"]))["budget"]

        assert self.drive(scenario) == (50, Balance(0, 5 * NANO_USD))

    def test_a_refusal_takes_nothing(self) -> None:
        """Of several claims all are granted or none: what comes before the one that fails is not taken."""

        async def scenario(store: StateStore) -> None:
            claims: list[Claim] = [
                window("first", 3, 10),
                rate("flow", 1, 5),
                window("second", 6, 5),
                window("third", 1, 10),
            ]
            assert await store.reserve("all", claims, lease=LONG) == Verdict(False, "second", 5)
            assert await store.release("all") is False
            balances = await store.balances(["first", "second", "third"])
            assert dict(balances) == {"first": Balance(), "second": Balance(), "third": Balance()}
            assert await store.reserve("flow", [rate("flow", 5, 5)], lease=LONG) == GRANTED, "the rate was charged"

        self.drive(scenario)

    def test_a_refusal_says_what_is_left(self) -> None:
        """It names the account, and how much would be granted."""

        async def scenario(store: StateStore) -> None:
            assert await store.reserve("one", [window("tokens", 70, 100)], lease=LONG) == GRANTED
            assert await store.reserve("two", [window("tokens", 31, 100)], lease=LONG) == Verdict(False, "tokens", 30)
            assert await store.reserve("two", [window("tokens", 30, 100)], lease=LONG) == GRANTED
            assert await store.reserve("three", [window("tokens", 1, 100)], lease=LONG) == Verdict(False, "tokens", 0)

        self.drive(scenario)

    def test_reserving_again_changes_nothing(self) -> None:
        """A reservation is known by its ID: asked again, because an answer was lost, it is granted and not doubled."""

        async def scenario(store: StateStore) -> Balance:
            for _ in range(3):
                assert await store.reserve("same", [window("tokens", 60, 100)], lease=LONG) == GRANTED
            return (await store.balances(["tokens"]))["tokens"]

        assert self.drive(scenario) == Balance(0, 60)

    def test_settling_replaces_what_was_reserved(self) -> None:
        """Less frees the rest, nothing said means what was reserved, and a second time does nothing."""

        async def scenario(store: StateStore) -> None:
            await store.reserve("one", [window("tokens", 60, 100), window("money", 8, 10)], lease=LONG)
            assert await store.settle("one", {"tokens": 25, "stranger": 7}) is True
            assert await store.settle("one", {"tokens": 99}) is False
            balances = await store.balances(["tokens", "money", "stranger"])
            assert dict(balances) == {"tokens": Balance(25, 0), "money": Balance(8, 0), "stranger": Balance()}
            assert await store.reserve("two", [window("tokens", 75, 100)], lease=LONG) == GRANTED

        self.drive(scenario)

    def test_many_are_settled_each_for_itself(self) -> None:
        """What is unknown, settled before or at nonsense hinders no other; nonsense alone is refused."""

        async def scenario(store: StateStore) -> None:
            for name in ("one", "two", "before", "odd"):
                await store.reserve(name, [window("tokens", 10, 100)], lease=LONG)
            await store.settle("before", {})
            settlements = {"one": {"tokens": 3}, "odd": {"tokens": -1}, "before": {}, "stranger": {}, "two": {}}
            outcomes = dict(await store.settle_all(settlements))
            assert isinstance(outcomes.pop("odd"), StateStoreError)
            assert outcomes == {"one": True, "before": False, "stranger": False, "two": True}
            assert (await store.balances(["tokens"]))["tokens"] == Balance(23, 10)
            assert dict(await store.settle_all({})) == {}
            with pytest.raises(StateStoreError):
                await store.settle_all({"odd": {"tokens": -1}})

        self.drive(scenario)

    def test_what_was_overspent_is_in_the_books(self) -> None:
        """More than was reserved is recorded even past the limit, and refuses what comes next."""

        async def scenario(store: StateStore) -> None:
            await store.reserve("one", [window("money", 8, 10)], lease=LONG)
            assert await store.settle("one", {"money": 15}) is True
            assert (await store.balances(["money"]))["money"] == Balance(15, 0)
            assert await store.reserve("two", [window("money", 1, 10)], lease=LONG) == Verdict(False, "money", 0)

        self.drive(scenario)

    def test_a_release_gives_everything_back(self) -> None:
        """Once; after it there is nothing to settle, and the other way round."""

        async def scenario(store: StateStore) -> None:
            claims: list[Claim] = [window("money", 8, 10), rate("flow", 4, 4)]
            await store.reserve("one", claims, lease=LONG)
            assert await store.release("one") is True
            assert await store.release("one") is False
            assert await store.settle("one", {"money": 8}) is False
            assert (await store.balances(["money"]))["money"] == Balance()
            assert await store.reserve("two", claims, lease=LONG) == GRANTED
            await store.settle("two", {})
            assert await store.release("two") is False
            assert (await store.balances(["money"]))["money"] == Balance(8, 0)

        self.drive(scenario)

    def test_a_reservation_without_claims_is_granted(self) -> None:
        """Where nothing is limited there is still something to settle, once."""

        async def scenario(store: StateStore) -> None:
            assert await store.reserve("free", [], lease=LONG) == GRANTED
            assert await store.settle("free", {}) is True
            assert await store.settle("free", {}) is False

        self.drive(scenario)

    # --- leases ---------------------------------------------------------------------------

    def test_a_lease_that_ends_dispatched_is_spent(self) -> None:
        """What may have been billed counts, whoever died; settling it later changes nothing."""
        clock = FakeClock()

        async def scenario(store: StateStore) -> None:
            await store.reserve("lost", [window("money", 8, 10)], lease=self.tick)
            assert (await store.balances(["money"]))["money"] == Balance(0, 8)
            await self.pass_time(clock, self.tick * 1.25)
            assert (await store.balances(["money"]))["money"] == Balance(8, 0)
            assert await store.settle("lost", {"money": 1}) is False
            assert await store.release("lost") is False
            assert await store.reserve("next", [window("money", 3, 10)], lease=LONG) == Verdict(False, "money", 2)

        self.drive(scenario, clock=clock)

    def test_a_lease_that_ends_undispatched_returns(self) -> None:
        """What was never sent is given back, without anybody doing anything."""
        clock = FakeClock()

        async def scenario(store: StateStore) -> None:
            claims: list[Claim] = [window("money", 8, 10), rate("flow", 4, 4)]
            await store.reserve("lost", claims, lease=self.tick, dispatched=False)
            assert (await store.reserve("early", claims, lease=LONG)).granted is False
            await self.pass_time(clock, self.tick * 1.25)
            assert await store.reserve("next", claims, lease=LONG) == GRANTED
            assert (await store.balances(["money"]))["money"] == Balance(0, 8)

        self.drive(scenario, clock=clock)

    def test_a_settled_reservations_lease_means_nothing(self) -> None:
        """Its end neither spends again nor returns anything."""
        clock = FakeClock()

        async def scenario(store: StateStore) -> None:
            await store.reserve("one", [window("money", 8, 10)], lease=self.tick)
            await store.settle("one", {"money": 3})
            await store.reserve("two", [window("money", 5, 10)], lease=self.tick, dispatched=False)
            await store.release("two")
            await self.pass_time(clock, self.tick * 1.25)
            assert (await store.balances(["money"]))["money"] == Balance(3, 0)

        self.drive(scenario, clock=clock)

    def test_places_return_with_their_lease(self) -> None:
        """What is held and never spent is free again when whoever held it has died; others hold on to theirs."""
        clock = FakeClock()

        async def scenario(store: StateStore) -> list[bool]:
            place, money = window("places", 1, 2, keep=0.0), window("money", 1, 10)
            await store.reserve("dies", [place, money], lease=self.tick)
            await store.reserve("stays", [place], lease=LONG)
            granted = [(await store.reserve("early", [place], lease=LONG)).granted]
            await self.pass_time(clock, self.tick * 1.25)
            granted += [(await store.reserve(name, [place], lease=LONG)).granted for name in ("late", "later")]
            await store.settle("late", {"places": 0})
            granted += [(await store.reserve(name, [place], lease=LONG)).granted for name in ("last", "none")]
            assert (await store.balances(["places", "money"])) == {"places": Balance(0, 2), "money": Balance(1, 0)}
            return granted

        assert self.drive(scenario, clock=clock) == [False, True, False, True, False]

    def test_an_account_is_kept_as_long_as_was_asked(self) -> None:
        """A window's books do not vanish before their time."""
        clock = FakeClock()

        async def scenario(store: StateStore) -> None:
            await store.reserve("one", [window("money", 8, 10, keep=self.tick * 10)], lease=self.tick)
            await store.settle("one", {})
            await self.pass_time(clock, self.tick * 3)
            assert (await store.balances(["money"]))["money"] == Balance(8, 0)

        self.drive(scenario, clock=clock)

    # --- rates ------------------------------------------------------------------------------

    def test_a_rate_admits_its_burst_at_once(self) -> None:
        """Of many that come together as many as the burst are granted; the others hear when to come again."""

        async def scenario(store: StateStore) -> list[Verdict]:
            claim = rate("flow", 1, 10, limit=100, period=36_000.0)
            return list(await asyncio.gather(*(store.reserve(f"{i}", [claim], lease=LONG) for i in range(100))))

        verdicts = self.drive(scenario)
        refused = [verdict for verdict in verdicts if not verdict.granted]

        assert len(refused) == 90
        assert {(verdict.account, verdict.available) for verdict in refused} == {("flow", 0)}
        assert all(verdict.retry_after == pytest.approx(360.0, abs=20.0) for verdict in refused)

    def test_a_refused_rate_is_granted_when_it_said(self) -> None:
        """Waiting ``retry_after`` is enough, and half of it is not."""
        clock = FakeClock()

        async def scenario(store: StateStore) -> None:
            claim = rate("flow", 2, 4, limit=4, period=self.tick * 2)
            assert (await store.reserve("1", [claim], lease=LONG)).granted
            assert (await store.reserve("2", [claim], lease=LONG)).granted
            refused = await store.reserve("3", [claim], lease=LONG)
            assert refused.retry_after == pytest.approx(self.tick, rel=0.2)
            await self.pass_time(clock, self.tick / 2)
            assert (await store.reserve("3", [claim], lease=LONG)).granted is False
            await self.pass_time(clock, self.tick / 2)
            assert (await store.reserve("3", [claim], lease=LONG)).granted

        self.drive(scenario, clock=clock)

    def test_no_wait_grants_more_than_the_burst(self) -> None:
        """Then there is no time to come again; what would be granted now is told."""

        async def scenario(store: StateStore) -> Verdict:
            return await store.reserve("big", [rate("flow", 6, 5)], lease=LONG)

        assert self.drive(scenario) == Verdict(False, "flow", 5, None)

    def test_a_rate_flows_steadily_and_is_never_passed(self) -> None:
        """Under steady demand no window admits more than its flow and one burst; over all ≥ 98 % is used.

        Demand is steady but for where the machine or the server stood still: times in which a question or an answer was
        later than a quarter of a burst lasts are taken out.
        """
        clock = FakeClock()
        period, burst = self.tick / 2, 5
        limit = 50

        async def scenario(store: StateStore) -> tuple[list[tuple[float, float]], float]:
            admitted: list[tuple[float, float]] = []
            now = time.monotonic if self.own_clock else clock.monotonic
            begin = due = now()
            number, stalled = 0, 0.0
            while now() < begin + 4 * period:
                asked = now()
                verdict = await store.reserve(f"{number}", [rate("flow", 1, burst, limit, period)], lease=LONG)
                answered = now()
                delays = (asked - due, answered - asked)
                stalled += sum(delay for delay in delays if delay > burst * period / limit / 4)
                due = answered
                if verdict.granted:
                    admitted.append((asked, answered))
                    assert len(admitted) < 10 * limit, "the rate admits without end"
                else:
                    assert verdict.retry_after is not None
                    wait = min(verdict.retry_after, period / 3)
                    await self.pass_time(clock, wait)
                    due += wait
                number += 1
            return admitted, now() - begin - stalled

        admitted, duration = self.drive(scenario, clock=clock)
        starts, ends = [asked for asked, _ in admitted], [answered for _, answered in admitted]
        for first in range(len(admitted)):
            for last in range(first, len(admitted)):
                flowed = burst + limit * (ends[last] - starts[first]) / period
                assert last - first + 1 <= flowed + 1e-6, "more was admitted than limit and burst allow"
        assert len(admitted) >= 0.98 * limit * duration / period, "much of the limit cannot be used"

    def test_what_a_rate_did_not_use_flows_back(self) -> None:
        """Settled at less, the next is granted sooner; at more, later."""

        async def scenario(store: StateStore) -> None:
            def claim(amount: int) -> list[Claim]:
                return [rate("flow", amount, 10, limit=10, period=36_000.0)]

            await store.reserve("one", claim(10), lease=LONG)
            assert (await store.reserve("two", claim(1), lease=LONG)).granted is False
            await store.settle("one", {"flow": 4})
            assert (await store.reserve("two", claim(7), lease=LONG)).available == 6
            assert (await store.reserve("two", claim(6), lease=LONG)).granted
            await store.settle("two", {"flow": 8})
            verdict = await store.reserve("three", claim(1), lease=LONG)
            assert (verdict.granted, verdict.available) == (False, 0)
            assert verdict.retry_after == pytest.approx(3 * 3_600.0, rel=0.01)

        self.drive(scenario)

    def test_a_rate_does_not_save_up(self) -> None:
        """What flowed away while a request ran does not come back with it: else many that end would burst."""
        clock = FakeClock()

        async def scenario(store: StateStore) -> None:
            def claim(amount: int) -> list[Claim]:
                return [rate("flow", amount, 8, limit=8, period=self.tick)]

            await store.reserve("long", claim(8), lease=LONG)
            await self.pass_time(clock, self.tick * 1.5)
            assert (await store.reserve("next", claim(8), lease=LONG)).granted
            await store.release("long")
            assert (await store.reserve("more", claim(4), lease=LONG)).granted is False

        self.drive(scenario, clock=clock)

    # --- what makes no sense ---------------------------------------------------------------

    def test_claims_that_mean_nothing_are_refused(self) -> None:
        """Less than nothing, parts of a token, one account twice, no lease: mistakes of the caller."""
        wrong: list[tuple[Sequence[Any], float]] = [
            ([window("a", -1, 10)], LONG),
            ([WindowClaim("a", 0.5, 10, LONG)], LONG),  # type: ignore[arg-type]  # that is the point
            ([window("a", 1, 10), window("a", 1, 10)], LONG),
            ([window("", 1, 10)], LONG),
            ([rate("a", 1, 0)], LONG),
            ([RateClaim("a", 1, 5, 0.0, 5)], LONG),
            ([RateClaim("a", 1, 5, 60.0, 6)], LONG),
            ([window("a", 1, 10)], 0.0),
            ([window("a", 1, 10)], float("nan")),
        ]

        async def scenario(store: StateStore) -> None:
            for claims, lease in wrong:
                with pytest.raises(StateStoreError):
                    await store.reserve("id", claims, lease=lease)
            with pytest.raises(StateStoreError):
                await store.reserve("", [], lease=LONG)
            await store.reserve("id", [window("a", 1, 10)], lease=LONG)
            with pytest.raises(StateStoreError):
                await store.settle("id", {"a": -1})
            assert (await store.balances(["a"]))["a"] == Balance(0, 1)

        self.drive(scenario)

    # --- the reference -----------------------------------------------------------------------

    def test_the_books_agree_with_the_reference(self) -> None:
        """Over many lists of operations, every answer is the one that `modelmesh_cdk.ledger.Books` gives."""
        pytest.importorskip("hypothesis", reason="pip install hypothesis to compare with the reference model")
        from hypothesis import HealthCheck, Phase, given, settings

        from modelmesh_cdk.testing.contracts.store_operations import WINDOWS, operations

        rounds = iter(range(10**9))

        @settings(
            max_examples=self.examples,
            phases=(Phase.generate, Phase.shrink) if self.shrinks else (Phase.generate,),
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(operations(passing=not self.own_clock))
        def agree(todo: list[tuple[Any, ...]]) -> None:
            clock, prefix = FakeClock(), f"round-{next(rounds)}/"
            self.drive(
                lambda store: _compare(store, todo, [prefix + account for account in WINDOWS], prefix, clock),
                clock=clock,
            )

        agree()


def window(account: str, amount: int, limit: int, *, keep: float = LONG) -> WindowClaim:
    """Claim on a window."""
    return WindowClaim(account, amount, limit, keep)


def rate(account: str, amount: int, burst: int, limit: int = 10, period: float = 36_000.0) -> RateClaim:
    """Claim on a rate, by default one that hardly flows while a test runs."""
    return RateClaim(account, amount, limit, period, burst)


async def _compare(
    store: StateStore, todo: list[tuple[Any, ...]], accounts: list[str], prefix: str, clock: FakeClock
) -> None:
    """Carry out the same operations on the store and on the reference; compare each answer and the books after it."""
    books = Books()
    for name, *arguments in todo:
        now = clock.monotonic()
        if name == "pass":
            clock.advance(arguments[0])
        elif name == "reserve":
            reservation, claims, lease, dispatched = arguments
            claims = [_renamed(claim, prefix) for claim in claims]
            theirs = await store.reserve(prefix + reservation, claims, lease=lease, dispatched=dispatched)
            ours = books.reserve(now, prefix + reservation, claims, lease=lease, dispatched=dispatched)
            assert (theirs.granted, theirs.account, theirs.available) == (ours.granted, ours.account, ours.available)
            # A store with a clock of its own answers a moment later than the reference, which stands still.
            assert theirs.retry_after == (
                None if ours.retry_after is None else pytest.approx(ours.retry_after, rel=1e-3, abs=1e-5)
            )
        elif name == "settle":
            reservation, actual = arguments
            actual = {prefix + account: amount for account, amount in actual.items()}
            assert await store.settle(prefix + reservation, actual) == books.settle(now, prefix + reservation, actual)
        else:
            assert await store.release(prefix + arguments[0]) == books.release(now, prefix + arguments[0])
        assert dict(await store.balances(accounts)) == books.balances(clock.monotonic(), accounts)


def _renamed(claim: Claim, prefix: str) -> Claim:
    if isinstance(claim, WindowClaim):
        return WindowClaim(prefix + claim.account, claim.amount, claim.limit, claim.keep)
    return RateClaim(prefix + claim.account, claim.amount, claim.limit, claim.period, claim.burst)
