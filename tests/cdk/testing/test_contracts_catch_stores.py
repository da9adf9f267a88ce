"""The contract of state stores notices what it is there to notice: each test fails for a store that is wrong."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from functools import partial
from typing import Any

import pytest

from modelmesh.interfaces.ledger import GRANTED, Claim, RateClaim, Verdict, WindowClaim
from modelmesh.interfaces.runtime import ConnectorContext
from modelmesh.interfaces.state_store import StateRecord, StateStore, StoreGuarantees, StoreLock
from modelmesh_cdk.testing import StateStoreContract
from modelmesh_plugins.state_stores.memory import MemoryStateStore

SHARED = StoreGuarantees(survives_restart=False, shared_between_processes=True)
SURVIVES = StoreGuarantees(survives_restart=True, shared_between_processes=False)


class Wrong(MemoryStateStore):
    """A memory store whose public methods subclasses get wrong."""


# --- records ------------------------------------------------------------------------------


class NoStat(Wrong):
    stat = None  # type: ignore[assignment]  # that is the point


class FindsAnything(Wrong):
    async def load(self, key: str) -> StateRecord | None:
        return await super().load(key) or StateRecord(key, b"", 1, 1.0)


class ChangesData(Wrong):
    async def save(self, key: str, data: bytes, *, expected_version: int | None = None) -> StateRecord | None:
        return await super().save(key, data + b"!", expected_version=expected_version)


class KeepsText(Wrong):
    async def save(self, key: str, data: bytes, *, expected_version: int | None = None) -> StateRecord | None:
        return await super().save(key, data.decode(errors="replace").encode(), expected_version=expected_version)


class IgnoresCase(Wrong):
    async def _save(self, key: str, data: bytes, expected_version: int | None) -> StateRecord | None:
        return await super()._save(key.lower(), data, expected_version)

    async def _load(self, key: str) -> StateRecord | None:
        return await super()._load(key.lower())


class TakesAnyKey(Wrong):
    async def save(self, key: str, data: bytes, *, expected_version: int | None = None) -> StateRecord | None:
        return await self._save(key, data, expected_version)


class CutsKeys(Wrong):
    async def save(self, key: str, data: bytes, *, expected_version: int | None = None) -> StateRecord | None:
        return await super().save(key[:511], data, expected_version=expected_version)


class StatsWithData(Wrong):
    async def _stat(self, key: str) -> StateRecord | None:
        return await self._load(key)


class ListsPatterns(Wrong):
    async def _list(self, prefix: str) -> Sequence[str]:
        return [key for key in self._records if key.lower().startswith(prefix.rstrip("%_*").lower())]


class ListsUnsorted(Wrong):
    async def list(self, prefix: str = "") -> Sequence[str]:
        return await self._list(prefix)


class DeletesNothing(Wrong):
    async def _delete(self, key: str) -> bool:
        return key in self._records


class HasNoTime(Wrong):
    def now(self) -> float:
        return 0.0


class CountsNothing(Wrong):
    async def _save(self, key: str, data: bytes, expected_version: int | None) -> StateRecord | None:
        record = await super()._save(key, data, expected_version)
        return record and StateRecord(key, data, 1, record.modified_at)


class WritesAnyway(Wrong):
    async def _save(self, key: str, data: bytes, expected_version: int | None) -> StateRecord | None:
        return await super()._save(key, data, None)


class LooksThenWrites(Wrong):
    async def _save(self, key: str, data: bytes, expected_version: int | None) -> StateRecord | None:
        before = self._records.get(key)
        if expected_version is not None and expected_version != (before.version if before is not None else 0):
            return None
        await asyncio.sleep(0)
        return await super()._save(key, data, None)


class ClosesOnce(Wrong):
    closed = False

    async def close(self) -> None:
        assert not self.closed
        self.closed = True


class SaysItSurvives(Wrong):
    guarantees = SURVIVES


class SaysItIsShared(Wrong):
    guarantees = SHARED


# --- books --------------------------------------------------------------------------------


class ChecksThenTakes(Wrong):
    """What LiteLLM did: look, do something else, book."""

    async def _reserve(self, reservation: str, claims: Sequence[Claim], lease: float, dispatched: bool) -> Verdict:
        for claim in claims:
            if isinstance(claim, WindowClaim):
                held = (await self._balances([claim.account]))[claim.account]
                if held.spent + held.reserved + claim.amount > claim.limit:
                    return Verdict(False, claim.account)
        await asyncio.sleep(0)
        claims = [
            WindowClaim(claim.account, claim.amount, 10**15, claim.keep) if isinstance(claim, WindowClaim) else claim
            for claim in claims
        ]
        return await super()._reserve(reservation, claims, lease, dispatched)


class TakesOneByOne(Wrong):
    async def _reserve(self, reservation: str, claims: Sequence[Claim], lease: float, dispatched: bool) -> Verdict:
        for place, claim in enumerate(claims):
            verdict = await super()._reserve(f"{reservation}-{place}", [claim], lease, dispatched)
            if not verdict.granted:
                return verdict
        return GRANTED


class SaysOnlyNo(Wrong):
    async def _reserve(self, reservation: str, claims: Sequence[Claim], lease: float, dispatched: bool) -> Verdict:
        verdict = await super()._reserve(reservation, claims, lease, dispatched)
        return verdict if verdict.granted else Verdict(False, verdict.account)


class ReservesTwice(Wrong):
    async def _reserve(self, reservation: str, claims: Sequence[Claim], lease: float, dispatched: bool) -> Verdict:
        return await super()._reserve(f"{reservation}-{len(self._books.reservations)}", claims, lease, dispatched)


class SettlesNothing(Wrong):
    async def _settle(self, reservation: str, actual: Mapping[str, int]) -> bool:
        return await super()._settle(reservation, {})


class SettlesWithinLimits(Wrong):
    async def _settle(self, reservation: str, actual: Mapping[str, int]) -> bool:
        found = self._books.reservations.get(reservation)
        most = {line[0]: line[1] for line in found.lines} if found is not None else {}
        return await super()._settle(
            reservation, {name: min(amount, most.get(name, 0)) for name, amount in actual.items()}
        )


class SettlesTheFirst(Wrong):
    async def _settle_all(self, settlements: Mapping[str, Mapping[str, int]]) -> Sequence[bool | Exception]:
        first, *others = await super()._settle_all(settlements)
        return [first, *(False for _ in others)]


class ReleasesNothing(Wrong):
    async def _release(self, reservation: str) -> bool:
        return await super()._settle(reservation, {})


class ForgetsTheFree(Wrong):
    async def _reserve(self, reservation: str, claims: Sequence[Claim], lease: float, dispatched: bool) -> Verdict:
        return await super()._reserve(reservation, claims, lease, dispatched) if claims else GRANTED


class LeasesForEver(Wrong):
    async def _reserve(self, reservation: str, claims: Sequence[Claim], lease: float, dispatched: bool) -> Verdict:
        return await super()._reserve(reservation, claims, 1e9, dispatched)


class ReturnsTheLost(Wrong):
    async def _reserve(self, reservation: str, claims: Sequence[Claim], lease: float, dispatched: bool) -> Verdict:
        return await super()._reserve(reservation, claims, lease, False)


class SpendsTheUnsent(Wrong):
    async def _reserve(self, reservation: str, claims: Sequence[Claim], lease: float, dispatched: bool) -> Verdict:
        return await super()._reserve(reservation, claims, lease, True)


class SpendsAgain(Wrong):
    """Books what a lease held when it ends, whatever became of it."""

    async def _reserve(self, reservation: str, claims: Sequence[Claim], lease: float, dispatched: bool) -> Verdict:
        await super()._reserve(f"{reservation}-shadow", [], lease, dispatched)
        verdict = await super()._reserve(reservation, claims, lease, dispatched)
        self._books.reservations[f"{reservation}-shadow"].lines = [
            (claim.account, claim.amount, 0, 0, 0) for claim in claims if isinstance(claim, WindowClaim)
        ]
        return verdict


class SpendsPlaces(Wrong):
    async def _reserve(self, reservation: str, claims: Sequence[Claim], lease: float, dispatched: bool) -> Verdict:
        kept = [
            WindowClaim(claim.account, claim.amount, claim.limit, claim.keep or 1e-3)
            if isinstance(claim, WindowClaim)
            else claim
            for claim in claims
        ]
        return await super()._reserve(reservation, kept, lease, dispatched)


class ForgetsEarly(Wrong):
    async def _reserve(self, reservation: str, claims: Sequence[Claim], lease: float, dispatched: bool) -> Verdict:
        short = [
            WindowClaim(claim.account, claim.amount, claim.limit, 0.0) if isinstance(claim, WindowClaim) else claim
            for claim in claims
        ]
        return await super()._reserve(reservation, short, lease, dispatched)


def with_rates(change: Callable[[RateClaim], RateClaim]) -> type[Wrong]:
    """Make a store that takes rates for others than they are."""

    class Changed(Wrong):
        async def _reserve(self, reservation: str, claims: Sequence[Claim], lease: float, dispatched: bool) -> Verdict:
            claims = [change(claim) if isinstance(claim, RateClaim) else claim for claim in claims]
            return await super()._reserve(reservation, claims, lease, dispatched)

    return Changed


GenerousRates = with_rates(
    lambda claim: RateClaim(claim.account, claim.amount, claim.limit * 2, claim.period, claim.limit * 2)
)
LazyRates = with_rates(
    lambda claim: RateClaim(claim.account, claim.amount, claim.limit, claim.period * 1.05, claim.burst)
)
NoRates = with_rates(lambda claim: RateClaim(claim.account, 0, claim.limit, claim.period, claim.burst))


class WaitsForNothing(Wrong):
    async def _reserve(self, reservation: str, claims: Sequence[Claim], lease: float, dispatched: bool) -> Verdict:
        verdict = await super()._reserve(reservation, claims, lease, dispatched)
        return verdict if verdict.granted else Verdict(False, verdict.account, verdict.available, 1.0)


class SavesUp(Wrong):
    """Gives rates back as if no time had passed."""

    async def _release(self, reservation: str) -> bool:
        found = self._books.reservations.get(reservation)
        for line in found.lines if found is not None else ():
            if line[2]:
                rate = self._books.rates[line[0]]
                rate.debt = max(0, rate.debt - line[1] * line[3])
        return await super()._release(reservation)


class BelievesAnything(Wrong):
    async def reserve(
        self, reservation: str, claims: Sequence[Claim], *, lease: float, dispatched: bool = True
    ) -> Verdict:
        return await self._reserve(reservation, claims, lease, dispatched)


# --- locks and messages -------------------------------------------------------------------


class LocksNobodyOut(Wrong):
    async def _lock(self, name: str, expires_in: float) -> StoreLock | None:
        self._locks.held.pop(name, None)
        return await super()._lock(name, expires_in)


class LooksThenLocks(Wrong):
    async def _lock(self, name: str, expires_in: float) -> StoreLock | None:
        if name in self._locks.held:
            return await super()._lock(name, expires_in)
        await asyncio.sleep(0)
        self._locks.held.pop(name, None)
        return await super()._lock(name, expires_in)


class FencesStandStill(Wrong):
    async def _lock(self, name: str, expires_in: float) -> StoreLock | None:
        self._locks.fence = 0
        return await super()._lock(name, expires_in)


class LocksForEver(Wrong):
    async def _lock(self, name: str, expires_in: float) -> StoreLock | None:
        lock = await super()._lock(name, 1e9)
        return lock and StoreLock(name, lock.fence, expires_in)


class AnybodyUnlocks(Wrong):
    async def _unlock(self, lock: StoreLock) -> bool:
        return self._locks.held.pop(lock.name, None) is not None


class UnlocksTheLapsed(Wrong):
    async def _unlock(self, lock: StoreLock) -> bool:
        held = self._locks.held.get(lock.name)
        return held is not None and held[0] == lock.fence and bool(self._locks.held.pop(lock.name))


class LocksWithoutTime(Wrong):
    async def lock(self, name: str, *, expires_in: float) -> StoreLock | None:
        return await self._lock(name, expires_in)


class ListsItsOwn(Wrong):
    async def list(self, prefix: str = "") -> Sequence[str]:
        return [*await super().list(prefix), *self._locks.held]


class MixesChannels(Wrong):
    async def _publish(self, channel: str, message: bytes) -> None:
        for each in self.channels.listened():
            self.channels.publish(each, message)


class RemembersMessages(Wrong):
    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        self.said: list[tuple[str, bytes]] = []

    async def _publish(self, channel: str, message: bytes) -> None:
        self.said.append((channel, message))
        await super()._publish(channel, message)

    def _subscribe(self, channel: str) -> AsyncGenerator[bytes, None]:
        listener = self.channels.add(channel)
        for where, message in self.said:
            if where == channel:
                listener.put(message)
        return listener.stream()


class OneListenerEndsAll(Wrong):
    async def _publish(self, channel: str, message: bytes) -> None:
        await super()._publish(channel, message)
        if message == b"after":
            self.channels.close()
            self.channels.of(channel)[0]._messages.clear()
            for listener in self.channels.of(channel):
                listener._messages.clear()


class PublishesText(Wrong):
    async def publish(self, channel: str, message: bytes) -> None:
        await self._publish(channel, message)


CAUGHT: dict[str, type[Wrong]] = {
    "test_it_is_a_state_store": NoStat,
    "test_what_is_not_there_is_none": FindsAnything,
    "test_a_record_comes_back_as_it_was_saved": ChangesData,
    "test_any_bytes_are_kept": KeepsText,
    "test_keys_are_kept_apart": IgnoresCase,
    "test_an_empty_key_is_refused": TakesAnyKey,
    "test_a_key_has_up_to_512_characters": CutsKeys,
    "test_stat_is_the_record_without_its_data": StatsWithData,
    "test_keys_are_listed_sorted_by_prefix": ListsPatterns,
    "test_a_deleted_record_is_gone": DeletesNothing,
    "test_the_time_of_a_write_does_not_go_back": HasNoTime,
    "test_versions_count_writes": CountsNothing,
    "test_a_write_needs_the_version_it_expects": WritesAnyway,
    "test_nothing_is_expected_of_a_record_that_is_not_there": WritesAnyway,
    "test_no_change_is_lost_among_many_writers": LooksThenWrites,
    "test_one_of_many_creators_wins": LooksThenWrites,
    "test_close_may_be_repeated": ClosesOnce,
    "test_records_outlive_the_store_if_it_says_so": SaysItSurvives,
    "test_several_users_see_one_truth_if_it_says_so": SaysItIsShared,
    "test_of_many_at_once_exactly_what_fits_is_admitted": ChecksThenTakes,
    "test_a_refusal_takes_nothing": TakesOneByOne,
    "test_a_refusal_says_what_is_left": SaysOnlyNo,
    "test_reserving_again_changes_nothing": ReservesTwice,
    "test_settling_replaces_what_was_reserved": SettlesNothing,
    "test_many_are_settled_each_for_itself": SettlesTheFirst,
    "test_what_was_overspent_is_in_the_books": SettlesWithinLimits,
    "test_a_release_gives_everything_back": ReleasesNothing,
    "test_a_reservation_without_claims_is_granted": ForgetsTheFree,
    "test_a_lease_that_ends_dispatched_is_spent": ReturnsTheLost,
    "test_a_lease_that_ends_undispatched_returns": SpendsTheUnsent,
    "test_a_settled_reservations_lease_means_nothing": SpendsAgain,
    "test_places_return_with_their_lease": SpendsPlaces,
    "test_an_account_is_kept_as_long_as_was_asked": ForgetsEarly,
    "test_a_rate_admits_its_burst_at_once": GenerousRates,
    "test_a_refused_rate_is_granted_when_it_said": LazyRates,
    "test_no_wait_grants_more_than_the_burst": WaitsForNothing,
    "test_a_rate_flows_steadily_and_is_never_passed": LazyRates,
    "test_what_a_rate_did_not_use_flows_back": SettlesNothing,
    "test_a_rate_does_not_save_up": SavesUp,
    "test_claims_that_mean_nothing_are_refused": BelievesAnything,
    "test_the_books_agree_with_the_reference": SettlesWithinLimits,
    "test_a_lock_has_one_holder": LocksNobodyOut,
    "test_of_many_that_want_a_lock_one_gets_it": LooksThenLocks,
    "test_fences_grow": FencesStandStill,
    "test_a_lapsed_lock_goes_to_whoever_waits": LocksForEver,
    "test_a_lock_that_lapsed_unseen_is_not_given_back": UnlocksTheLapsed,
    "test_only_the_holder_unlocks": AnybodyUnlocks,
    "test_a_lock_without_a_time_is_refused": LocksWithoutTime,
    "test_locks_and_books_are_no_records": ListsItsOwn,
    "test_messages_reach_every_subscriber_in_order": MixesChannels,
    "test_nobody_listening_is_no_error": RemembersMessages,
    "test_closing_ends_a_subscription": OneListenerEndsAll,
    "test_other_users_of_a_shared_store_hear_it": SaysItIsShared,
    "test_only_bytes_are_messages": PublishesText,
    "test_processes_together_do_not_pass_a_limit": SaysItIsShared,
    "test_processes_lose_no_change_of_one_another": SaysItIsShared,
}
"""For each test of the contract a store that it must not let pass."""

MORE: list[tuple[str, type[Wrong]]] = [
    ("test_keys_are_listed_sorted_by_prefix", ListsUnsorted),
    ("test_a_lease_that_ends_dispatched_is_spent", LeasesForEver),
    ("test_a_lease_that_ends_undispatched_returns", LeasesForEver),
    ("test_a_rate_flows_steadily_and_is_never_passed", GenerousRates),
    ("test_a_rate_flows_steadily_and_is_never_passed", NoRates),
    ("test_the_books_agree_with_the_reference", SpendsTheUnsent),
    ("test_the_books_agree_with_the_reference", LazyRates),
    ("test_the_books_agree_with_the_reference", ForgetsTheFree),
]
"""Further ways to be wrong."""

ALL = [*CAUGHT.items(), *MORE]


def contract(store: type[Wrong]) -> Any:
    """Return the contract over a store, named so that pytest does not collect it."""

    class Contract(StateStoreContract):
        patience = 2.0
        examples = 100
        shrinks = False

        def make(self, context: ConnectorContext) -> StateStore:
            return store()

        def factory(self) -> Callable[[], StateStore]:
            return partial(MemoryStateStore)  # a class of a test module cannot be found from another process

    return Contract()


def names() -> list[str]:
    """Return the names of the contract's tests."""
    return [name for name, _ in inspect.getmembers(StateStoreContract) if name.startswith("test_")]


def test_every_test_is_seen_to_fail() -> None:
    """A test that no broken store fails shows nothing."""
    assert sorted(CAUGHT) == sorted(names())


@pytest.mark.parametrize(("test", "store"), ALL, ids=[f"{test[5:]}-{store.__name__}" for test, store in ALL])
@pytest.mark.filterwarnings("ignore")
def test_a_broken_store_is_caught(test: str, store: type[Wrong]) -> None:
    """It fails, and not by being skipped."""
    with pytest.raises(BaseException) as caught:  # noqa: PT011 (whatever the failure is, it must not be a skip)
        getattr(contract(store), test)()

    assert not isinstance(caught.value, pytest.skip.Exception | KeyboardInterrupt)


@pytest.mark.parametrize("test", names())
def test_a_right_store_passes(test: str) -> None:
    """The same harness lets the store pass from which all the broken ones come: what fails is what was broken."""
    try:
        getattr(contract(Wrong), test)()
    except pytest.skip.Exception:
        assert "process" in test or "shared" in test
