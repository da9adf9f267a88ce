"""The SQLite store when things go wrong: other programs, other versions, full and missing disks."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import sqlite3
import threading
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import pytest
from pydantic import ValidationError

from modelmesh.errors import StateStoreError
from modelmesh.interfaces.ledger import Balance, Claim, RateClaim, WindowClaim
from modelmesh_cdk.testing import FakeClock, context
from modelmesh_plugins.state_stores.sqlite import SQLiteConfig, SQLiteStateStore, forks
from modelmesh_plugins.state_stores.sqlite.failures import failure
from modelmesh_plugins.state_stores.sqlite.page import Page

Result = TypeVar("Result")
MONEY = [WindowClaim("money", 6, 10, 3_600.0)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the database is."""
    return tmp_path / "state.sqlite"


FIRST_VERSION = """
CREATE TABLE modelmesh_state (key TEXT PRIMARY KEY, data BLOB, version INTEGER, modified_at REAL);
INSERT INTO modelmesh_state VALUES ('record', X'7361766564', 3, 1767225600.0);
CREATE TABLE modelmesh_state_books (kind TEXT, name TEXT, until INTEGER, state TEXT, PRIMARY KEY (kind, name))
    WITHOUT ROWID;
INSERT INTO modelmesh_state_books VALUES
    ('rate', 'calls', 1767225602000000, '120000000	1767225600000000	60	60000000'),
    ('reservation', 'open', 1767225660000000, '1
money	10	0	0	0
calls	2	60	60000000	1767225602000000'),
    ('window', 'money', 4611686018427387904, '7	10	86400000000	1767312000000000');
CREATE TABLE modelmesh_state_locks (name TEXT PRIMARY KEY, fence INTEGER, until REAL) WITHOUT ROWID;
INSERT INTO modelmesh_state_locks VALUES ('job', 41, 1767225630.0);
CREATE TABLE modelmesh_state_messages (id INTEGER PRIMARY KEY AUTOINCREMENT, channel TEXT, body BLOB, at REAL);
CREATE TABLE modelmesh_state_meta (name TEXT PRIMARY KEY, value INTEGER) WITHOUT ROWID;
INSERT INTO modelmesh_state_meta VALUES ('due', 1767225660000000), ('fence', 41), ('schema', 1);
"""
"""A database as the first version wrote it. Never change it: other tables are another ``SCHEMA``."""


def use(
    path: Path,
    scenario: Callable[[SQLiteStateStore], Awaitable[Result]],
    *,
    clock: FakeClock | None = None,
    table: str = "modelmesh_state",
    busy_timeout: float = 5.0,
) -> Result:
    """Open a store, use it, and close it."""

    async def run() -> Result:
        store = SQLiteStateStore(SQLiteConfig(path=str(path), table=table, busy_timeout=busy_timeout))
        store.bind(context("storage", clock=clock or FakeClock()))
        try:
            return await scenario(store)
        finally:
            await store.close()

    return asyncio.run(run())


async def spend(store: SQLiteStateStore) -> None:
    """Have six of ten reserved and one record saved."""
    await store.reserve("a", MONEY, lease=60.0)
    await store.save("key", b"data")


async def money(store: SQLiteStateStore) -> Balance:
    """Return what the account holds."""
    return (await store.balances(["money"]))["money"]


def test_what_the_first_version_wrote_is_read(path: Path) -> None:
    """Books, reservations, records and locks mean today what they meant then."""
    with closing(sqlite3.connect(path)) as database:
        database.executescript(FIRST_VERSION)

    async def scenario(store: SQLiteStateStore) -> None:
        record = await store.load("record")
        assert (record and record.data, record and record.version) == (b"saved", 3)
        assert await money(store) == Balance(7, 10)
        calls = await store.reserve("more", [RateClaim("calls", 4, 60, 60.0, 5)], lease=60.0)
        assert (calls.granted, calls.available) == (False, 3)
        assert await store.settle("open", {"money": 4}) is True
        assert await money(store) == Balance(11, 0)
        assert await store.lock("job", expires_in=60.0) is None
        other = await store.lock("other", expires_in=60.0)
        assert other is not None
        assert other.fence == 42

    use(path, scenario)


def test_leases_outlive_the_process(path: Path) -> None:
    """What a process reserved before it ended is spent when its lease ends, whoever looks."""
    clock = FakeClock()
    use(path, spend, clock=clock)

    held = use(path, money, clock=clock)
    clock.advance(60.0)

    assert (held, use(path, money, clock=clock)) == (Balance(0, 6), Balance(6, 0))


def test_tables_of_two_names_are_apart(path: Path) -> None:
    """Two applications may share a database."""
    use(path, spend, table="one")

    assert use(path, money, table="two") == Balance()


@pytest.mark.parametrize("table", ["", "1st", "a b", "x; DROP TABLE y", 'a"', "x" * 42], ids=repr)
def test_a_tables_name_is_a_name(table: str) -> None:
    """It is the one thing that goes into the text of statements, so it is letters, digits and underscores."""
    with pytest.raises(ValidationError, match="table"):
        SQLiteConfig(table=table)


def test_nothing_given_becomes_sql(path: Path) -> None:
    """Quotes and statements in keys, accounts, IDs, locks and channels are text."""
    text = "'; DROP TABLE modelmesh_state; --\""

    async def scenario(store: SQLiteStateStore) -> None:
        await store.save(text, text.encode())
        await store.reserve(text, [WindowClaim(text, 1, 10, 60.0)], lease=60.0)
        assert await store.lock(text, expires_in=60.0) is not None
        await store.publish(text, b"message")
        record = await store.load(text)
        assert record is not None
        assert list(await store.list("'")) == [text]
        assert await store.balances([text]) == {text: Balance(0, 1)}

    use(path, scenario)


def test_tables_from_the_future_are_refused_and_untouched(path: Path) -> None:
    """The message says which version they have and which is known."""
    use(path, spend)
    with sqlite3.connect(path) as database:
        database.execute("UPDATE modelmesh_state_meta SET value = 2 WHERE name = 'schema'")
    database.close()

    with pytest.raises(StateStoreError, match="of version 2, made by a newer ModelMesh; this one knows up to 1"):
        use(path, spend)


def test_another_programs_file_is_refused_and_untouched(path: Path) -> None:
    """It is no database, and stays what it is."""
    path.write_bytes(b"no database" * 1_000)

    with pytest.raises(StateStoreError, match=r"is no SQLite database; name another file under storage\.path"):
        use(path, spend)

    assert path.read_bytes() == b"no database" * 1_000


def test_a_damaged_page_is_told(path: Path) -> None:
    """With what to do about it."""

    async def fill(store: SQLiteStateStore) -> None:
        for number in range(50):
            await store.save(f"key-{number}", b"x" * 1_000)

    use(path, fill)
    body = bytearray(path.read_bytes())
    body[4_096:] = b"\xff" * (len(body) - 4_096)
    path.write_bytes(body)

    with pytest.raises(StateStoreError, match="is damaged; move it aside to begin anew"):
        use(path, spend)


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.6, 0.99], ids=lambda share: f"{share:.0%} kept")
def test_a_log_that_was_cut_leaves_books_of_an_earlier_moment(path: Path, tmp_path: Path, kept: float) -> None:
    """F31: what a machine without power did not write is missing from the end; what is there adds up and goes on."""
    cut = tmp_path / "after" / path.name
    cut.parent.mkdir()

    async def fill(store: SQLiteStateStore) -> None:
        await store.save("key", b"data")
        for number in range(20):
            await store.reserve(f"{number}", [WindowClaim("money", 1, 100, 3_600.0)], lease=60.0)
        lose_power()

    def lose_power() -> None:
        log = Path(f"{path}-wal").read_bytes()
        shutil.copy(path, cut)
        Path(f"{cut}-wal").write_bytes(log[: int(len(log) * kept)])

    async def go_on(store: SQLiteStateStore) -> tuple[int, int]:
        before = (await money(store)).reserved
        await store.reserve("next", [WindowClaim("money", 1, 100, 3_600.0)], lease=60.0)
        return before, (await money(store)).reserved

    use(path, fill)
    before, after = use(cut, go_on)

    assert 0 <= before < 20
    assert after == before + 1


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    """With what to do about it."""
    with pytest.raises(StateStoreError, match=r"its folder .*no does not exist; make it, or name another file"):
        use(tmp_path / "no" / "state.sqlite", spend)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    """A path that names one is told so."""
    with pytest.raises(StateStoreError, match=r"it is a folder; name a file under storage\.path"):
        use(tmp_path, spend)


def test_a_link_is_told_by_what_it_points_to(path: Path, tmp_path: Path) -> None:
    """The right to the folder of the link itself is not what is missing."""
    path.symlink_to(tmp_path / "no" / "state.sqlite")

    with pytest.raises(StateStoreError, match=r"its folder .*/no does not exist; make it"):
        use(path, spend)


def test_a_folder_that_may_not_be_looked_into_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an error of the store's, with what to do about it."""
    error = sqlite3.OperationalError("unable to open database file")
    error.sqlite_errorcode = sqlite3.SQLITE_CANTOPEN
    look = os.stat

    def stat(file: Any, **options: Any) -> os.stat_result:
        if str(file) == str(path):
            raise PermissionError(errno.EACCES, "Permission denied")
        return look(file, **options)

    monkeypatch.setattr(os, "stat", stat)

    assert "let it read and write the file and its folder" in failure(SQLiteConfig(path=str(path)), error).message


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_a_pipe_is_no_file(path: Path) -> None:
    """Nor is a device; SQLite alone says that the disk fails."""
    os.mkfifo(path)

    with pytest.raises(StateStoreError, match=r"is a device or a pipe; name a file under storage\.path"):
        use(path, spend)


def test_a_path_with_a_nul_is_refused() -> None:
    """No system has such a file."""
    with pytest.raises(ValidationError, match="pattern"):
        SQLiteConfig(path="a\0b")


@pytest.mark.parametrize("table", ["select", "sqlite_state"])
def test_a_table_that_sqlite_keeps_for_itself_is_refused(table: str) -> None:
    """By the setting, not by a statement that fails."""
    with pytest.raises(ValidationError, match="SQLite keeps this name for itself; choose another"):
        SQLiteConfig(table=table)


def test_a_full_disk_loses_nothing_and_heals(path: Path) -> None:
    """What does not fit is refused by name of the file; what fits goes on, also in the same batch."""

    async def scenario(store: SQLiteStateStore) -> None:
        await spend(store)
        await _pragma(store, "max_page_count = 40")
        small, large = await asyncio.gather(
            store.save("small", b"fits"), store.save("large", b"x" * 1_000_000), return_exceptions=True
        )
        assert isinstance(large, StateStoreError)
        assert "no space left for" in large.message
        assert large.retryable
        assert not isinstance(small, BaseException)
        assert await money(store) == Balance(0, 6)
        await _pragma(store, "max_page_count = 100000")
        assert await store.save("large", b"x" * 1_000_000) is not None

    use(path, scenario)


def test_a_read_only_database_is_told(path: Path) -> None:
    """With what to do about it; what was there can still be read."""

    async def scenario(store: SQLiteStateStore) -> None:
        await spend(store)
        await _pragma(store, "query_only = 1")
        with pytest.raises(StateStoreError, match="is read-only: let this user write the file and its folder"):
            await store.save("key", b"other")
        assert await store.load("key") is not None

    use(path, scenario)


def test_another_programs_lock_is_waited_for(path: Path) -> None:
    """A writer that takes its time delays; nobody is turned away, and the event loop goes on meanwhile."""
    use(path, spend)
    turns = 0

    async def scenario(store: SQLiteStateStore) -> None:
        nonlocal turns
        saving = asyncio.ensure_future(store.save("key", b"later"))
        while not saving.done():
            turns += 1
            await asyncio.sleep(0.001)
        assert saving.result() is not None

    with _locked(path, 0.1):
        use(path, scenario)

    assert turns > 10


def test_a_lock_that_is_never_given_back_is_told(path: Path) -> None:
    """After busy_timeout, as something that may pass."""
    use(path, spend)

    with (
        _locked(path, 0.5),
        pytest.raises(StateStoreError, match=r"another process has kept .* locked for 0\.05 s") as caught,
    ):
        use(path, spend, busy_timeout=0.05)

    assert caught.value.retryable


def test_another_programs_lock_is_waited_for_after_a_fork(path: Path) -> None:
    """The store opens the file anew then, and finds it locked by others who do the same."""

    async def scenario(store: SQLiteStateStore) -> None:
        await spend(store)
        forks._GATE.before_fork()
        forks._GATE.after_fork()
        with _locked(path, 0.05):
            assert await store.save("key", b"later") is not None

    use(path, scenario)


FAR = 10.0**13
"""Seconds, of which microseconds do not fit into 64 bits: three hundred thousand years."""


@pytest.mark.parametrize(
    ("claim", "lease"),
    [
        (WindowClaim("far", 1, 1, 60.0), FAR),
        (WindowClaim("far", 1, 1, FAR), 60.0),
        (RateClaim("far", 1, 1, FAR, 1), 60.0),
    ],
    ids=["lease", "keep", "period"],
)
def test_what_ends_too_far_away_to_be_counted_never_ends(path: Path, claim: Claim, lease: float) -> None:
    """It is kept as anything else: a lease, a window's account or a rate's debt that long still stands later."""
    clock = FakeClock()

    async def reserve(store: SQLiteStateStore) -> bool:
        return (await store._reserve("a", [claim], lease, True)).granted

    async def reserve_more(store: SQLiteStateStore) -> bool:
        return (await store._reserve("b", [claim], lease, True)).granted

    assert use(path, reserve, clock=clock)
    clock.advance(1_000.0)

    assert not use(path, reserve_more, clock=clock)


def test_a_debt_that_is_never_drained_is_kept(path: Path) -> None:
    """Whatever a request turned out to have cost can be settled."""
    claim = RateClaim("tokens", 1, 1, 60.0, 1)

    async def scenario(store: SQLiteStateStore) -> None:
        assert (await store.reserve("a", [claim], lease=60.0)).granted
        assert await store.settle("a", {"tokens": 2**60})
        assert not (await store.reserve("b", [claim], lease=60.0)).granted

    use(path, scenario)


def test_what_no_store_expects_leaves_no_lock_behind(path: Path) -> None:
    """An error that is not SQLite's is the caller's alone: nothing is written, and all others go on."""

    def odd(page: Page) -> None:
        page.save("key", b"lost", None)
        raise OverflowError("odd")

    async def scenario(store: SQLiteStateStore) -> None:
        await spend(store)
        other = SQLiteStateStore(SQLiteConfig(path=str(path), busy_timeout=0.05))
        with pytest.raises(OverflowError):
            await store._thread.run(odd)
        assert await other.save("theirs", b"") is not None
        assert await store.save("ours", b"") is not None
        found = await store.load("key")
        await other.close()
        assert found is not None
        assert found.data == b"data"

    use(path, scenario)


def test_what_no_store_expects_fails_nobody_in_the_same_batch(path: Path) -> None:
    """Those who share a transaction with it are carried out without it."""

    def odd(page: Page) -> None:
        raise OverflowError("odd")

    async def scenario(store: SQLiteStateStore) -> None:
        await spend(store)
        saving = [asyncio.ensure_future(store.save("one", b"")), store._thread.submit(odd)]
        saving.append(asyncio.ensure_future(store.save("two", b"")))
        one, error, two = await asyncio.gather(*saving, return_exceptions=True)
        assert isinstance(error, OverflowError)
        assert [getattr(each, "version", each) for each in (one, two)] == [1, 1]

    use(path, scenario)


def test_huge_debts_of_rates_are_kept(path: Path) -> None:
    """A month's tokens counted in microseconds are more than 64 bits hold."""
    claim = RateClaim("tokens", 10**12, 10**12, 2_592_000.0, 10**12)

    async def scenario(store: SQLiteStateStore) -> None:
        assert (await store.reserve("a", [claim], lease=60.0)).granted
        assert (await store.reserve("b", [claim], lease=60.0)).granted is False

    use(path, scenario)


def test_what_nobody_needs_is_deleted(path: Path) -> None:
    """Windows whose time is over, rates that rest, locks that lapsed and old messages leave the tables."""
    clock = FakeClock()

    async def scenario(store: SQLiteStateStore) -> None:
        claims: list[Claim] = [WindowClaim("old", 1, 10, 5.0), RateClaim("flow", 1, 10, 1.0, 10)]
        await store.reserve("a", claims, lease=1.0)
        await store.lock("probe", expires_in=1.0)
        await store.publish("news", b"old")
        clock.advance(120.0)
        await store.save("key", b"data")
        clock.advance(120.0)
        await store.save("key", b"data")

    use(path, scenario, clock=clock)
    database = sqlite3.connect(path)
    tables = ("books", "locks", "messages")
    counts = [database.execute(f"SELECT COUNT(*) FROM modelmesh_state_{table}").fetchone()[0] for table in tables]
    database.close()

    assert counts == [0] * len(tables)


def test_what_another_connection_spent_is_seen_at_once(path: Path) -> None:
    """Accounts that a store keeps from its last transaction are read again when somebody else has written."""

    async def scenario(store: SQLiteStateStore) -> None:
        other = SQLiteStateStore(SQLiteConfig(path=str(path)))
        other.bind(context("storage", clock=FakeClock()))
        one: list[Claim] = [WindowClaim("money", 1, 10, 3_600.0), RateClaim("calls", 1, 10, 3_600.0, 10)]
        turns = [store, other] * 5
        granted = [(await each.reserve(f"{number}", one, lease=60.0)).granted for number, each in enumerate(turns)]
        refused = [(await each.reserve("more", one, lease=60.0)).granted for each in (store, other)]
        await other.close()
        assert (granted, refused) == ([True] * 10, [False, False])

    use(path, scenario)


def test_looking_at_ended_leases_keeps_the_books(path: Path) -> None:
    """Who only looks writes nothing; the leases that it found ended are ended by the next who writes, once."""
    clock = FakeClock()

    async def scenario(store: SQLiteStateStore) -> None:
        await spend(store)
        clock.advance(60.0)
        assert await money(store) == Balance(6, 0)
        assert (await store.reserve("b", [WindowClaim("money", 4, 10, 3_600.0)], lease=60.0)).granted

    use(path, scenario, clock=clock)
    clock.advance(60.0)

    assert use(path, money, clock=clock) == Balance(10, 0)


def test_a_lease_that_ends_first_is_ended_first_whoever_made_it(path: Path) -> None:
    """The moment of the next lease's end is in the tables, and moves up when a shorter lease comes."""
    clock = FakeClock()

    async def scenario(store: SQLiteStateStore) -> list[Balance]:
        other = SQLiteStateStore(SQLiteConfig(path=str(path)))
        other.bind(context("storage", clock=clock))
        await store.reserve("long", [WindowClaim("money", 1, 10, 3_600.0)], lease=100.0)
        await other.reserve("short", [WindowClaim("money", 2, 10, 3_600.0)], lease=10.0)
        await store.reserve("middle", [WindowClaim("money", 4, 10, 3_600.0)], lease=50.0)
        seen = []
        for seconds in (10.0, 40.0, 50.0):
            clock.advance(seconds)
            await store.save("key", b"data")
            seen.append(await money(other))
        await other.close()
        return seen

    assert use(path, scenario, clock=clock) == [Balance(2, 5), Balance(6, 1), Balance(7, 0)]


def test_a_claim_that_was_not_committed_is_forgotten(path: Path) -> None:
    """What a store keeps between transactions is only what the disk has."""

    async def scenario(store: SQLiteStateStore) -> Balance:
        await spend(store)
        await _pragma(store, "max_page_count = 1")
        with pytest.raises(StateStoreError, match="no space left"):
            await store.save("large", bytes(100_000))
        claims = [WindowClaim("money", 1, 10, 3_600.0), *(WindowClaim(f"new {n}", 1, 10, 3_600.0) for n in range(200))]
        with pytest.raises(StateStoreError, match="no space left"):
            await store.reserve("b", claims, lease=60.0)
        await _pragma(store, "max_page_count = 100000")
        assert (await store.reserve("c", [WindowClaim("money", 4, 10, 3_600.0)], lease=60.0)).granted
        return await money(store)

    assert use(path, scenario) == Balance(0, 10)


def test_the_listening_thread_ends_with_its_last_subscriber(path: Path) -> None:
    """Nobody polls while nobody listens."""

    async def scenario(store: SQLiteStateStore) -> None:
        others = _listening()  # of stores that other tests left to the garbage collector
        listener = store.subscribe("news")
        waiting = asyncio.ensure_future(anext(listener))
        while not waiting.done():
            await store.publish("news", b"one")
            await asyncio.wait([waiting], timeout=0.02)
        (thread,) = _listening() - others
        await listener.aclose()
        del listener, waiting
        await asyncio.to_thread(thread.join, 5.0)
        assert not thread.is_alive()

    use(path, scenario)


def _listening() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "modelmesh-sqlite-news"}


async def _pragma(store: SQLiteStateStore, text: str) -> None:
    """Change the store's own connection: a full or read-only disk cannot be had without mounting one."""
    await store._thread.run(lambda page: page._database.execute(f"PRAGMA {text}").fetchall(), writes=False)


class _locked:  # noqa: N801 (used like a function)
    """Hold the database's write lock from another connection for so long."""

    def __init__(self, path: Path, seconds: float) -> None:
        self._path, self._seconds = path, seconds
        self._held, self._done = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._hold)

    def __enter__(self) -> None:
        self._thread.start()
        assert self._held.wait(5.0)

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join(5.0)

    def _hold(self) -> None:
        database = sqlite3.connect(self._path, isolation_level=None)
        database.execute("BEGIN IMMEDIATE")
        self._held.set()
        self._done.wait(self._seconds)
        database.execute("ROLLBACK")
        database.close()
