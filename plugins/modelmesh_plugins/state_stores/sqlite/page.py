"""The books and the records of one transaction."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping

from modelmesh.interfaces.state_store import StateRecord, StoreLock
from modelmesh_cdk.ledger import MICROSECONDS, Books, Rate, Reservation, Window, read_lines

HOUSEKEEPING_SECONDS = 60.0
"""How often what nobody needs is deleted, and how long messages stay."""


class Page(Books):
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
