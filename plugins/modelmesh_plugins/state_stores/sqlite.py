"""State in a SQLite database: many processes on one host, nothing lost when one of them dies."""

from __future__ import annotations

import asyncio
import json
import os
import random
import sqlite3
import threading
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from modelmesh.config.durations import PositiveDuration
from modelmesh.errors import StateStoreError
from modelmesh.interfaces.ledger import Balance, Claim, Verdict
from modelmesh.interfaces.observability import Severity
from modelmesh.interfaces.state_store import StateRecord, StoreGuarantees, StoreLock
from modelmesh_cdk.channels import Subscription
from modelmesh_cdk.commit_thread import CommitThread, Job
from modelmesh_cdk.ledger import MICROSECONDS, Books, Rate, Reservation, Window, read_lines
from modelmesh_cdk.state_store import BaseStateStore

SCHEMA = 1
"""The version of the tables."""

POLL_SECONDS = 0.1
"""How often messages of other processes are looked for, while somebody listens."""

HOUSEKEEPING_SECONDS = 60.0
"""How often what nobody needs is deleted, and how long messages stay."""

# The tables' name is the only thing put into the text, and the settings allow it nothing but letters, digits and
# underscores: SQL cannot bind an identifier. Everything else is bound.
_TABLES = """
CREATE TABLE IF NOT EXISTS {t} (key TEXT PRIMARY KEY, data BLOB, version INTEGER, modified_at REAL);
CREATE TABLE IF NOT EXISTS {t}_windows (account TEXT PRIMARY KEY, spent INTEGER, reserved INTEGER, keep INTEGER,
    forget_at INTEGER) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS {t}_rates (account TEXT PRIMARY KEY, debt TEXT, at INTEGER, flow INTEGER, period INTEGER,
    rested_at INTEGER) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS {t}_reservations (id TEXT PRIMARY KEY, ends_at INTEGER, dispatched INTEGER, lines TEXT)
    WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS {t}_leases ON {t}_reservations (ends_at);
CREATE TABLE IF NOT EXISTS {t}_locks (name TEXT PRIMARY KEY, fence INTEGER, until REAL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS {t}_messages (id INTEGER PRIMARY KEY AUTOINCREMENT, channel TEXT, body BLOB, at REAL);
INSERT OR IGNORE INTO {t}_meta VALUES ('fence', 0);
"""
_STATEMENTS = {
    "create_meta": "CREATE TABLE IF NOT EXISTS {t}_meta (name TEXT PRIMARY KEY, value INTEGER) WITHOUT ROWID",
    "schema": "SELECT value FROM {t}_meta WHERE name = 'schema'",
    "put_schema": "INSERT INTO {t}_meta VALUES ('schema', ?)",
    "load": "SELECT data, version, modified_at FROM {t} WHERE key = ?",
    "stat": "SELECT x'', version, modified_at FROM {t} WHERE key = ?",
    "save": "INSERT OR REPLACE INTO {t} VALUES (?, ?, ?, ?)",
    "delete": "DELETE FROM {t} WHERE key = ?",
    "list": "SELECT key FROM {t} WHERE substr(key, 1, ?) = ?",
    "window": "SELECT spent, reserved, keep, forget_at FROM {t}_windows WHERE account = ?",
    "put_window": "INSERT OR REPLACE INTO {t}_windows VALUES (?, ?, ?, ?, ?)",
    "rate": "SELECT debt, at, flow, period FROM {t}_rates WHERE account = ?",
    "put_rate": "INSERT OR REPLACE INTO {t}_rates VALUES (?, ?, ?, ?, ?, ?)",
    "reservation": "SELECT ends_at, dispatched, lines FROM {t}_reservations WHERE id = ?",
    "due": "SELECT id, ends_at, dispatched, lines FROM {t}_reservations WHERE ends_at <= ?",
    "put_reservation": "INSERT OR REPLACE INTO {t}_reservations VALUES (?, ?, ?, ?)",
    "drop_reservation": "DELETE FROM {t}_reservations WHERE id = ?",
    "locked": "SELECT 1 FROM {t}_locks WHERE name = ? AND until > ?",
    "next_fence": "UPDATE {t}_meta SET value = value + 1 WHERE name = 'fence'",
    "fence": "SELECT value FROM {t}_meta WHERE name = 'fence'",
    "put_lock": "INSERT OR REPLACE INTO {t}_locks VALUES (?, ?, ?)",
    "held": "SELECT until FROM {t}_locks WHERE name = ? AND fence = ?",
    "drop_lock": "DELETE FROM {t}_locks WHERE name = ?",
    "publish": "INSERT INTO {t}_messages (channel, body, at) VALUES (?, ?, ?)",
    "last_message": "SELECT COALESCE(MAX(id), 0) FROM {t}_messages",
    "messages": "SELECT id, channel, body FROM {t}_messages WHERE id > ? ORDER BY id",
    "forget_windows": "DELETE FROM {t}_windows WHERE forget_at <= ? AND reserved = 0",
    "forget_rates": "DELETE FROM {t}_rates WHERE rested_at <= ?",
    "forget_locks": "DELETE FROM {t}_locks WHERE until <= ?",
    "forget_messages": "DELETE FROM {t}_messages WHERE at <= ? OR at > ?",
}


class SQLiteConfig(BaseModel):
    """Settings of one ``modelmesh.sqlite.v1`` state store."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    path: str = Field(
        default="./mesh-state.sqlite",
        min_length=1,
        description="The database file, on a disk of this host, no network folder; made if missing.",
    )
    table: str = Field(
        default="modelmesh_state",
        pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,40}$",
        description="What the tables' names begin with.",
    )
    synchronous: Literal["normal", "full"] = Field(
        default="normal",
        description="normal: the end of a process loses nothing, a power failure the last moments;"
        " full: neither does, and each commit waits for the disk.",
    )
    busy_timeout: PositiveDuration = Field(
        default=5.0, description="How long to wait while other processes write (duration)."
    )


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
        self._sql = {name: text.replace("{t}", self.config.table) for name, text in _STATEMENTS.items()}
        self._database: sqlite3.Connection | None = None
        self._process = 0
        self._clean_at = 0.0
        self._thread: CommitThread[_Page] = CommitThread("modelmesh-sqlite", self._commit, self._finish)
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
        return await self._thread.run(lambda page: page.settle(page.now, reservation, actual))

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
        self._news.set()

    def _subscribe(self, channel: str) -> AsyncGenerator[bytes, None]:
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
        database: sqlite3.Connection | None = None
        try:
            while True:
                self._news.wait(POLL_SECONDS)
                self._news.clear()
                with self._guard:
                    channels = self.channels.listened()
                    if not channels or self._closing:
                        self._listening = None
                        return
                try:
                    if database is None:
                        database = self._connect()
                    # In a method of its own: what it holds must not keep subscribers alive while this one waits.
                    self._hand_out(database, channels)
                except sqlite3.Error as error:
                    self._trace(f"messages cannot be read, trying again: {self._explain(error).message}")
        finally:
            if database is not None:
                database.close()

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
        self._news.set()
        listening = self._listening
        await self._thread.close()
        if listening is not None:
            listening.join(POLL_SECONDS)

    # --- the writer's thread ----------------------------------------------------------------------

    def _commit(self, jobs: Sequence[Job[_Page]]) -> None:
        """Carry out a batch in one transaction, as often as it takes to get the lock; else each job in its own."""
        deadline = time.monotonic() + self.config.busy_timeout
        while True:
            try:
                self._attempt(jobs)
                return
            except sqlite3.Error as error:
                self._roll_back()
                if _code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                    if time.monotonic() < deadline:
                        # SQLite's own waiting doubles up to 100 ms: too long for whoever waits behind many others.
                        time.sleep(random.uniform(0.0002, 0.002))  # noqa: S311 (jitter)
                        continue
                elif len(jobs) > 1 and self._database is not None:
                    for job in jobs:  # one that cannot be written shall not fail the others
                        self._commit([job])
                    return
                for job in jobs:
                    job.error = self._explain(error)
                    job.error.__cause__ = error
            except StateStoreError as error:
                for job in jobs:  # each awaits an exception of its own
                    job.error = StateStoreError(error.message)
            return

    def _attempt(self, jobs: Sequence[Job[_Page]]) -> None:
        if self._database is None or self._process != os.getpid():  # a connection must not be used across a fork
            self._database = self._open()
            self._process = os.getpid()
        writes = any(job.writes for job in jobs)
        self._database.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
        # The time is read under the lock: else a process that waited for it would put the clock back for the next.
        now = self.now()
        page = _Page(self._database, self._sql, now)
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

    def _roll_back(self) -> None:
        if self._database is None or not self._database.in_transaction:
            return
        try:
            self._database.execute("ROLLBACK")
        except sqlite3.Error:
            self._finish()  # the next job opens it anew

    def _open(self) -> sqlite3.Connection:
        """Open the database and see to its tables.

        Raises:
            StateStoreError: A newer version made them, or the disk cannot be shared.
            sqlite3.Error: It cannot be opened, or is busy.
        """
        database = self._connect()
        try:
            (mode,) = database.execute("PRAGMA journal_mode = WAL").fetchone()
            if mode != "wal":
                raise StateStoreError(
                    f"{self._path}: this disk does not carry a shared SQLite database (journal mode {mode!r});"
                    " put storage.path on a local disk, or use modelmesh.file.v1"
                )
            database.execute(f"PRAGMA synchronous = {self.config.synchronous}")
            # 32 MB. A checkpoint waits for the disk inside a commit; a rarer one writes the same pages, once.
            database.execute("PRAGMA wal_autocheckpoint = 8000")
            database.execute("BEGIN IMMEDIATE")
            database.execute(self._sql["create_meta"])
            row = database.execute(self._sql["schema"]).fetchone()
            if row is not None and row[0] > SCHEMA:
                raise StateStoreError(
                    f"{self._path}: its tables {self.config.table!r} are of version {row[0]}, made by a newer"
                    f" ModelMesh; this one knows up to {SCHEMA}. Upgrade modelmesh-router, or name another path"
                )
            for statement in _TABLES.replace("{t}", self.config.table).split(";"):
                database.execute(statement)
            if row is None:
                database.execute(self._sql["put_schema"], (SCHEMA,))
            database.execute("COMMIT")
        except BaseException:
            database.close()
            raise
        return database

    def _connect(self) -> sqlite3.Connection:
        # isolation_level None: transactions begin and end where this module says so. The thread is one, but close() of
        # an interpreter that ends may come from another.
        return sqlite3.connect(self._path, timeout=0.0, isolation_level=None, check_same_thread=False)

    def _finish(self) -> None:
        database, self._database = self._database, None
        if database is not None and self._process == os.getpid():
            database.close()

    def _trace(self, message: str) -> None:
        if hasattr(self, "context"):
            self.context.trace(Severity.WARNING, message)

    # --- errors ------------------------------------------------------------------------------------

    def _explain(self, error: sqlite3.Error) -> StateStoreError:
        """Say what happened to which file, and what to do."""
        code, path = _code(error), self._path
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            text = (
                f"another process has kept {path} locked for {self.config.busy_timeout:g} s;"
                " end it, or raise storage.busy_timeout"
            )
            return StateStoreError(text, retryable=True)
        if code == sqlite3.SQLITE_FULL:
            return StateStoreError(
                f"no space left for {path}: free some on its disk; nothing was changed", retryable=True
            )
        if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH):
            return StateStoreError(f"{path} is read-only: let this user write the file and its folder")
        if code == sqlite3.SQLITE_CANTOPEN:
            return StateStoreError(f"cannot open {path}: {_obstacle(path)}")
        if code == sqlite3.SQLITE_NOTADB:
            return StateStoreError(f"{path} is no SQLite database; name another file under storage.path")
        if code == sqlite3.SQLITE_CORRUPT:
            return StateStoreError(
                f"{path} is damaged; move it aside to begin anew; what can be read, this shows: sqlite3 {path} .recover"
            )
        return StateStoreError(f"SQLite failed on {path}: {error}", retryable=code == sqlite3.SQLITE_IOERR)


class _Page(Books):
    """The part of the books that one transaction touches: read when it is asked for, written back at the end."""

    def __init__(self, database: sqlite3.Connection, sql: Mapping[str, str], now: float) -> None:
        super().__init__()
        self.now = now
        self._database = database
        self._sql = sql
        self._sweep_at = 1 << 62  # tables are swept by statements of their own
        self._read_windows: dict[str, tuple[int, int, int, int] | None] = {}
        self._read_rates: dict[str, tuple[int, int, int, int] | None] = {}
        self._read_reservations: dict[str, Reservation | None] = {}
        self._is_caught_up = False

    def run(self, statement: str, *values: object) -> sqlite3.Cursor:
        """Execute a statement by its name."""
        return self._database.execute(self._sql[statement], values)

    # --- records and locks ------------------------------------------------------------------

    def record(self, statement: str, key: str) -> StateRecord | None:
        """Return a record as ``load`` or ``stat`` shows it."""
        row = self.run(statement, key).fetchone()
        return StateRecord(key, *row) if row is not None else None

    def save(self, key: str, data: bytes, expected_version: int | None) -> StateRecord | None:
        """Write a record by compare and set."""
        before = self.record("stat", key)
        version = before.version if before is not None else 0
        if expected_version is not None and expected_version != version:
            return None
        record = StateRecord(key, data, version + 1, self.now)
        self.run("save", key, data, record.version, record.modified_at)
        return record

    def lock(self, name: str, expires_in: float) -> StoreLock | None:
        """Take a lock nobody holds."""
        if self.run("locked", name, self.now).fetchone() is not None:
            return None
        self.run("next_fence")
        (fence,) = self.run("fence").fetchone()
        self.run("put_lock", name, fence, self.now + expires_in)
        return StoreLock(name, fence, expires_in)

    def unlock(self, lock: StoreLock) -> bool:
        """Give a lock back, lapsed or not; return whether it was held."""
        row = self.run("held", lock.name, lock.fence).fetchone()
        if row is None:
            return False
        self.run("drop_lock", lock.name)
        return bool(self.now < row[0])

    # --- books ----------------------------------------------------------------------------------

    def write(self) -> None:
        """Write back what differs from what was read."""
        windows = [
            (account, *window.state())
            for account, window in self.windows.items()
            if window.state() != self._read_windows.get(account)
        ]
        rates = [
            (account, str(rate.debt), rate.at, rate.limit, rate.period, rate.at - (-rate.debt // rate.limit))
            for account, rate in self.rates.items()
            if rate.state() != self._read_rates.get(account)
        ]
        opened = [
            (name, each.ends_at, each.dispatched, json.dumps(each.lines))
            for name, each in self.reservations.items()
            if each is not self._read_reservations.get(name)
        ]
        closed = [
            (name,)
            for name, each in self._read_reservations.items()
            if each is not None and name not in self.reservations
        ]
        for statement, rows in (
            ("put_window", windows),
            ("put_rate", rates),
            ("put_reservation", opened),
            ("drop_reservation", closed),
        ):
            if rows:
                self._database.executemany(self._sql[statement], rows)

    def forget(self) -> None:
        """Delete what nobody needs."""
        moment = int(self.now * MICROSECONDS)
        self.run("forget_windows", moment)
        self.run("forget_rates", moment)
        self.run("forget_locks", self.now)
        # A message from the future was written before the clock was put back.
        self.run("forget_messages", self.now - HOUSEKEEPING_SECONDS, self.now + HOUSEKEEPING_SECONDS)

    def _catch_up(self, moment: int) -> None:
        if not self._is_caught_up:
            self._is_caught_up = True
            for name, ends_at, dispatched, lines in self.run("due", moment):
                self.open(name, ends_at, bool(dispatched), read_lines(json.loads(lines)))
                self._read_reservations[name] = self.reservations[name]
        super()._catch_up(moment)

    def _window(self, account: str) -> Window | None:
        if account not in self._read_windows:
            row = self._read_windows[account] = self.run("window", account).fetchone()
            if row is not None:
                self.windows[account] = Window(*row)
        return self.windows.get(account)

    def _rate(self, account: str) -> Rate | None:
        if account not in self._read_rates:
            row = self.run("rate", account).fetchone()
            if row is not None:
                row = (int(row[0]), *row[1:])
                self.rates[account] = Rate(*row)
            self._read_rates[account] = row
        return self.rates.get(account)

    def _reservation(self, reservation: str) -> Reservation | None:
        if reservation not in self._read_reservations and reservation not in self.reservations:
            row = self.run("reservation", reservation).fetchone()
            if row is not None:
                ends_at, dispatched, lines = row
                self.open(reservation, ends_at, bool(dispatched), read_lines(json.loads(lines)))
            self._read_reservations[reservation] = self.reservations.get(reservation)
        return self.reservations.get(reservation)


def _begin(subscriber: Subscription, last: asyncio.Future[int]) -> None:
    """Let a subscriber begin after the last message there was when it came."""
    if last.cancelled():
        subscriber.end()
    elif (error := last.exception()) is not None:
        subscriber.end(error)
    else:
        subscriber.after = last.result()


def _code(error: sqlite3.Error) -> int:
    """Return the primary code; the extended one has more in its upper bytes."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def _obstacle(path: Path) -> str:
    """Say why a file cannot be opened, and what to do."""
    if path.is_dir():
        return "it is a folder; name a file under storage.path"
    if not path.parent.is_dir():
        return f"its folder {path.parent} does not exist; make it, or name another file under storage.path"
    return "this user has no right to; let it read and write the file and its folder"
