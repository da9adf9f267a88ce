"""State in a SQLite database: many processes on one host, nothing lost when one of them dies."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import threading
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from modelmesh.errors import StateStoreError
from modelmesh.interfaces.ledger import Balance, Claim, Verdict
from modelmesh.interfaces.observability import Severity
from modelmesh.interfaces.state_store import StateRecord, StoreGuarantees, StoreLock
from modelmesh_cdk.batches import outcomes_of
from modelmesh_cdk.channels import Channels, Subscription
from modelmesh_cdk.commit_thread import CommitThread, Job
from modelmesh_cdk.state_store import BaseStateStore
from modelmesh_plugins.state_stores.sqlite.config import SQLiteConfig
from modelmesh_plugins.state_stores.sqlite.failures import code_of, failure
from modelmesh_plugins.state_stores.sqlite.forks import Connection, at_work, connect
from modelmesh_plugins.state_stores.sqlite.page import HOUSEKEEPING_SECONDS, Page
from modelmesh_plugins.state_stores.sqlite.tables import open_tables, statements

POLL_SECONDS = 0.1
"""How often messages of other processes are looked for, while somebody listens."""


class SQLiteStateStore(BaseStateStore[SQLiteConfig]):
    """Keeps state in one database in WAL mode; one thread writes, and commits what waits together.

    Its clock is the host's, so all processes on it agree.
    """

    config_model = SQLiteConfig
    guarantees = StoreGuarantees(
        survives_restart=True,
        shared_between_processes=True,
        note="all processes of this host; a power failure can lose the last moments unless synchronous is full",
    )

    def __init__(self, config: SQLiteConfig | None = None) -> None:
        super().__init__(config)
        self._path = Path(self.config.path)
        self._sql = statements(self.config.table)
        self._database: Connection | None = None
        self._page: Page | None = None
        self._clean_at = 0.0
        self._thread: CommitThread[Page] = CommitThread("modelmesh-sqlite", self._commit, self._finish)
        self._listening: threading.Thread | None = None
        self._guard = threading.Lock()
        self._news = threading.Event()
        self._closing = False

    # --- records ----------------------------------------------------------------------------

    async def _load(self, key: str) -> StateRecord | None:
        return await self._thread.run(lambda page: page.record("load", key), writes=False)

    async def _stat(self, key: str) -> StateRecord | None:
        return await self._thread.run(lambda page: page.record("stat", key), writes=False)

    async def _save(self, key: str, data: bytes, expected_version: int | None) -> StateRecord | None:
        return await self._thread.run(lambda page: page.save(key, data, expected_version))

    async def _delete(self, key: str) -> bool:
        return await self._thread.run(lambda page: page.run("delete", key).rowcount > 0)

    async def _list(self, prefix: str) -> Sequence[str]:
        return await self._thread.run(
            lambda page: [key for (key,) in page.run("list", len(prefix), prefix)], writes=False
        )

    # --- books --------------------------------------------------------------------------------

    async def _reserve(self, reservation: str, claims: Sequence[Claim], lease: float, dispatched: bool) -> Verdict:
        return await self._thread.run(
            lambda page: page.reserve(page.now, reservation, claims, lease=lease, dispatched=dispatched)
        )

    async def _settle(self, reservation: str, actual: Mapping[str, int]) -> bool:
        return await self._settling(reservation, actual)

    async def _settle_all(self, settlements: Mapping[str, Mapping[str, int]]) -> Sequence[bool | Exception]:
        return await outcomes_of([self._settling(*each) for each in settlements.items()])

    def _settling(self, reservation: str, actual: Mapping[str, int]) -> asyncio.Future[bool]:
        return self._thread.submit(lambda page: page.settle(page.now, reservation, actual))

    async def _release(self, reservation: str) -> bool:
        return await self._thread.run(lambda page: page.release(page.now, reservation))

    async def _balances(self, accounts: Sequence[str]) -> Mapping[str, Balance]:
        return await self._thread.run(lambda page: page.balances(page.now, accounts), writes=False)

    # --- locks --------------------------------------------------------------------------------

    async def _lock(self, name: str, expires_in: float) -> StoreLock | None:
        return await self._thread.run(lambda page: page.lock(name, expires_in))

    async def _unlock(self, lock: StoreLock) -> bool:
        return await self._thread.run(lambda page: page.unlock(lock))

    # --- messages -----------------------------------------------------------------------------

    async def _publish(self, channel: str, message: bytes) -> None:
        await self._thread.run(lambda page: page.run("publish", channel, message, page.now))
        if _is_running(self._listening):
            self._news.set()

    def _subscribe(self, channel: str) -> AsyncGenerator[bytes, None]:
        with self._guard:
            if self._listening is not None and not _is_running(self._listening):
                # A thread does not come along through a fork. Nor does who listened, since no event loop does; and the
                # event may be locked by the thread that is gone.
                self._listening, self.channels, self._news = None, Channels(), threading.Event()
            subscriber = self.channels.add(channel)
        # In line with what this process publishes before and after; other processes' are as near as can be.
        last = self._thread.submit(lambda page: page.run("last_message").fetchone()[0], writes=False)
        last.add_done_callback(partial(_begin, subscriber))
        with self._guard:
            if self._listening is None:
                self._listening = threading.Thread(target=self._listen, name="modelmesh-sqlite-news", daemon=True)
                self._listening.start()
        return subscriber.stream()

    def _listen(self) -> None:
        """Hand out new messages as long as somebody listens."""
        database: Connection | None = None
        with suppress(StateStoreError):  # this process cannot use the file: each subscriber is told where it begins
            while True:
                self._news.wait(POLL_SECONDS)
                self._news.clear()
                with at_work(self._path):
                    with self._guard:
                        channels = self.channels.listened()
                        if not channels or self._closing:
                            self._listening = None
                            if database is not None:
                                database.close()
                            return
                    try:
                        if database is None or not database.is_open:
                            database = connect(self._path)
                        # In a method of its own: what it holds must not keep subscribers alive while this one waits.
                        self._hand_out(database, channels)
                    except sqlite3.Error as error:
                        self._trace(f"messages cannot be read, trying again: {failure(self.config, error).message}")

    def _hand_out(self, database: sqlite3.Connection, channels: Sequence[str]) -> None:
        subscribers = [each for channel in channels for each in self.channels.of(channel)]
        known = [each.after for each in subscribers if each.after is not None]
        if not known:
            return  # they have only just come: their places are known in a moment
        found = database.execute(self._sql["messages"], (min(known),)).fetchall()
        for place, channel, body in found:
            for subscriber in self.channels.of(channel):
                if subscriber.after is not None and place > subscriber.after:
                    subscriber.put(body)
        for subscriber in subscribers:
            if found and subscriber.after is not None:
                subscriber.after = max(subscriber.after, found[-1][0])

    async def close(self) -> None:
        """Commit what waits and close the database."""
        await super().close()
        self._closing = True
        listening = self._listening
        if _is_running(listening):
            self._news.set()
        await self._thread.close()
        if listening is not None:
            listening.join(POLL_SECONDS)

    # --- the writer's thread ----------------------------------------------------------------------

    def _commit(self, jobs: Sequence[Job[Page]]) -> None:
        """Carry out a batch in one transaction, as often as it takes to get the lock; else each job in its own."""
        deadline = time.monotonic() + self.config.busy_timeout
        while True:
            try:
                with at_work(self._path):
                    self._attempt(jobs)
                return
            except StateStoreError as error:
                for job in jobs:  # each awaits an exception of its own
                    job.error = StateStoreError(error.message)
            except Exception as error:
                if code_of(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                    if time.monotonic() < deadline:
                        # SQLite's own waiting doubles up to 100 ms: too long for whoever waits behind many others.
                        time.sleep(random.uniform(0.0002, 0.002))  # noqa: S311 (jitter)
                        continue
                elif len(jobs) > 1 and self._database is not None:
                    for job in jobs:  # one that cannot be written shall not fail the others
                        self._commit([job])
                    return
                for job in jobs:
                    job.error = error
                    if isinstance(error, sqlite3.Error):
                        job.error = failure(self.config, error)
                        job.error.__cause__ = error
            return

    def _attempt(self, jobs: Sequence[Job[Page]]) -> None:
        try:
            self._transact(jobs)
        except BaseException:  # also what is no error of SQLite's: an open transaction would lock all others out
            self._roll_back()
            raise

    def _transact(self, jobs: Sequence[Job[Page]]) -> None:
        if self._database is None or not self._database.is_open:  # it was never opened, or this process has forked
            self._database, self._page = open_tables(self.config), None
        writes = any(job.writes for job in jobs)
        self._database.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
        # The time is read under the lock: else a process that waited for it would put the clock back for the next.
        now = self.now()
        page = (self._page if writes else None) or Page(self._database, self._sql)
        if writes:
            self._page = None  # until what it holds is committed
        page.begin(now)
        for job in jobs:
            job.carry_out(page)
        if writes:
            is_due = not now < self._clean_at <= now + HOUSEKEEPING_SECONDS
            if is_due:
                page.balances(now, ())  # ends the leases that have run out
            page.write()
            if is_due:
                self._clean_at = now + HOUSEKEEPING_SECONDS
                page.forget()
        self._database.execute("COMMIT")
        if writes:
            self._page = page

    def _roll_back(self) -> None:
        if self._database is None or not (self._database.is_open and self._database.in_transaction):
            return
        try:
            self._database.execute("ROLLBACK")
        except sqlite3.Error:
            self._close_database()  # the next job opens it anew

    def _finish(self) -> None:
        with suppress(StateStoreError), at_work(self._path):
            self._close_database()

    def _close_database(self) -> None:
        database, self._database = self._database, None
        if database is not None:
            database.close()

    def _trace(self, message: str) -> None:
        if hasattr(self, "context"):
            self.context.trace(Severity.WARNING, message)


def _is_running(thread: threading.Thread | None) -> bool:
    return thread is not None and thread.is_alive()


def _begin(subscriber: Subscription, last: asyncio.Future[int]) -> None:
    """Let a subscriber begin after the last message there was when it came."""
    if last.cancelled():
        subscriber.end()
    elif (error := last.exception()) is not None:
        subscriber.end(error)
    else:
        subscriber.after = last.result()
