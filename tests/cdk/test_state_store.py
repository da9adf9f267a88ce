"""BaseStateStore: what all state stores share."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import pytest

from modelmesh.errors import StateStoreError
from modelmesh.interfaces.ledger import WindowClaim
from modelmesh.interfaces.runtime import ConnectorContext
from modelmesh.interfaces.state_store import StateRecord, StateStore, StoreGuarantees, StoreLock
from modelmesh_cdk.state_store import MAX_KEY_LENGTH, BaseStateStore, check_key


class Dictionary(BaseStateStore[Any]):
    """Keeps records in a dict and notes every call that got through."""

    connector_id = "acme.dictionary.v1"
    guarantees = StoreGuarantees(survives_restart=False, shared_between_processes=False)

    def __init__(self) -> None:
        super().__init__()
        self.records: dict[str, StateRecord] = {}
        self.calls: list[tuple[Any, ...]] = []

    async def _load(self, key: str) -> StateRecord | None:
        self.calls.append(("load", key))
        return self.records.get(key)

    async def _save(self, key: str, data: bytes, expected_version: int | None) -> StateRecord | None:
        self.calls.append(("save", key, data, expected_version))
        self.records[key] = StateRecord(key, data, 1, 0.0)
        return self.records[key]

    async def _delete(self, key: str) -> bool:
        self.calls.append(("delete", key))
        return self.records.pop(key, None) is not None

    async def _list(self, prefix: str) -> Sequence[str]:
        self.calls.append(("list", prefix))
        return [key for key in self.records if key.startswith(prefix)]


class StoppedClock:
    """A clock that stands still."""

    def monotonic(self) -> float:
        return 0.0

    def time(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("nobody waits here")


@pytest.fixture
def store() -> Dictionary:
    """A fresh store."""
    return Dictionary()


def test_a_class_with_four_methods_is_a_state_store(store: Dictionary) -> None:
    """What the engine needs, and what it registers, is all there."""
    context = ConnectorContext("storage", StoppedClock(), random.Random(0))

    store.bind(context)

    assert isinstance(store, StateStore)
    assert store.context is context
    assert Dictionary.modelmesh_state_stores() == {"acme.dictionary.v1": Dictionary}
    asyncio.run(store.close())  # by default there is nothing to do


def test_a_store_without_its_methods_cannot_be_made() -> None:
    """All four are an author's to write."""
    with pytest.raises(TypeError, match=r"_delete.*_list.*_load.*_save"):
        BaseStateStore()  # type: ignore[abstract]  # that is the point


def test_calls_reach_the_authors_methods_and_answers_come_back(store: Dictionary) -> None:
    """In the shape the interface promises."""

    async def use() -> tuple[Any, ...]:
        return (
            await store.load("a/b"),
            await store.save("a/b", b"1", expected_version=0),
            await store.load("a/b"),
            await store.save("a/b", b"2"),
            await store.delete("a/b"),
            await store.delete("a/b"),
        )

    absent, saved, loaded, _, was_there, was_there_again = asyncio.run(use())

    assert (absent, saved, loaded) == (None, StateRecord("a/b", b"1", 1, 0.0), saved)
    assert (was_there, was_there_again) == (True, False)
    assert store.calls[1] == ("save", "a/b", b"1", 0)
    assert store.calls[3] == ("save", "a/b", b"2", None)


def test_keys_are_listed_in_order(store: Dictionary) -> None:
    """Whatever order the author's method has; no prefix means all."""

    async def use() -> tuple[Sequence[str], Sequence[str]]:
        for key in ("b", "a/2", "a/10", "a"):
            await store.save(key, b"")
        return await store.list(), await store.list("a/")

    assert asyncio.run(use()) == (["a", "a/10", "a/2", "b"], ["a/10", "a/2"])


BAD_KEYS = ["", "x" * (MAX_KEY_LENGTH + 1), "a\0", "a\nb", "\x1f", "\x7f", "\x85", "\ud800"]


@pytest.mark.parametrize("key", BAD_KEYS, ids=lambda key: ascii(key[:6]))
def test_a_key_that_some_store_could_not_hold_gets_nowhere(store: Dictionary, key: str) -> None:
    """It is refused by all alike, before the author's method sees it, and not repeated."""
    calls = (
        store.load,
        store.delete,
        lambda name: store.save(name, b""),
        lambda name: store.unlock(StoreLock(name, 1, 1.0)),
    )
    for call in calls:
        with pytest.raises(StateStoreError, match=r"^a state key is 1 to 512 printable characters$"):
            asyncio.run(call(key))

    assert store.calls == []


@pytest.mark.parametrize(
    "key", ["a", "x" * MAX_KEY_LENGTH, "a b/c:d", "модель/🙂", " "], ids=lambda key: ascii(key[:6])
)
def test_any_other_text_is_a_key(key: str) -> None:
    """Of any script; it comes back as it is."""
    assert check_key(key) is key


@pytest.mark.parametrize("name", [each for each in BAD_KEYS if len(each) < MAX_KEY_LENGTH], ids=ascii)
def test_an_account_that_some_store_could_not_keep_gets_nowhere(store: Dictionary, name: str) -> None:
    """One such name would fail the calls of others that share its round trip."""
    with pytest.raises(StateStoreError, match="an account's name is printable text"):
        asyncio.run(store.balances(["sound", name]))

    assert store.calls == []


def test_nothing_begins_as_no_key_can(store: Dictionary) -> None:
    """A store is not asked for it: it could not even be sent to some."""
    assert [asyncio.run(store.list(prefix)) for prefix in ("a\0", "\ud800", "x" * (MAX_KEY_LENGTH + 1))] == [[], [], []]
    assert store.calls == []


@pytest.mark.parametrize("data", ["text", bytearray(b"x"), None, {}], ids=repr)
def test_only_bytes_are_saved(store: Dictionary, data: Any) -> None:
    """What could change after it was saved is no record; the message names the type, not the value."""
    with pytest.raises(StateStoreError, match=f"^state is saved as bytes, not {type(data).__name__}$"):
        asyncio.run(store.save("a", data))

    assert store.calls == []


# --- books and locks as records -----------------------------------------------------------


class Contested(Dictionary):
    """A store where somebody else always writes first."""

    async def _save(self, key: str, data: bytes, expected_version: int | None) -> StateRecord | None:
        return None


MONEY = [WindowClaim("money", 6, 10, 3_600.0)]


def test_books_of_records_are_hidden_and_guarded(store: Dictionary) -> None:
    """They are not listed, and nobody writes over them by their key."""

    async def use() -> Sequence[str]:
        assert (await store.reserve("a", MONEY, lease=60.0)).granted
        assert not (await store.reserve("b", MONEY, lease=60.0)).granted
        for key in list(store.records):
            with pytest.raises(StateStoreError, match="are the store's own"):
                await store.save(key, b"")
        return await store.list()

    assert asyncio.run(use()) == []
    assert len(store.records) == 1


def test_a_store_that_is_too_busy_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a bounded number of tries, as something that may pass; it names what to use instead."""
    monkeypatch.setattr("modelmesh_cdk.state_store.ATTEMPTS", 3)
    store = Contested()

    with pytest.raises(StateStoreError, match=r"is too busy: 3 changes of .*modelmesh\.sqlite\.v1") as caught:
        asyncio.run(store.reserve("a", MONEY, lease=60.0))

    assert caught.value.retryable


def test_damaged_books_are_told(store: Dictionary) -> None:
    """Nobody goes on as if nothing had been spent."""
    store.records["~modelmesh/books"] = StateRecord("~modelmesh/books", b"{", 1, 0.0)

    with pytest.raises(StateStoreError, match="is damaged; delete it to begin with empty books"):
        asyncio.run(store.reserve("a", MONEY, lease=60.0))


def test_refusals_write_nothing(store: Dictionary) -> None:
    """A request that is turned away costs one look."""

    async def use() -> None:
        await store.reserve("a", MONEY, lease=60.0)
        store.calls.clear()
        await store.reserve("b", MONEY, lease=60.0)

    asyncio.run(use())

    assert [call[0] for call in store.calls] == ["load"]


class SettlesOddly(Dictionary):
    """Raises what it is told to for some reservations."""

    trouble: dict[str, Exception]

    async def _settle(self, reservation: str, actual: Any) -> bool:
        if reservation in self.trouble:
            raise self.trouble[reservation]
        return True


@pytest.mark.parametrize(
    ("trouble", "outcome"),
    [
        pytest.param({"a": StateStoreError("full")}, {"a": "full", "b": True}, id="one"),
        pytest.param({"a": StateStoreError("full"), "b": StateStoreError("gone")}, "full", id="all"),
        pytest.param({"b": KeyError("a mistake of its author")}, "'a mistake of its author'", id="mistake"),
    ],
)
def test_of_many_settlements_each_has_its_outcome(trouble: dict[str, Exception], outcome: Any) -> None:
    """Where none could be settled the error is raised, and so is an error that stores do not promise."""
    store = SettlesOddly()
    store.trouble = trouble

    async def settle() -> Any:
        try:
            outcomes = await store.settle_all({"a": {}, "b": {}})
        except Exception as error:
            return str(error)
        return {name: str(each) if isinstance(each, Exception) else each for name, each in outcomes.items()}

    assert asyncio.run(settle()) == outcome
