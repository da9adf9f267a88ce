"""The books and the records of one transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from typing import TypeAlias

from modelmesh.interfaces.state_store import StateRecord, StoreLock
from modelmesh_cdk.ledger import MICROSECONDS, Books, Rate, Reservation, Window, read_lines

HOUSEKEEPING_SECONDS = 60.0
"""How often what nobody needs is deleted, and how long messages stay."""

KEPT = 10_000
"""Accounts that are kept between transactions at most."""

NEVER = 1 << 62
"""After all times, in microseconds: nothing falls due."""


State: TypeAlias = tuple[int, int, int, int]
"""What makes a `Window` or a `Rate` again."""


class Page(Books):
    """The part of the books that transactions touch: read when it is asked for, written back at each one's end.

    Accounts that were read are kept for the transactions after, until another connection has written. After a
    transaction that was not committed, a page is wrong and has to be dropped.
    """

    def __init__(self, database: sqlite3.Connection, sql: Mapping[str, str]) -> None:
        super().__init__()
        self.now = 0.0
        self._database = database
        self._sql = sql
        self._sweep_at = NEVER  # tables are swept by statements of their own
        self._version = -1
        self._due_from = self._due_from_in_table = NEVER
        self._windows_in_table: dict[str, State | None] = {}
        self._rates_in_table: dict[str, State | None] = {}
        self._reservations_in_table: dict[str, Reservation | None] = {}
        self._touched_windows: set[str] = set()
        self._touched_rates: set[str] = set()

    def begin(self, now: float) -> None:
        """Begin a transaction: the database has just begun its own."""
        self.now = now
        self.reservations.clear()
        self._leases.clear()
        self._reservations_in_table.clear()
        self._touched_windows.clear()
        self._touched_rates.clear()
        (version,) = self.run("data_version").fetchone()
        if version != self._version or len(self._windows_in_table) + len(self._rates_in_table) > KEPT:
            self._version = version
            (self._due_from,) = self.run("due_from").fetchone()
            self._due_from_in_table = self._due_from
            self._drop_accounts()

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
        """Write back what differs from what is in the tables."""
        # What is further away than an integer of SQLite's can tell is never.
        rows: list[tuple[str, str, int, str]] = []
        for account in self._touched_windows:
            window = self.windows.get(account)
            if window is not None and (state := window.state()) != self._windows_in_table.get(account):
                self._windows_in_table[account] = state
                rows.append(
                    ("window", account, NEVER if window.reserved else min(window.forget_at, NEVER), _text_of(state))
                )
        for account in self._touched_rates:
            rate = self.rates.get(account)
            if rate is not None and (state := rate.state()) != self._rates_in_table.get(account):
                self._rates_in_table[account] = state
                drained_at = rate.at - (-rate.debt // rate.limit)
                rows.append(("rate", account, min(drained_at, NEVER), _text_of(state)))
        for name, opened in self.reservations.items():
            if opened is not self._reservations_in_table.get(name):
                # The earliest end of a lease stands in a row of its own, never too late: an index of ends would cost
                # each claim and each settlement a page more. It may be too early, of one settled since; then looking
                # finds the next.
                self._due_from = min(self._due_from, opened.ends_at)
                rows.append(("reservation", name, min(opened.ends_at, NEVER), _text_of_reservation(opened)))
        if rows:
            self._database.executemany(self._sql["put"], rows)
        for name, known in self._reservations_in_table.items():
            if known is not None and name not in self.reservations:
                self.run("drop_reservation", name)
        if self._due_from != self._due_from_in_table:
            self._due_from_in_table = self._due_from
            self.run("put_due", self._due_from)

    def forget(self) -> None:
        """Delete what nobody needs."""
        moment = int(self.now * MICROSECONDS)
        self.run("forget_accounts", moment)
        self.run("forget_locks", self.now)
        # A message from the future was written before the clock was put back.
        self.run("forget_messages", self.now - HOUSEKEEPING_SECONDS, self.now + HOUSEKEEPING_SECONDS)
        self._drop_accounts()

    def _drop_accounts(self) -> None:
        self.windows.clear()
        self.rates.clear()
        self._windows_in_table.clear()
        self._rates_in_table.clear()

    def _catch_up(self, moment: int) -> None:
        if moment >= self._due_from:
            for name, ends_at, state in self.run("due", moment):
                self._open(name, ends_at, state)
            (first_end,) = self.run("first_end", moment).fetchone()
            self._due_from = first_end if first_end is not None else NEVER
        super()._catch_up(moment)

    def _window(self, account: str) -> Window | None:
        self._touched_windows.add(account)
        if account not in self._windows_in_table:
            state = self._windows_in_table[account] = self._account("window", account)
            if state is not None:
                self.windows[account] = Window(*state)
        return self.windows.get(account)

    def _rate(self, account: str) -> Rate | None:
        self._touched_rates.add(account)
        if account not in self._rates_in_table:
            state = self._rates_in_table[account] = self._account("rate", account)
            if state is not None:
                self.rates[account] = Rate(*state)
        return self.rates.get(account)

    def _account(self, kind: str, account: str) -> State | None:
        row = self.run("account", kind, account).fetchone()
        if row is None:
            return None
        first, second, third, fourth = map(int, row[0].split("\t"))
        return first, second, third, fourth

    def _reservation(self, reservation: str) -> Reservation | None:
        if reservation not in self._reservations_in_table and reservation not in self.reservations:
            row = self.run("reservation", reservation).fetchone()
            if row is not None:
                self._open(reservation, *row)
            else:
                self._reservations_in_table[reservation] = None
        return self.reservations.get(reservation)

    def _open(self, name: str, ends_at: int, state: str) -> None:
        dispatched, *lines = state.split("\n")
        self.open(name, ends_at, dispatched == "1", read_lines([line.split("\t") for line in lines]))
        self._reservations_in_table[name] = self.reservations[name]


def _text_of(values: Iterable[str | int]) -> str:
    """Write values beside one another: no account's name has a tab or ends a line."""
    return "\t".join(map(str, values))


def _text_of_reservation(reservation: Reservation) -> str:
    """Write whether it was dispatched and what it holds, a line each."""
    return "\n".join(["1" if reservation.dispatched else "0", *map(_text_of, reservation.lines)])
