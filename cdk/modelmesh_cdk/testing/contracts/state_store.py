"""The contract of state stores."""

from __future__ import annotations

import asyncio

import pytest

from modelmesh.errors import StateStoreError
from modelmesh.interfaces.state_store import StateRecord, StateStore, StoreGuarantees
from modelmesh_cdk.testing.clock import FakeClock, context
from modelmesh_cdk.testing.contracts.store_ledger import LedgerScenarios
from modelmesh_cdk.testing.contracts.store_locks import LockScenarios
from modelmesh_cdk.testing.contracts.store_messages import MessageScenarios
from modelmesh_cdk.testing.contracts.store_processes import ProcessScenarios

KEYS = (
    "plain",
    "models/openai/gpt-4o",
    "dots/../../etc/passwd",
    "space and 'quotes' \"double\"",
    "percent%_under\\slash",
    "Grüße/🎉",
    "UPPER",
    "upper",
    "x" * 200,
)
"""Keys a store must keep apart, whatever it writes them to."""


class StateStoreContract(LedgerScenarios, LockScenarios, MessageScenarios, ProcessScenarios):
    """Inherit it and write `make`; each test begins with an empty store.

    ``own_clock``, ``tick`` and `pass_time` are for stores that tell time themselves; `factory` for those that other
    processes build in another way; all are described in `StoreScenarios`.
    """

    # --- records --------------------------------------------------------------------------

    def test_it_is_a_state_store(self) -> None:
        """It has every method the core calls, and says what it guarantees."""
        store = self.make(context())

        assert isinstance(store, StateStore)
        assert type(store.guarantees) is StoreGuarantees
        assert store.guarantees.loss_window_seconds >= 0.0

    def test_what_is_not_there_is_none(self) -> None:
        """An empty store has nothing to load, to list or to delete."""

        async def scenario(store: StateStore) -> None:
            assert await store.load("nothing") is None
            assert list(await store.list()) == []
            assert await store.delete("nothing") is False

        self.drive(scenario)

    def test_a_record_comes_back_as_it_was_saved(self) -> None:
        """Key, bytes and version are those that save returned; the time is the context's clock's or the store's own."""

        async def scenario(store: StateStore) -> None:
            saved = await store.save("key", b"data")
            assert saved is not None
            assert (saved.key, saved.data, saved.version) == ("key", b"data", 1)
            assert await store.load("key") == saved

        self.drive(scenario)

    def test_any_bytes_are_kept(self) -> None:
        """Data are bytes, not text, of any size."""

        async def scenario(store: StateStore) -> None:
            for data in (b"", bytes(range(256)), b"\x00", b"x" * 1_000_000):
                await store.save("key", data)
                record = await store.load("key")
                assert record is not None
                assert record.data == data

        self.drive(scenario)

    def test_keys_are_kept_apart(self) -> None:
        """Whatever characters a key has, it names one record and is listed as it was given."""

        async def scenario(store: StateStore) -> None:
            for key in KEYS:
                await store.save(key, key.encode())
            for key in KEYS:
                record = await store.load(key)
                assert record is not None
                assert record.data == key.encode(), f"{key!r} names another record"
            assert list(await store.list()) == sorted(KEYS)

        self.drive(scenario)

    def test_an_empty_key_is_refused(self) -> None:
        """A record without a key is a mistake of the caller's, told by the store's own error."""

        async def scenario(store: StateStore) -> None:
            with pytest.raises(StateStoreError):
                await store.save("", b"data")
            assert list(await store.list()) == []

        self.drive(scenario)

    def test_a_key_has_up_to_512_characters(self) -> None:
        """So many are kept, of any script; one more is refused, and so is what no encoding can write."""

        async def scenario(store: StateStore) -> None:
            for key in ("k" * 512, "🎉" * 512):
                await store.save(key, b"data")
                assert await store.stat(key) is not None
            for key in ("k" * 513, "a\x00b", "line\nbreak", "\ud800"):
                with pytest.raises(StateStoreError):
                    await store.save(key, b"data")
            assert list(await store.list()) == ["k" * 512, "🎉" * 512]

        self.drive(scenario)

    def test_stat_is_the_record_without_its_data(self) -> None:
        """Version and time are the record's; of what is not there is no stat."""

        async def scenario(store: StateStore) -> None:
            await store.save("key", b"1")
            saved = await store.save("key", b"data")
            assert saved is not None
            assert await store.stat("key") == StateRecord("key", b"", 2, saved.modified_at)
            assert await store.stat("nothing") is None

        self.drive(scenario)

    def test_keys_are_listed_sorted_by_prefix(self) -> None:
        """A prefix is taken literally: no wildcard, no pattern, no other case."""

        async def scenario(store: StateStore) -> None:
            for key in ("a/2", "a/1", "a%1", "aX1", "A/1", "b", "a_1", "a"):
                await store.save(key, b"")
            assert list(await store.list("a/")) == ["a/1", "a/2"]
            assert list(await store.list("a%")) == ["a%1"]
            assert list(await store.list("a_")) == ["a_1"]
            assert list(await store.list("a*")) == []
            assert list(await store.list("A")) == ["A/1"]

        self.drive(scenario)

    def test_a_deleted_record_is_gone(self) -> None:
        """Deleting says whether there was a record, and a new one begins at version 1."""

        async def scenario(store: StateStore) -> None:
            await store.save("key", b"1")
            await store.save("key", b"2")
            assert await store.delete("key") is True
            assert await store.delete("key") is False
            assert await store.load("key") is None
            again = await store.save("key", b"3", expected_version=0)
            assert again is not None
            assert again.version == 1

        self.drive(scenario)

    def test_the_time_of_a_write_does_not_go_back(self) -> None:
        """`modified_at` is Unix time, and later writes are not earlier."""
        clock = FakeClock()

        async def scenario(store: StateStore) -> None:
            first = await store.save("key", b"1")
            clock.advance(10.0)
            second = await store.save("key", b"2")
            assert first is not None
            assert second is not None
            assert 0.0 < first.modified_at <= second.modified_at

        self.drive(scenario, clock=clock)

    # --- compare and set ----------------------------------------------------------------------

    def test_versions_count_writes(self) -> None:
        """Each write raises the version by one."""

        async def scenario(store: StateStore) -> list[int]:
            return [_version(await store.save("key", b"data")) for _ in range(3)]

        assert self.drive(scenario) == [1, 2, 3]

    def test_a_write_needs_the_version_it_expects(self) -> None:
        """A wrong version writes nothing and says so with None; the right one writes."""

        async def scenario(store: StateStore) -> None:
            first = await store.save("key", b"mine", expected_version=0)
            assert first is not None
            for wrong in (0, 2, 99):
                assert await store.save("key", b"theirs", expected_version=wrong) is None
            assert await store.load("key") == first
            second = await store.save("key", b"next", expected_version=1)
            assert second is not None
            assert (second.data, second.version) == (b"next", 2)

        self.drive(scenario)

    def test_nothing_is_expected_of_a_record_that_is_not_there(self) -> None:
        """Version 0 means "only if there is none"; any other version does not match nothing."""

        async def scenario(store: StateStore) -> None:
            assert await store.save("key", b"data", expected_version=1) is None
            assert await store.load("key") is None
            assert _version(await store.save("key", b"data", expected_version=0)) == 1

        self.drive(scenario)

    def test_no_change_is_lost_among_many_writers(self) -> None:
        """Ten tasks that count up by compare and set together count every one."""

        async def scenario(store: StateStore) -> StateRecord | None:
            async def count_up() -> None:
                for _ in range(5):
                    await _add_one(store)

            await asyncio.gather(*(count_up() for _ in range(10)))
            return await store.load("counter")

        record = self.drive(scenario)

        assert record is not None
        assert (record.data, record.version) == (b"50", 50)

    def test_one_of_many_creators_wins(self) -> None:
        """Of several that create the same record at once, exactly one does."""

        async def scenario(store: StateStore) -> list[StateRecord | None]:
            saves = [store.save("key", str(number).encode(), expected_version=0) for number in range(10)]
            return list(await asyncio.gather(*saves))

        winners = [record for record in self.drive(scenario) if record is not None]

        assert len(winners) == 1

    # --- life ------------------------------------------------------------------------------------

    def test_close_may_be_repeated(self) -> None:
        """A second close does nothing, with or without use before."""

        async def scenario(store: StateStore) -> None:
            await store.save("key", b"data")
            await store.close()
            await store.close()

        async def unused(store: StateStore) -> None:
            await store.close()

        self.drive(scenario)
        self.drive(unused)

    def test_records_outlive_the_store_if_it_says_so(self) -> None:
        """What was saved before a restart is there after it, if the store guarantees that, and is not otherwise."""

        async def save(store: StateStore) -> StateRecord | None:
            return await store.save("key", b"data")

        async def load(store: StateStore) -> StateRecord | None:
            return await store.load("key")

        saved, loaded = self.drive(save), self.drive(load)

        assert loaded == (saved if self.make(context()).guarantees.survives_restart else None)

    def test_several_users_see_one_truth_if_it_says_so(self) -> None:
        """Two handles on a shared store exclude each other; else they are apart, or the second is refused."""

        async def scenario(one: StateStore) -> None:
            other = self.bound(FakeClock())
            shared = one.guarantees.shared_between_processes
            try:
                assert _version(await one.save("key", b"mine", expected_version=0)) == 1
                try:
                    seen = await other.save("key", b"theirs", expected_version=0)
                except StateStoreError:
                    assert not shared, "a shared store refused its second user"
                else:
                    assert (seen is None) is shared
            finally:
                await other.close()

        self.drive(scenario)


async def _add_one(store: StateStore) -> None:
    while True:
        before = await store.load("counter")
        count = int(before.data) if before is not None else 0
        await asyncio.sleep(0)
        version = before.version if before is not None else 0
        if await store.save("counter", str(count + 1).encode(), expected_version=version) is not None:
            return


def _version(record: StateRecord | None) -> int:
    assert record is not None, "nothing was written"
    return record.version
