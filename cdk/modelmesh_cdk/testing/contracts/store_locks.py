"""The contract of state stores: locks."""

from __future__ import annotations

import asyncio

import pytest

from modelmesh.errors import StateStoreError
from modelmesh.interfaces.state_store import StateStore, StoreLock
from modelmesh_cdk.testing.clock import FakeClock
from modelmesh_cdk.testing.contracts.store_scenarios import StoreScenarios

LONG = 100_000.0


class LockScenarios(StoreScenarios):
    """Lock and unlock."""

    def test_a_lock_has_one_holder(self) -> None:
        """Whoever comes second gets nothing until it is given back; other names are other locks."""

        async def scenario(store: StateStore) -> None:
            held = await store.lock("probe/a", expires_in=LONG)
            assert held is not None
            assert (held.name, held.expires_in) == ("probe/a", LONG)
            assert await store.lock("probe/a", expires_in=LONG) is None
            assert await store.lock("probe/b", expires_in=LONG) is not None
            assert await store.unlock(held) is True
            assert await store.lock("probe/a", expires_in=LONG) is not None

        self.drive(scenario)

    def test_of_many_that_want_a_lock_one_gets_it(self) -> None:
        """At the same time, in one process."""

        async def scenario(store: StateStore) -> int:
            locks = await asyncio.gather(*(store.lock("probe", expires_in=LONG) for _ in range(20)))
            return sum(lock is not None for lock in locks)

        assert self.drive(scenario) == 1

    def test_fences_grow(self) -> None:
        """Each holder's is larger than every earlier one's, after giving back and after lapsing."""
        clock = FakeClock()

        async def scenario(store: StateStore) -> list[int]:
            fences = []
            for lapses in (False, True, False, True, False):
                lock = await store.lock("probe", expires_in=self.tick)
                assert lock is not None
                fences.append(lock.fence)
                if lapses:
                    await self.pass_time(clock, self.tick * 1.25)
                else:
                    assert await store.unlock(lock) is True
            return fences

        fences = self.drive(scenario, clock=clock)

        assert fences == sorted(set(fences))

    def test_a_lapsed_lock_goes_to_whoever_waits(self) -> None:
        """Its old holder can no longer give it back, and does not take it from the new one by trying."""
        clock = FakeClock()

        async def scenario(store: StateStore) -> None:
            old = await store.lock("probe", expires_in=self.tick)
            await self.pass_time(clock, self.tick * 0.5)
            assert await store.lock("probe", expires_in=LONG) is None
            await self.pass_time(clock, self.tick * 0.75)
            new = await store.lock("probe", expires_in=LONG)
            assert old is not None
            assert new is not None
            assert await store.unlock(old) is False
            assert await store.lock("probe", expires_in=LONG) is None
            assert await store.unlock(new) is True

        self.drive(scenario, clock=clock)

    def test_a_lock_that_lapsed_unseen_is_not_given_back(self) -> None:
        """Even when nobody has taken it since: its holder is told that its time was over."""
        clock = FakeClock()

        async def scenario(store: StateStore) -> bool:
            lock = await store.lock("probe", expires_in=self.tick)
            assert lock is not None
            await self.pass_time(clock, self.tick * 1.25)
            return await store.unlock(lock)

        assert self.drive(scenario, clock=clock) is False

    def test_only_the_holder_unlocks(self) -> None:
        """Another fence, another name: nothing happens. Giving back twice: once."""

        async def scenario(store: StateStore) -> None:
            held = await store.lock("probe", expires_in=LONG)
            assert held is not None
            assert await store.unlock(StoreLock("probe", held.fence - 1, LONG)) is False
            assert await store.unlock(StoreLock("probe", held.fence + 1, LONG)) is False
            assert await store.unlock(StoreLock("other", held.fence, LONG)) is False
            assert await store.lock("probe", expires_in=LONG) is None
            assert await store.unlock(held) is True
            assert await store.unlock(held) is False

        self.drive(scenario)

    def test_a_lock_without_a_time_is_refused(self) -> None:
        """A lock that never lapses would outlive its holder."""

        async def scenario(store: StateStore) -> None:
            for expires_in in (0.0, -1.0, float("inf"), float("nan")):
                with pytest.raises(StateStoreError):
                    await store.lock("probe", expires_in=expires_in)
            with pytest.raises(StateStoreError):
                await store.lock("", expires_in=LONG)

        self.drive(scenario)

    def test_locks_and_books_are_no_records(self) -> None:
        """However a store keeps them, they are not listed among the records."""

        async def scenario(store: StateStore) -> None:
            await store.lock("probe", expires_in=LONG)
            await store.reserve("request", [], lease=LONG)
            assert list(await store.list()) == []

        self.drive(scenario)
