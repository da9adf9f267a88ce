"""What is PostgreSQL's own: its schema and rights, ended backends, transactions that meet one another (F30)."""

from __future__ import annotations

import asyncio
import gc
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest

from modelmesh.errors import StateStoreError
from modelmesh.interfaces.ledger import GRANTED, Balance, RateClaim, WindowClaim

CLAIM = WindowClaim("budget", 10, 1_000, 3_600.0)


def test_ended_backends_cost_no_call(postgres: Any) -> None:
    """pg_terminate_backend on all connections, idle or at work: reserving, records and listening go on."""

    async def scenario(store: Any, admin: Any) -> None:
        for number in range(5):
            assert await store.reserve(f"{number}", [CLAIM], lease=60.0) == GRANTED
            await store.save(f"{number}", b"")
            await admin("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'modelmesh'")
        assert await store.settle("0", {}) is True

    _drive(postgres, scenario)


def test_a_backend_ended_at_work_is_tried_again(postgres: Any) -> None:
    """A transaction that was ended before it was done is done over another connection."""

    async def scenario(store: Any, admin: Any) -> None:
        await store.reserve("warm", [CLAIM], lease=60.0)
        async with await admin.hold(f"SELECT FROM {postgres.name}.windows WHERE account = 'budget' FOR UPDATE"):
            waiting = asyncio.ensure_future(store.reserve("one", [CLAIM], lease=60.0))
            while not await admin("SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock'"):
                pass
            await admin("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
        assert await waiting == GRANTED
        assert (await store.balances(["budget"]))["budget"] == Balance(0, 20)

    _drive(postgres, scenario)


def test_what_was_read_only_is_written_to_again_without_a_restart(postgres: Any) -> None:
    """Whether a session may write is settled when it begins: one that may not is left for another."""
    role = postgres.name

    async def scenario(_: Any, admin: Any) -> None:
        await admin(f"CREATE ROLE {role} LOGIN SUPERUSER")
        await admin(f"ALTER ROLE {role} SET default_transaction_read_only = on")
        store = postgres.make(url=postgres.server.url.replace("owner@", f"{role}@"))
        try:
            with pytest.raises(StateStoreError, match="takes no writes"):
                await store.reserve("one", [CLAIM], lease=60.0)
            with pytest.raises(StateStoreError, match="takes no writes"):
                await store.save("key", b"")
            await admin(f"ALTER ROLE {role} RESET default_transaction_read_only")
            assert await store.reserve("one", [CLAIM], lease=60.0) == GRANTED
            assert await store.save("key", b"") is not None
        finally:
            await store.close()
            await admin(f"DROP ROLE {role}")

    _drive(postgres, scenario)


def test_the_server_waits_no_longer_for_rows_than_whoever_asked(postgres: Any) -> None:
    """Held up by a transaction that was left open, calls that nobody waits for any more leave no backend behind."""

    async def scenario(_: Any, admin: Any) -> None:
        waiting = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        store = postgres.make(timeout=0.05)
        try:
            await _granted(store)
            async with await admin.hold(f"SELECT FROM {postgres.name}.windows WHERE account = 'budget' FOR UPDATE"):
                for number in range(3):
                    with pytest.raises(StateStoreError, match=r"in time|took too long"):
                        await store.reserve(f"late-{number}", [CLAIM], lease=60.0)
                async with asyncio.timeout(2.0):
                    while await admin(waiting):
                        pass
        finally:
            await store.close()

    _drive(postgres, scenario)


def test_notifications_of_others_end_no_listening(postgres: Any) -> None:
    """Anybody in the database may notify on the store's channel, of whatever they like."""

    async def scenario(store: Any, admin: Any) -> None:
        heard = store.subscribe("news")
        try:
            await store.publish("news", b"first")
            assert await anext(heard) == b"first"
            for words in ("mA news", "r1st news", "hello", ""):
                await admin(f"SELECT pg_notify('modelmesh_{postgres.name}', '{words}')")
            await store.publish("news", b"second")
            async with asyncio.timeout(2.0):
                assert await anext(heard) == b"second"
        finally:
            await heard.aclose()

    _drive(postgres, scenario)


@pytest.mark.parametrize("code", ["40001", "40P01"], ids=["serialization failure", "deadlock"])
def test_a_transaction_others_undid_is_tried_again(postgres: Any, code: str) -> None:
    """Twice undone, the third is made; undone all the time, it is an error that says so."""

    async def scenario(store: Any, admin: Any) -> None:
        schema = postgres.name
        await store.reserve("warm", [CLAIM], lease=60.0)
        await admin(f"CREATE SEQUENCE {schema}.undone")
        await admin(
            f"CREATE OR REPLACE FUNCTION {schema}.now_us() RETURNS numeric LANGUAGE plpgsql AS $$ BEGIN"
            f" IF nextval('{schema}.undone') < (SELECT version FROM {schema}.version) THEN"
            f" RAISE 'undone' USING ERRCODE = '{code}'; END IF;"
            " RETURN floor(extract(epoch FROM clock_timestamp()) * 1000000); END $$"
        )
        await admin(f"UPDATE {schema}.version SET version = 3")
        assert await store.reserve("one", [CLAIM], lease=60.0) == GRANTED
        await admin(f"UPDATE {schema}.version SET version = 1000")
        with pytest.raises(StateStoreError, match="too busy") as caught:
            await store.reserve("two", [CLAIM], lease=60.0)
        assert caught.value.retryable

    _drive(postgres, scenario)


def test_what_a_socket_cannot_take_at_once_goes_out_whole(postgres: Any) -> None:
    """A question of many megabytes is sent as the server reads it; given up half way, it leaves nothing behind."""

    async def scenario(store: Any, admin: Any) -> None:
        await store.reserve("one", [CLAIM], lease=60.0)
        names = ["budget", *(f"{number}-{'x' * 500}" for number in range(20_000))]
        assert (await store.balances(names))["budget"] == Balance(0, 10)
        given_up = asyncio.ensure_future(store.balances(names))
        await asyncio.sleep(0)
        given_up.cancel()
        assert (await store.balances(["budget"]))["budget"] == Balance(0, 10)

    _drive(postgres, scenario)


def test_claims_in_any_order_do_not_deadlock(postgres: Any) -> None:
    """Processes that claim on the same accounts in different orders all get their answers at once."""

    async def scenario(store: Any, admin: Any) -> None:
        others = [postgres.make() for _ in range(3)]
        claims = [
            *(WindowClaim(f"w{i}", 1, 10**6, 3_600.0) for i in range(4)),
            *(RateClaim(f"r{i}", 1, 10**6, 60.0, 10**6) for i in range(4)),
        ]

        async def work(each: Any, turn: int) -> None:
            for number in range(10):
                order = claims[turn:] + claims[:turn] if number % 2 else list(reversed(claims))
                assert await each.reserve(f"{turn}-{number}", order, lease=60.0) == GRANTED
                assert await each.settle(f"{turn}-{number}", {}) is True

        try:
            async with asyncio.timeout(10.0):
                await asyncio.gather(*(work(each, turn) for turn, each in enumerate([store, *others])))
        finally:
            for each in others:
                await each.close()
        assert (await store.balances(["w0"]))["w0"] == Balance(40, 0)

    _drive(postgres, scenario)


def test_a_schema_is_made_once_by_many(postgres: Any) -> None:
    """Stores that first meet an empty database at once take turns in making its schema."""

    async def scenario() -> None:
        stores = [postgres.make() for _ in range(5)]
        try:
            assert await asyncio.gather(*(each.load("key") for each in stores)) == [None] * 5
        finally:
            for each in stores:
                await each.close()

    asyncio.run(scenario())


def test_a_schema_from_the_future_is_refused(postgres: Any) -> None:
    """What a later version made is left alone, and the message says what to do."""

    async def scenario(store: Any, admin: Any) -> None:
        await store.save("key", b"data")
        await admin(f"UPDATE {postgres.name}.version SET version = 99")
        late = postgres.make()
        try:
            with pytest.raises(StateStoreError, match=r"later version of ModelMesh .*upgrade modelmesh-router"):
                await late.load("key")
        finally:
            await late.close()

    _drive(postgres, scenario)


@pytest.mark.parametrize("rows", ["", "VALUES ('1.2', 'of theirs')"], ids=["without a row", "with a row"])
def test_a_schema_of_somebody_else_is_refused(postgres: Any, rows: str) -> None:
    """A table that happens to be called version is nothing to build on."""

    async def scenario(store: Any, admin: Any) -> None:
        theirs = f"{postgres.name}_theirs"
        await admin(f"CREATE SCHEMA {theirs}")
        await admin(f"CREATE TABLE {theirs}.version (id text, note text)")
        if rows:
            await admin(f"INSERT INTO {theirs}.version {rows}")
        lost = postgres.make(schema=theirs)
        try:
            with pytest.raises(StateStoreError, match=r"name another.* in storage\.schema"):
                await lost.load("key")
        finally:
            await lost.close()

    _drive(postgres, scenario)


def test_a_missing_database_is_told(postgres: Any) -> None:
    """So is a user that does not exist."""

    async def scenario(store: Any, admin: Any) -> None:
        for part, other, remedy in (
            ("/postgres", "/nowhere", "create it, or name another in storage.url"),
            ("owner@", "stranger:hunter22@", "pg_hba.conf"),
        ):
            wrong = postgres.make(url=postgres.server.url.replace(part, other))
            try:
                with pytest.raises(StateStoreError) as caught:
                    await wrong.load("key")
            finally:
                await wrong.close()
            assert remedy in caught.value.message
            assert "hunter22" not in caught.value.message
            assert not caught.value.retryable

    _drive(postgres, scenario)


def test_missing_rights_are_told(postgres: Any) -> None:
    """A user who may not make the schema hears what the owner has to grant; with a schema of its own all works."""

    async def scenario(store: Any, admin: Any) -> None:
        user = f"{postgres.name}_user"
        await admin(f"CREATE ROLE {user} LOGIN")
        limited = postgres.make(url=postgres.server.url.replace("owner@", f"{user}@"))
        try:
            with pytest.raises(StateStoreError, match=r"CREATE SCHEMA ... AUTHORIZATION") as caught:
                await limited.load("key")
            assert not caught.value.retryable
            await admin(f"CREATE SCHEMA {postgres.name} AUTHORIZATION {user}")
            assert await limited.reserve("one", [CLAIM], lease=60.0) == GRANTED
        finally:
            await limited.close()

    _drive(postgres, scenario, warm=False)


def test_words_of_hostile_users_are_only_values(postgres: Any) -> None:
    """Keys, accounts, IDs and channels that look like SQL are kept as they are."""
    hostile = "x'); DROP SCHEMA public CASCADE; --%s {s} $$"

    async def scenario(store: Any, admin: Any) -> None:
        await store.save(hostile, b"data")
        assert await store.list(hostile[:4]) == [hostile]
        assert await store.reserve(hostile, [WindowClaim(hostile, 1, 10, 60.0)], lease=60.0) == GRANTED
        assert (await store.balances([hostile]))[hostile] == Balance(0, 1)
        assert await store.settle(hostile, {hostile: 2}) is True
        await store.publish(hostile, hostile.encode())
        assert (await store.lock(hostile, expires_in=5.0)).name == hostile

    _drive(postgres, scenario)


def test_what_nobody_needs_is_swept(postgres: Any) -> None:
    """Accounts whose time is over, rested rates, lapsed locks and old messages are removed; what counts stays."""

    async def scenario(store: Any, admin: Any) -> None:
        schema = postgres.name
        await store.reserve("one", [WindowClaim("old", 1, 10, 0.0), CLAIM], lease=60.0)
        await store.settle("one", {})
        await store.reserve("two", [RateClaim("rested", 1, 1_000, 0.001, 1_000)], lease=60.0)
        await store.lock("lapsed", expires_in=0.001)
        await store.publish("news", b"x" * 10_000)
        await admin(f"UPDATE {schema}.messages SET at = at - 120000000")
        await asyncio.sleep(0.02)
        await admin(f"SELECT {schema}.sweep()")
        left = [
            len(await admin(f"SELECT FROM {schema}.{table}")) for table in ("windows", "rates", "locks", "messages")
        ]
        assert left == [1, 0, 0, 0]
        assert (await store.balances(["budget"]))["budget"] == Balance(10, 0)

    _drive(postgres, scenario)


def test_loops_that_ended_keep_no_connection(postgres: Any) -> None:
    """One asyncio.run() after the other, the server's backends stay as many; else it would refuse the thirtieth."""
    store = _named(postgres)

    async def work(number: int) -> None:
        assert await store.save(f"{number}", b"") is not None
        assert await store.reserve(f"{number}", [CLAIM], lease=60.0) == GRANTED

    for number in range(30):
        asyncio.run(work(number))

    assert _backends(postgres) <= 6
    asyncio.run(store.close())
    gc.collect()  # a connection that nobody closed would warn


def test_loops_of_many_threads_leave_one_another_alone(postgres: Any) -> None:
    """Threads that each begin loop after loop all get their answers, and close only what ended."""
    store = _named(postgres)

    async def work(name: str) -> None:
        for number in range(5):
            assert await store.reserve(f"{name}-{number}", [CLAIM], lease=60.0) == GRANTED

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda number: asyncio.run(work(f"{number}")), range(20)))
    assert _backends(postgres) <= 12
    asyncio.run(store.close())
    gc.collect()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # asyncio's, of the tasks left behind
def test_a_loop_closed_at_work_keeps_no_connection(postgres: Any) -> None:
    """Nor does its listener, whom nobody ended, when the next loop comes."""
    store = _named(postgres)
    loop = asyncio.new_event_loop()
    kept: list[Any] = []

    async def listen() -> None:
        kept.append(store.subscribe("news"))
        await store.publish("news", b"heard")
        assert await anext(kept[0]) == b"heard"

    loop.run_until_complete(listen())
    during = _backends(postgres)
    loop.close()
    asyncio.run(store.save("key", b""))
    after = min(_backends(postgres) for _ in range(20))  # a backend takes a moment to end

    asyncio.run(store.close())
    del loop, kept[:]
    gc.collect()
    assert during == 2
    assert after <= 1


def _named(postgres: Any) -> Any:
    """A store whose connections `_backends` knows."""
    return postgres.make(url=f"{postgres.server.url}?application_name={postgres.name}")


def _backends(postgres: Any) -> int:
    """Connections of that store that the server has."""
    query = f"SELECT FROM pg_stat_activity WHERE application_name = '{postgres.name}'"
    return len(asyncio.run(Admin(postgres.server.url)(query)))


class Admin:
    """Statements of the server's owner, over a connection of their own."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def __call__(self, statement: str) -> list[Any]:
        """Run a statement; return its rows."""
        import psycopg

        async with await psycopg.AsyncConnection.connect(
            self._url, autocommit=True, application_name="admin"
        ) as connection:
            result = await connection.execute(statement)
            return await result.fetchall() if result.description is not None else []

    async def hold(self, statement: str) -> Any:
        """Run a statement in a transaction that is open as long as what is returned."""
        import psycopg

        connection = await psycopg.AsyncConnection.connect(self._url, application_name="admin")
        await connection.execute(statement)
        return connection


async def _granted(store: Any) -> None:
    """Reserve, until a first connection was opened in time."""
    while True:
        with suppress(StateStoreError):
            assert await store.reserve("warm", [CLAIM], lease=60.0) == GRANTED
            return


def _drive(postgres: Any, scenario: Any, *, warm: bool = True) -> None:
    async def run() -> None:
        store = postgres.make()
        try:
            if warm:
                await store.load("warm")
            await scenario(store, Admin(postgres.server.url))
        finally:
            await store.close()

    asyncio.run(run())


def test_schemas_with_long_names_that_begin_alike_hear_nothing_of_one_another(postgres: Any) -> None:
    """A name as long as PostgreSQL takes it: what is told in one is no news in the other."""
    name = f"{postgres.name}_{'x' * 70}"[:62]

    async def scenario() -> list[bytes]:
        one, other = postgres.make(schema=f"{name}1"), postgres.make(schema=f"{name}2")
        heard = other.subscribe("news")
        try:
            first = asyncio.ensure_future(anext(heard))
            while not first.done():  # until it listens
                await one.publish("news", b"of one")
                await other.publish("news", b"of the other")
                await asyncio.sleep(0.01)
            return [await first]
        finally:
            await heard.aclose()
            await one.close()
            await other.close()

    assert asyncio.run(scenario()) == [b"of the other"]
