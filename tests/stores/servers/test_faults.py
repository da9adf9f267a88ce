"""A server that is stopped, restarted or cut off (F28): errors come in time, and it works again by itself."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from modelmesh.errors import StateStoreError
from modelmesh.interfaces.ledger import GRANTED, Balance, WindowClaim

CLAIM = WindowClaim("budget", 10, 1_000, 3_600.0)
SLACK = 0.15
"""Seconds by which a busy machine may be late."""


def test_a_stopped_server_is_an_error_and_a_started_one_works(shared: Any) -> None:
    """Down, each call fails in time and says what to do; up again, the same store works on, with its state."""

    async def scenario() -> None:
        store = shared.make(timeout=0.25)
        try:
            await _eventually(lambda: store.reserve("before", [CLAIM], lease=60.0))
            await store.settle("before", {"budget": 7})
            shared.server.stop()
            for _ in range(3):
                error, seconds = await _failure(lambda: store.reserve("down", [CLAIM], lease=60.0))
                assert error.retryable
                assert "cannot be reached" in error.message or "shutting down" in error.message
                assert seconds < 0.25 + SLACK
            shared.server.start()
            seconds = await _eventually(lambda: store.reserve("after", [CLAIM], lease=60.0))
            assert seconds < 5.0
            assert (await store.balances(["budget"]))["budget"] == Balance(7, 10)
        finally:
            if shared.server.process is None:
                shared.server.start()
            await store.close()

    asyncio.run(scenario())


def test_what_was_settled_survives_a_killed_server(shared: Any) -> None:
    """The server killed and started again has every settled request, at most those of its loss window not (R11)."""

    async def scenario() -> None:
        store = shared.make()
        try:
            for number in range(20):
                await store.reserve(f"{number}", [CLAIM], lease=60.0)
                await store.settle(f"{number}", {})
            await store.save("record", b"data")
            await asyncio.sleep(1.2 * store.guarantees.loss_window_seconds)
            shared.server.stop(signal.SIGKILL if shared.kind == "redis" else signal.SIGQUIT)
            shared.server.start()
            await _eventually(lambda: store.load("warm"))
            assert (await store.balances(["budget"]))["budget"] == Balance(200, 0)
            assert (await store.load("record")).data == b"data"
        finally:
            await store.close()

    asyncio.run(scenario())


def test_a_closed_store_stays_closed(shared: Any) -> None:
    """A late call is refused; it opens no connection that nobody would close."""

    async def scenario() -> None:
        store = shared.make()
        await store.save("key", b"")
        await store.close()
        with pytest.raises(StateStoreError, match="the state store is closed"):
            await store.save("key", b"")
        with pytest.raises(StateStoreError, match="the state store is closed"):
            store.subscribe("news")
        await store.close()

    asyncio.run(scenario())


def test_a_dead_connection_keeps_nobody_waiting(shared: Any, cut: Any) -> None:
    """Cut off without a word, each call ends in time; when the way is free again, calls work within seconds."""

    async def scenario() -> None:
        async with cut(shared.server.port) as way:
            store = shared.make(port=way.port, timeout=0.25, connect_timeout=1.0)
            try:
                await _eventually(lambda: store.reserve("before", [CLAIM], lease=60.0))
                way.freeze()
                asked = [_failure(lambda i=i: store.reserve(f"{i}", [CLAIM], lease=60.0)) for i in range(20)]
                for error, seconds in await asyncio.gather(*asked):
                    assert error.retryable
                    assert seconds < 0.25 + SLACK
                way.thaw()
                assert await _eventually(lambda: store.reserve("after", [CLAIM], lease=60.0)) < 5.0
                assert await store.settle("before", {"budget": 1}) is True
            finally:
                await store.close()

    asyncio.run(scenario())


def test_a_connection_that_is_opened_in_vain_delays_nobody_for_long(shared: Any) -> None:
    """A server that comes back is used within five seconds, by default, though nothing answers an attempt of before.

    The attempt has to end, and whoever finds out may have to rest as long as one does at most (R10).
    """
    from modelmesh._engine.guarded_ledger import _LONGEST_REST

    config = type(shared.make().config)(url=shared.server.url)

    assert config.connect_timeout + _LONGEST_REST + 2 * config.timeout <= 5.0


def test_broken_connections_are_opened_again(shared: Any, cut: Any) -> None:
    """Connections that were reset while nothing was asked cost no call: the next one opens another."""

    async def scenario() -> None:
        async with cut(shared.server.port) as way:
            store = shared.make(port=way.port)
            try:
                await store.reserve("one", [CLAIM], lease=60.0)
                await store.load("key")
                for _ in range(3):
                    way.break_all()
                    await asyncio.sleep(0.05)
                    assert await store.reserve("one", [CLAIM], lease=60.0) == GRANTED
                    assert await store.load("key") is None
                way.break_all()
                await asyncio.sleep(0.05)
                assert await store.settle("one", {}) is True
            finally:
                await store.close()

    asyncio.run(scenario())


def test_listening_goes_on_after_a_lost_connection(shared: Any, cut: Any) -> None:
    """A subscriber hears again, over a connection of its own that comes back by itself."""

    async def scenario() -> None:
        async with cut(shared.server.port) as way:
            here, there = shared.make(port=way.port), shared.make()
            listener = here.subscribe("news")
            try:
                await _heard(there, listener, b"first")
                way.break_all()
                await _heard(there, listener, b"second")
            finally:
                await listener.aclose()
                await here.close()
                await there.close()

    asyncio.run(scenario())


def test_large_messages_are_heard(shared: Any) -> None:
    """A message may be larger than what a notification carries."""

    async def scenario() -> None:
        store = shared.make()
        listener = store.subscribe("news")
        try:
            await _heard(store, listener, bytes(range(256)) * 400)
        finally:
            await listener.aclose()
            await store.close()

    asyncio.run(scenario())


def test_no_message_of_many_is_lost(shared: Any) -> None:
    """While the connection stands, each message is heard once and in order, however fast they come."""

    async def scenario() -> None:
        here, there = shared.make(), shared.make()
        listener = here.subscribe("news")
        try:
            await _heard(there, listener, b"begin")
            for number in range(300):
                await there.publish("news", b"%d" % number)
            heard: list[bytes] = []
            async with asyncio.timeout(10.0):
                while heard[-1:] != [b"299"]:
                    heard.append(await anext(listener))
            assert [message for message in heard if message != b"begin"] == [b"%d" % number for number in range(300)]
        finally:
            await listener.aclose()
            await here.close()
            await there.close()

    asyncio.run(scenario())


def test_a_cancelled_call_hurts_nobody(shared: Any) -> None:
    """Tasks that are cancelled while they wait leave the connection as it was, and the others their answers."""

    async def scenario() -> None:
        store = shared.make()
        try:
            await store.load("warm")
            for turns in range(12):
                tasks = [
                    asyncio.ensure_future(store.reserve(f"{turns}-{i}", [WindowClaim("b", 1, 10**6, 60.0)], lease=60.0))
                    for i in range(6)
                ]
                for _ in range(turns):
                    await asyncio.sleep(0)
                for task in tasks[::2]:
                    task.cancel()
                outcomes = await asyncio.gather(*tasks, return_exceptions=True)
                assert all(outcome == GRANTED for outcome in outcomes[1::2]), turns
        finally:
            await store.close()
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        assert not left

    asyncio.run(scenario())


def test_one_store_serves_several_event_loops(shared: Any) -> None:
    """Each loop has connections of its own; a loop that has ended is in nobody's way."""
    store = shared.make()

    async def use(number: int, *, close: bool) -> Balance:
        await store.reserve(f"{number}", [CLAIM], lease=60.0)
        books: Balance = (await store.balances(["budget"]))["budget"]
        if close:
            await store.close()
        return books

    async def both() -> list[Balance]:
        elsewhere = asyncio.to_thread(lambda: asyncio.run(use(1, close=False)))
        return [await elsewhere, await use(2, close=False)]

    assert asyncio.run(both()) == [Balance(0, 10), Balance(0, 20)]
    assert asyncio.run(use(3, close=True)) == Balance(0, 30)


def test_nobody_listening_there_is_an_error_at_once(shared: Any) -> None:
    """A wrong address is told at the first call, with what to look at."""

    async def scenario() -> None:
        from socket import create_server

        with create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        store = shared.make(port=port, timeout=0.25)
        try:
            error, seconds = await _failure(lambda: store.load("key"))
        finally:
            await store.close()
        assert f"127.0.0.1:{port}" in error.message
        assert "storage.url" in error.message
        assert seconds < 0.25 + SLACK

    asyncio.run(scenario())


@pytest.mark.parametrize("url", ["nonsense", "http://:hunter22@host", "://:hunter22@x"])
def test_a_wrong_url_is_refused_without_being_shown(shared: Any, url: str) -> None:
    """Neither the message nor the settings' own text shows what may hold a password."""
    from pydantic import ValidationError

    with pytest.raises(ValidationError) as caught:
        shared.make(url=url)

    assert "hunter22" not in str(caught.value)
    assert f"a {'Redis' if shared.kind == 'redis' else 'PostgreSQL'} URL is" in str(caught.value)


def test_passwords_are_not_shown(shared: Any) -> None:
    """Settings print without URL and password, and the place in messages has neither user nor password."""
    config = shared.make(url=shared.server.url.replace("//", "//someone:hunter22@").replace("owner@", "")).config

    assert "hunter22" not in f"{config!r} {config} {config.place()}"
    assert "someone" not in config.place()


async def _failure(call: Callable[[], Awaitable[Any]]) -> tuple[StateStoreError, float]:
    begin = time.monotonic()
    with pytest.raises(StateStoreError) as caught:
        await call()
    return caught.value, time.monotonic() - begin


async def _eventually(call: Callable[[], Awaitable[Any]]) -> float:
    """Call until it works; return how many seconds that took."""
    begin = time.monotonic()
    while True:
        try:
            await call()
            return time.monotonic() - begin
        except StateStoreError:
            if time.monotonic() > begin + 10.0:
                raise
            await asyncio.sleep(0.02)


async def _heard(store: Any, listener: Any, message: bytes) -> None:
    """Publish until the subscriber hears it."""
    hearing = asyncio.ensure_future(anext(listener))
    async with asyncio.timeout(10.0):
        while True:
            await store.publish("news", message)
            await asyncio.wait({hearing}, timeout=0.1)
            if hearing.done():
                if hearing.result() == message:
                    return
                hearing = asyncio.ensure_future(anext(listener))
