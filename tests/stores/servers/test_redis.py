"""What is Redis's own: forgotten scripts, refusals with their remedies, keys that expire and lie in one slot."""

from __future__ import annotations

import asyncio
import gc
import socket
import traceback
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import pytest

from modelmesh.errors import StateStoreError
from modelmesh.interfaces.ledger import GRANTED, Balance, RateClaim, WindowClaim

CLAIM = WindowClaim("budget", 10, 1_000, 3_600.0)


def test_forgotten_scripts_are_sent_again(redis: Any) -> None:
    """SCRIPT FLUSH between calls, and while many are asked, costs none of them."""

    async def scenario(store: Any, admin: Any) -> None:
        for number in range(5):
            assert await store.reserve(f"{number}", [CLAIM], lease=60.0) == GRANTED
            await admin("SCRIPT", "FLUSH")
        many = [store.reserve(f"many-{number}", [CLAIM], lease=60.0) for number in range(20)]
        flush = [admin("SCRIPT", "FLUSH") for _ in range(5)]
        assert (await asyncio.gather(*many, *flush))[:20] == [GRANTED] * 20
        assert await store.settle("0", {"budget": 3}) is True

    _drive(redis, scenario)


def test_scripts_that_are_flushed_all_the_time_cost_no_call(redis: Any) -> None:
    """Nobody comes between sending a script again and calling it."""

    async def scenario(store: Any, admin: Any) -> None:
        async def flush() -> None:
            while not claiming.done():
                await admin("SCRIPT", "FLUSH")

        async def claim() -> list[Any]:
            return [await store.reserve(f"{number}", [CLAIM], lease=60.0) for number in range(50)]

        claiming = asyncio.ensure_future(claim())
        await flush()
        assert await claiming == [GRANTED] * 50

    _drive(redis, scenario)


def test_a_lock_from_before_the_server_lost_all_ends_nobodys_of_now(redis: Any) -> None:
    """Its fence is smaller than all that are given later, as if nothing had been lost."""

    async def scenario(store: Any, admin: Any) -> None:
        before = await store.lock("trial", expires_in=60.0)
        await admin("FLUSHALL")
        now = await store.lock("trial", expires_in=60.0)
        assert now.fence > before.fence
        assert await store.unlock(before) is False
        assert await store.unlock(now) is True

    _drive(redis, scenario)


def test_what_the_first_version_wrote_is_read(redis: Any) -> None:
    """Keys mean today what they meant then: processes of two versions share them while they are upgraded."""
    key, later = f"{{{redis.name}}}:".__add__, 4_000_000_000_000_000

    async def scenario(store: Any, admin: Any) -> None:
        await admin("SET", key("w:money"), f"7 10 86400000000 {later} {later}")
        await admin("SET", key("q:calls"), f"120000000 {later} 60 60000000")
        held = _packed(str(later), "1", ["money", "10", "0", "0", "0"])
        await admin("SET", key("r:open"), held)
        await admin("ZADD", key("leases"), str(later), "open")
        await admin("HSET", key("d:record"), "data", "saved", "version", "3", "at", str(later))
        await admin("ZADD", key("keys"), "0", "record")
        record = await store.load("record")
        assert (record.data, record.version, await store.list("")) == (b"saved", 3, ["record"])
        assert await store.balances(["money"]) == {"money": Balance(7, 10)}
        calls = await store.reserve("more", [RateClaim("calls", 4, 60, 60.0, 5)], lease=60.0)
        assert (calls.granted, calls.available) == (False, 3)
        assert await store.settle("open", {"money": 4}) is True
        assert await store.balances(["money"]) == {"money": Balance(11, 0)}

    _drive(redis, scenario)


def test_a_replica_is_told_and_left(redis: Any) -> None:
    """READONLY names the remedy; when the server is primary again, the store works."""

    async def scenario(store: Any, admin: Any) -> None:
        await admin("REPLICAOF", "127.0.0.1", "1")
        try:
            await _refused(store.reserve("one", [CLAIM], lease=60.0), "READONLY", "name the primary in storage.url")
            await _refused(store.save("key", b""), "READONLY", "name the primary")
        finally:
            await admin("REPLICAOF", "NO", "ONE")
        assert await store.reserve("one", [CLAIM], lease=60.0) == GRANTED

    _drive(redis, scenario)


def test_a_full_memory_is_told(redis: Any) -> None:
    """OOM names the remedy, and giving back still works."""

    async def scenario(store: Any, admin: Any) -> None:
        await store.reserve("one", [CLAIM], lease=60.0)
        await admin("CONFIG", "SET", "maxmemory", "1")
        try:
            await _refused(store.reserve("two", [CLAIM], lease=60.0), "OOM", "raise its maxmemory")
        finally:
            await admin("CONFIG", "SET", "maxmemory", "0")
        assert await store.reserve("two", [CLAIM], lease=60.0) == GRANTED

    _drive(redis, scenario)


def test_missing_rights_are_told(redis: Any) -> None:
    """A user who may not run scripts hears which commands are needed."""

    async def scenario(store: Any, admin: Any) -> None:
        await admin("ACL", "SETUSER", "limited", "on", ">hunter22", "~*", "+hmget", "+client", "+select")
        limited = redis.make(username="limited", password="hunter22")
        wrong = redis.make(username="limited", password="hunter23")
        try:
            assert await limited.load("key") is None
            await _refused(limited.reserve("one", [CLAIM], lease=60.0), "NOPERM", "ACL SETUSER")
            await _refused(wrong.load("key"), "WRONGPASS", "storage.password")
        finally:
            await limited.close()
            await wrong.close()
            await admin("ACL", "DELUSER", "limited")

    _drive(redis, scenario)


def test_what_was_answered_before_the_connection_broke_is_heard(redis: Any) -> None:
    """Of calls that went out together, those that have to be sent again fail alone where nobody can be reached."""

    async def scenario() -> list[Any]:
        async with _breaking_off(after=[b"*3\r\n$-1\r\n$-1\r\n$-1\r\n", b":1\r\n"]) as port:
            store = redis.make(port=port)
            try:
                assert await store.load("warm") is None
                return await asyncio.gather(store.settle("one", {}), store.load("key"), return_exceptions=True)
            finally:
                await store.close()

    settled, loaded = asyncio.run(scenario())

    assert settled is True
    assert "cannot be reached" in loaded.message


@pytest.mark.parametrize(
    ("answer", "code", "remedy"),
    [
        ("-LOADING Redis is loading the dataset in memory", "LOADING", "works again when that is done"),
        ("-MOVED 7 10.0.0.9:6379", "MOVED", "name the node that does"),
        ("-CLUSTERDOWN The cluster is down", "CLUSTERDOWN", "CLUSTER INFO"),
        ("-NOAUTH Authentication required.", "NOAUTH", "set storage.password"),
        ("-MISCONF Redis is configured to save RDB snapshots", "MISCONF", "free the disk"),
        ("-ERR max number of clients reached", "max number of clients", "raise its maxclients"),
        ("-ERR unknown command", "ResponseError", "refused a command"),
        ("-ERR DB index is out of range", "DB index", "no database of this number; correct it in storage.url"),
        ("garbage", "InvalidResponse", "Redis at"),
    ],
    ids=lambda value: value.split()[0].strip("-"),
)
def test_refusals_name_their_remedies(redis: Any, answer: str, code: str, remedy: str) -> None:
    """Whatever the server answers to a command, the error says what to do about it."""

    async def scenario() -> None:
        async with _answering(answer) as port:
            store = redis.make(port=port, timeout=1.0)
            try:
                await _refused(store.reserve("one", [CLAIM], lease=60.0), code, remedy)
            finally:
                await store.close()

    asyncio.run(scenario())


def test_keys_expire_when_nobody_needs_them(redis: Any) -> None:
    """Books, reservations and locks leave by themselves, after their time and no earlier; all share one hash tag."""

    async def scenario(store: Any, admin: Any) -> None:
        await store.reserve("one", [CLAIM, RateClaim("flow", 3, 10, 60.0, 10)], lease=30.0)
        await store.reserve("two", [WindowClaim("short", 1, 10, 5.0)], lease=1.0)
        await store.lock("lock", expires_in=20.0)
        await store.save("record", b"stays")
        keys = [key.decode() for key in await admin("KEYS", f"*{redis.name}*")]
        assert all(key.startswith(f"{{{redis.name}}}:") for key in keys)
        left = {key.split("}:")[1]: await admin("PTTL", key) / 1_000 for key in keys}
        assert {name for name, seconds in left.items() if seconds < 0} == {"d:record", "keys", "fence", "leases"}
        assert 3_630.0 <= left["w:budget"] <= 3_700.0, "as long as a lease's end could still change it"
        assert 3_630.0 <= left["r:one"] <= 3_700.0
        assert 18.0 <= left["q:flow"] <= 80.0
        assert 6.0 <= left["w:short"] <= 70.0
        assert 0.0 < left["l:lock"] <= 20.0

    _drive(redis, scenario)


def test_a_key_of_another_kind_is_told(redis: Any) -> None:
    """Somebody else's key under the prefix is no riddle."""

    async def scenario(store: Any, admin: Any) -> None:
        await admin("LPUSH", f"{{{redis.name}}}:w:budget", "x")
        await _refused(store.reserve("one", [CLAIM], lease=60.0), "WRONGTYPE", "choose another prefix")

    _drive(redis, scenario)


def test_loops_that_ended_keep_no_connection(redis: Any) -> None:
    """One asyncio.run() after the other, the server's clients and this process's sockets stay as many."""
    store = redis.make()
    before = _clients(redis)

    for number in range(30):
        assert asyncio.run(store.save(f"{number}", b"")) is not None

    assert _clients(redis) <= before + 2
    asyncio.run(store.close())
    gc.collect()  # a socket that nobody closed would warn


def test_loops_of_many_threads_leave_one_another_alone(redis: Any) -> None:
    """Threads that each begin loop after loop all get their answers, and close only what ended."""
    store = redis.make()
    before = _clients(redis)

    async def work(name: str) -> None:
        for number in range(5):
            assert await store.reserve(f"{name}-{number}", [CLAIM], lease=60.0) == GRANTED

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda number: asyncio.run(work(f"{number}")), range(20)))
    assert _clients(redis) <= before + 8
    asyncio.run(store.close())
    gc.collect()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # asyncio's, of the tasks left behind
def test_a_loop_closed_at_work_keeps_no_connection(redis: Any) -> None:
    """Nor does its listener, whom nobody ended, when the next loop comes."""
    store = redis.make()
    before = _clients(redis)
    loop = asyncio.new_event_loop()
    kept: list[Any] = []

    async def listen() -> None:
        kept.append(store.subscribe("news"))
        await store.publish("news", b"heard")
        assert await anext(kept[0]) == b"heard"

    loop.run_until_complete(listen())
    during = _clients(redis)
    loop.close()
    asyncio.run(store.save("key", b""))
    after = _clients(redis)

    asyncio.run(store.close())
    del loop, kept[:]
    gc.collect()
    assert during == before + 2
    assert after <= before + 1


def test_short_names_lead_to_it() -> None:
    """``redis`` and ``redis.redis`` are the same store."""
    from modelmesh.plugins import PluginHost

    host = PluginHost()

    assert host.resolve_id("state_stores", "redis") == "modelmesh.redis.v1"
    assert host.find("state_stores", "redis.redis").__name__ == "RedisStateStore"


def _drive(redis: Any, scenario: Any) -> None:
    async def run() -> None:
        store, other = redis.make(), redis.make()

        async def admin(*words: Any) -> Any:
            return await other._run(redis.home.store.command(*words))

        try:
            await scenario(store, admin)
        finally:
            await store.close()
            await other.close()

    asyncio.run(run())


def _packed(*items: str | list[str]) -> bytes:
    """Pack short lists and texts (MessagePack specification, "fixarray" and "fixstr")."""
    packed = (_packed(*item) if isinstance(item, list) else bytes([0xA0 | len(item)]) + item.encode() for item in items)
    return bytes([0x90 | len(items)]) + b"".join(packed)


def _clients(redis: Any) -> int:
    """Connections of stores that the server has."""
    with socket.create_connection(("127.0.0.1", redis.server.port), 5.0) as connection:
        connection.sendall(b"CLIENT LIST\r\n")
        with connection.makefile("rb") as answer:
            return answer.read(int(answer.readline()[1:])).count(b" name=modelmesh ")


async def _refused(call: Any, code: str, remedy: str) -> None:
    with pytest.raises(StateStoreError) as caught:
        await call
    assert caught.value.details["code"] == code
    assert remedy in caught.value.message
    assert "hunter" not in "".join(traceback.format_exception(caught.value))


@asynccontextmanager
async def _answering(answer: str) -> AsyncIterator[int]:
    """A server that accepts a connection and gives every command the same answer."""
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        while data := await reader.read(65_536):
            for command in data.split(b"*")[1:]:
                polite = any(word in command for word in (b"CLIENT", b"SELECT"))
                writer.write(b"+OK\r\n" if polite else f"{answer}\r\n".encode())
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in writers:
            writer.close()
        await asyncio.sleep(0.01)


@asynccontextmanager
async def _breaking_off(after: list[bytes]) -> AsyncIterator[int]:
    """A server that gives so many answers over one connection, then resets it and takes no other."""
    answers = iter(after)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async for line in reader:
            if line.startswith((b"CLIENT", b"SELECT")):
                writer.write(b"+OK\r\n")
            elif line.startswith((b"HMGET", b"EVALSHA")):
                answer = next(answers, None)
                if answer is None:
                    server.close()
                    break
                writer.write(answer)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await asyncio.sleep(0.01)
