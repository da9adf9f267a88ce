"""BaseStateStore: what state stores share."""

from __future__ import annotations

import asyncio
import json
import random
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar, cast
from unicodedata import category
from weakref import WeakKeyDictionary

from pydantic import BaseModel, ConfigDict

from modelmesh.errors import StateStoreError
from modelmesh.hookspecs import hookimpl
from modelmesh.interfaces.ledger import Balance, Claim, Verdict
from modelmesh.interfaces.runtime import ConnectorContext
from modelmesh.interfaces.state_store import StateRecord, StoreGuarantees, StoreLock
from modelmesh_cdk.batches import outcomes_of
from modelmesh_cdk.channels import Channels
from modelmesh_cdk.ledger import Books, check_account, check_actual, check_claims
from modelmesh_cdk.locks import LockTable, check_expiry

MAX_KEY_LENGTH = 512
RESERVED = "~modelmesh/"
"""Keys that begin so are a store's own: nobody saves or lists them."""

ATTEMPTS = 100
"""How often a change by compare and set is tried before the store is called too busy."""

ConfigT = TypeVar("ConfigT", bound=BaseModel)
Result = TypeVar("Result")


class NoConfig(BaseModel):
    """Settings of a store that has none."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class BaseStateStore(ABC, Generic[ConfigT]):
    """Inherit this and write the four abstract ``_…`` methods; what they are given has been checked.

    Books, locks and messages then work too, as far as records carry them: books and locks are records that change by
    compare and set, at two calls each, by the clock of the process that asks; messages reach subscribers of this
    process only. A store that can do better overrides ``_reserve``, ``_settle``, ``_release`` and ``_balances``,
    ``_lock`` and ``_unlock``, ``_publish`` and ``_subscribe``, ``_stat``; and ``_settle_all``, if it can settle many
    at less than each costs alone.

    Attributes:
        config_model: Settings from the ``storage`` section.
        connector_id: Set it only when one plugin offers several connectors; else the entry point's name is the ID.
        guarantees: What the store promises.
        channels: Subscribers of this process.
    """

    config_model: ClassVar[type[BaseModel]] = NoConfig
    connector_id: ClassVar[str] = ""
    guarantees: StoreGuarantees
    context: ConnectorContext

    def __init__(self, config: ConfigT | None = None) -> None:
        self.config = config if config is not None else cast("ConfigT", self.config_model())
        self.channels = Channels()
        self._turns: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()

    @classmethod
    @hookimpl
    def modelmesh_state_stores(cls) -> Mapping[str, type[BaseStateStore[Any]]]:
        """Offer this class under its entry point's name."""
        return {cls.connector_id: cls}

    def bind(self, context: ConnectorContext) -> None:
        """Receive clock and trace."""
        self.context = context

    def now(self) -> float:
        """Unix time, by the context's clock; by the system's when the store stands alone."""
        context: ConnectorContext | None = getattr(self, "context", None)
        return context.clock.time() if context is not None else time.time()

    # --- records ----------------------------------------------------------------------------

    async def load(self, key: str) -> StateRecord | None:
        """Return the record, or None."""
        return await self._load(check_key(key))

    async def save(self, key: str, data: bytes, *, expected_version: int | None = None) -> StateRecord | None:
        """Write a record, if its version is the expected one; None when it was not."""
        if not isinstance(data, bytes):
            raise StateStoreError(f"state is saved as bytes, not {type(data).__name__}")
        return await self._save(check_key(key), data, expected_version)

    async def stat(self, key: str) -> StateRecord | None:
        """Return the record without its data, or None."""
        return await self._stat(check_key(key))

    async def delete(self, key: str) -> bool:
        """Remove a record; return whether there was one."""
        return await self._delete(check_key(key))

    async def list(self, prefix: str = "") -> Sequence[str]:
        """Keys that begin with the prefix, sorted."""
        if prefix and not _is_held(prefix):
            return []  # no key begins so
        return sorted(key for key in await self._list(prefix) if not key.startswith(RESERVED))

    # --- books of limits --------------------------------------------------------------------

    async def reserve(
        self, reservation: str, claims: Sequence[Claim], *, lease: float, dispatched: bool = True
    ) -> Verdict:
        """Claim all or nothing."""
        check_claims(claims, lease)
        return await self._reserve(check_key(reservation), claims, lease, dispatched)

    async def settle(self, reservation: str, actual: Mapping[str, int]) -> bool:
        """Replace what was reserved by what was spent; return whether the reservation was open."""
        check_actual(actual)
        return await self._settle(check_key(reservation), actual)

    async def settle_all(self, settlements: Mapping[str, Mapping[str, int]]) -> Mapping[str, bool | StateStoreError]:
        """Settle several reservations; return of each whether it was open, or why it could not be settled."""
        outcomes: dict[str, bool | StateStoreError] = {}
        sound: dict[str, Mapping[str, int]] = {}
        for reservation, actual in settlements.items():
            try:
                check_actual(actual)
                sound[check_key(reservation)] = actual
            except StateStoreError as error:
                outcomes[reservation] = error
        if sound:
            for reservation, outcome in zip(sound, await self._settle_all(sound), strict=True):
                if isinstance(outcome, Exception) and not isinstance(outcome, StateStoreError):
                    raise outcome
                outcomes[reservation] = outcome
        errors = [outcome for outcome in outcomes.values() if isinstance(outcome, StateStoreError)]
        if errors and len(errors) == len(outcomes):
            raise errors[0]
        return outcomes

    async def release(self, reservation: str) -> bool:
        """Give everything back; return whether the reservation was open."""
        return await self._release(check_key(reservation))

    async def balances(self, accounts: Sequence[str]) -> Mapping[str, Balance]:
        """Return the books of window accounts; unknown ones are empty."""
        for account in accounts:
            check_account(account)
        return await self._balances(accounts)

    # --- locks --------------------------------------------------------------------------------

    async def lock(self, name: str, *, expires_in: float) -> StoreLock | None:
        """Take a lock that nobody holds; None when somebody does."""
        check_expiry(expires_in)
        return await self._lock(check_key(name), expires_in)

    async def unlock(self, lock: StoreLock) -> bool:
        """Give a lock back; False when it is no longer this holder's."""
        check_key(lock.name)
        return await self._unlock(lock)

    # --- messages -----------------------------------------------------------------------------

    async def publish(self, channel: str, message: bytes) -> None:
        """Tell every subscriber of a channel."""
        if not isinstance(message, bytes):
            raise StateStoreError(f"a message is bytes, not {type(message).__name__}")
        await self._publish(check_key(channel), message)

    def subscribe(self, channel: str) -> AsyncGenerator[bytes, None]:
        """Yield what is published from now on."""
        return self._subscribe(check_key(channel))

    async def close(self) -> None:
        """Flush and release; subscriptions end."""
        self.channels.close()

    # --- an author's to write -------------------------------------------------------------------

    @abstractmethod
    async def _load(self, key: str) -> StateRecord | None: ...

    @abstractmethod
    async def _save(self, key: str, data: bytes, expected_version: int | None) -> StateRecord | None: ...

    @abstractmethod
    async def _delete(self, key: str) -> bool: ...

    @abstractmethod
    async def _list(self, prefix: str) -> Sequence[str]: ...

    # --- an author's to better ------------------------------------------------------------------

    async def _stat(self, key: str) -> StateRecord | None:
        record = await self._load(key)
        return StateRecord(record.key, b"", record.version, record.modified_at) if record is not None else None

    async def _reserve(self, reservation: str, claims: Sequence[Claim], lease: float, dispatched: bool) -> Verdict:
        return await self._keep_books(
            lambda books: books.reserve(self.now(), reservation, claims, lease=lease, dispatched=dispatched)
        )

    async def _settle(self, reservation: str, actual: Mapping[str, int]) -> bool:
        return await self._keep_books(lambda books: books.settle(self.now(), reservation, actual))

    async def _settle_all(self, settlements: Mapping[str, Mapping[str, int]]) -> Sequence[bool | Exception]:
        return await outcomes_of([asyncio.ensure_future(self._settle(*each)) for each in settlements.items()])

    async def _release(self, reservation: str) -> bool:
        return await self._keep_books(lambda books: books.release(self.now(), reservation))

    async def _balances(self, accounts: Sequence[str]) -> Mapping[str, Balance]:
        return await self._keep_books(lambda books: books.balances(self.now(), accounts))

    async def _lock(self, name: str, expires_in: float) -> StoreLock | None:
        return await self._keep_locks(lambda locks: locks.lock(self.now(), name, expires_in))

    async def _unlock(self, lock: StoreLock) -> bool:
        return await self._keep_locks(lambda locks: locks.unlock(self.now(), lock))

    async def _publish(self, channel: str, message: bytes) -> None:
        self.channels.publish(channel, message)

    def _subscribe(self, channel: str) -> AsyncGenerator[bytes, None]:
        return self.channels.subscribe(channel)

    # --- books and locks as records -----------------------------------------------------------

    async def _keep_books(self, work: Callable[[Books], Result]) -> Result:
        def change(before: Any) -> tuple[Result, Any]:
            books = Books.read(before) if before is not None else Books()
            return work(books), books.dump()

        return await self._change(f"{RESERVED}books", change)

    async def _keep_locks(self, work: Callable[[LockTable], Result]) -> Result:
        def change(before: Any) -> tuple[Result, Any]:
            locks = LockTable.read(before) if before is not None else LockTable()
            return work(locks), locks.dump()

        return await self._change(f"{RESERVED}locks", change)

    async def _change(self, key: str, change: Callable[[Any], tuple[Result, Any]]) -> Result:
        """Replace a record's content by what ``change`` makes of it, whoever else does so at the same time."""
        loop = asyncio.get_running_loop()
        # Tasks of one loop take turns: only other processes are left to compete with.
        async with self._turns.setdefault(loop, asyncio.Lock()):
            for attempt in range(ATTEMPTS):
                record = await self._load(key)
                before = _content(key, record)
                result, after = change(before)
                if after == before:
                    return result
                version = record.version if record is not None else 0
                if await self._save(key, json.dumps(after).encode(), version) is not None:
                    return result
                await asyncio.sleep(random.uniform(0.0, 0.001 * min(attempt + 1, 20)))  # noqa: S311 (jitter)
        raise StateStoreError(
            f"{type(self).__name__} is too busy: {ATTEMPTS} changes of {key!r} in a row met another process's change;"
            " use a store that keeps books itself, such as modelmesh.sqlite.v1, or fewer processes",
            retryable=True,
        )


def _content(key: str, record: StateRecord | None) -> Any:
    if record is None:
        return None
    try:
        return json.loads(record.data)
    except ValueError as error:
        raise StateStoreError(
            f"the store's own record {key!r} is damaged; delete it to begin with empty books and free locks"
        ) from error


def check_key(key: str) -> str:
    """Return a key that any store can hold.

    Raises:
        StateStoreError: It is empty, too long, or has control characters or halves of surrogate pairs, which no
            encoding can write; or it is one of the store's own.
    """
    if not key or not _is_held(key):
        raise StateStoreError(f"a state key is 1 to {MAX_KEY_LENGTH} printable characters")
    if key[0] == "~" and key.startswith(RESERVED):
        raise StateStoreError(f"state keys that begin with {RESERVED!r} are the store's own")
    return key


def _is_held(text: str) -> bool:
    # isprintable says in one call of almost every key what the letters' categories say slowly of the rest.
    return len(text) <= MAX_KEY_LENGTH and (
        text.isprintable() or not any(category(letter) in ("Cc", "Cs") for letter in text)
    )
