"""The state store ``modelmesh.postgres.v1``."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, ClassVar

from psycopg.sql import SQL, Composed, Identifier
from pydantic import BaseModel

from modelmesh.errors import StateStoreError
from modelmesh.interfaces.ledger import GRANTED, Balance, Claim, Verdict
from modelmesh.interfaces.state_store import StateRecord, StoreGuarantees, StoreLock
from modelmesh_cdk.ledger import MICROSECONDS
from modelmesh_cdk.state_store import BaseStateStore
from modelmesh_plugins.state_stores.postgres import postings
from modelmesh_plugins.state_stores.postgres.config import PostgresConfig
from modelmesh_plugins.state_stores.postgres.database import Database, Query
from modelmesh_plugins.state_stores.postgres.listener import LARGEST, Listener, notify_channel, written

_LOAD = "SELECT data, version, at FROM {s}.records WHERE key = %s"
_STAT = "SELECT version, at FROM {s}.records WHERE key = %s"
_SAVE = (
    "INSERT INTO {s}.records VALUES (%s, %s, 1, {s}.now_us()) ON CONFLICT (key) DO UPDATE SET data = excluded.data,"
    " version = records.version + 1, at = greatest(records.at, {s}.now_us()) RETURNING version, at"
)
_CREATE = "INSERT INTO {s}.records VALUES (%s, %s, 1, {s}.now_us()) ON CONFLICT (key) DO NOTHING RETURNING version, at"
_REPLACE = (
    "UPDATE {s}.records SET data = %s, version = version + 1, at = greatest(at, {s}.now_us())"
    " WHERE key = %s AND version = %s RETURNING version, at"
)
_DELETE = "DELETE FROM {s}.records WHERE key = %s RETURNING 1"
_LIST = "SELECT key FROM {s}.records WHERE key >= %s AND starts_with(key, %s) ORDER BY key"
_LOCK = "SELECT {s}.lock(%s, %s::numeric)"
_UNLOCK = "DELETE FROM {s}.locks WHERE name = %s AND fence = %s RETURNING until > {s}.now_us()"
_NOTIFY = "SELECT pg_notify(%s, %s)"
_NOTIFY_ROW = (
    "WITH written AS (INSERT INTO {s}.messages (body, at) VALUES (%s, {s}.now_us()) RETURNING id)"
    " SELECT pg_notify(%s, 'r' || id || ' ' || %s::text) FROM written"
)


class PostgresStateStore(BaseStateStore[PostgresConfig]):
    """Keeps records, books, locks and messages in a schema of a PostgreSQL database, for any number of processes.

    Every change is one statement and one transaction, by the server's clock. Operations on the books that come at once
    go together, so that they share one round trip and one write to the server's disk.
    """

    config_model: ClassVar[type[BaseModel]] = PostgresConfig

    def __init__(self, config: PostgresConfig | None = None) -> None:
        super().__init__(config)
        self.guarantees = StoreGuarantees(
            survives_restart=True,
            shared_between_processes=True,
            loss_window_seconds=0.0 if self.config.synchronous_commit else 0.6,
            note="all that was answered is on the server's disk, or in its memory for a moment without"
            " synchronous_commit; a failover loses what had not reached the standby",
        )
        self._schema = Identifier(self.config.schema_name)
        self._databases: dict[asyncio.AbstractEventLoop, Database] = {}
        self._guard = threading.Lock()  # of changes of the databases, as loops run in threads
        self._closed = False

    async def close(self) -> None:
        """Close this loop's connections; those of other loops close on them, where they still run."""
        here = asyncio.get_running_loop()
        with self._guard:
            self._closed = True
            databases, self._databases = self._databases, {}
        for loop, database in databases.items():
            if loop is here:
                await database.close()
            elif loop.is_running():
                await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(database.close(), loop))
            else:
                database.abandon()
        await super().close()

    # --- records --------------------------------------------------------------------------------

    async def _load(self, key: str) -> StateRecord | None:
        for data, version, at in await self._query(_LOAD, key, repeatable=True):
            return StateRecord(key, bytes(data), version, _seconds(at))
        return None

    async def _stat(self, key: str) -> StateRecord | None:
        for version, at in await self._query(_STAT, key, repeatable=True):
            return StateRecord(key, b"", version, _seconds(at))
        return None

    async def _save(self, key: str, data: bytes, expected_version: int | None) -> StateRecord | None:
        if expected_version is None:
            rows = await self._query(_SAVE, key, data)
        elif expected_version == 0:
            rows = await self._query(_CREATE, key, data)
        else:
            rows = await self._query(_REPLACE, data, key, expected_version)
        for version, at in rows:
            return StateRecord(key, data, version, _seconds(at))
        return None

    async def _delete(self, key: str) -> bool:
        return bool(await self._query(_DELETE, key))

    async def _list(self, prefix: str) -> Sequence[str]:
        return [key for (key,) in await self._query(_LIST, prefix, prefix, repeatable=True)]

    # --- books of limits --------------------------------------------------------------------------

    async def _reserve(self, reservation: str, claims: Sequence[Claim], lease: float, dispatched: bool) -> Verdict:
        answer = await self._database.post(postings.reservation(reservation, claims, lease, dispatched))
        if answer is True:
            return GRANTED
        account, available, wait = answer
        return Verdict(False, account, int(available), wait / MICROSECONDS if wait is not None else None)

    async def _settle(self, reservation: str, actual: Mapping[str, int]) -> bool:
        return bool(await self._database.post(postings.settlement(reservation, actual)))

    async def _settle_all(self, settlements: Mapping[str, Mapping[str, int]]) -> Sequence[bool | Exception]:
        answers = await self._database.post_all([postings.settlement(*each) for each in settlements.items()])
        return [each if isinstance(each, Exception) else bool(each) for each in answers]

    async def _release(self, reservation: str) -> bool:
        return bool(await self._database.post(postings.release(reservation)))

    async def _balances(self, accounts: Sequence[str]) -> Mapping[str, Balance]:
        found = await self._database.post(postings.balances(accounts))
        return {account: Balance(*map(int, found.get(account, (0, 0)))) for account in accounts}

    # --- locks --------------------------------------------------------------------------------------

    async def _lock(self, name: str, expires_in: float) -> StoreLock | None:
        ((fence,),) = await self._query(_LOCK, name, postings.microseconds(expires_in))
        return StoreLock(name, fence, expires_in) if fence is not None else None

    async def _unlock(self, lock: StoreLock) -> bool:
        return any(held for (held,) in await self._query(_UNLOCK, lock.name, lock.fence))

    # --- messages -----------------------------------------------------------------------------------

    async def _publish(self, channel: str, message: bytes) -> None:
        await self._listener.until_heard(channel, within=self.config.timeout / 2)
        if len(message) <= LARGEST:
            await self._query(_NOTIFY, notify_channel(self.config), written(channel, message))
        else:
            await self._query(_NOTIFY_ROW, message, notify_channel(self.config), channel)

    def _subscribe(self, channel: str) -> AsyncGenerator[bytes, None]:
        return self._listener.subscribe(channel)

    # --- inside -------------------------------------------------------------------------------------

    @property
    def _database(self) -> Database:
        loop = asyncio.get_running_loop()
        return self._databases.get(loop) or self._begin(loop)

    def _begin(self, loop: asyncio.AbstractEventLoop) -> Database:
        with self._guard:
            if self._closed:
                raise StateStoreError("the state store is closed")
            # Programs that call asyncio.run() again and again leave a closed loop's connections behind each time.
            for ended in [each for each in self._databases if each.is_closed()]:
                self._databases.pop(ended).abandon()
            database = self._databases[loop] = Database(self.config)
        return database

    @property
    def _listener(self) -> Listener:
        return self._database.listener

    async def _query(self, statement: str, *values: Any, repeatable: bool = False) -> list[tuple[Any, ...]]:
        rows: list[tuple[Any, ...]] = await self._database.query(Query(self._named(statement), values, repeatable))
        return rows

    def _named(self, statement: str) -> Composed:
        return SQL(statement).format(s=self._schema)  # one of the constants above


def _seconds(microseconds: Any) -> float:
    return int(microseconds) / MICROSECONDS
