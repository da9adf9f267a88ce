"""Channels: messages within a process, over loops and threads."""

from __future__ import annotations

import asyncio
import threading

import pytest

from modelmesh_cdk.channels import BACKLOG, Channels


def test_a_subscription_begins_when_it_is_made() -> None:
    """Not when it is first read: what comes in between waits."""

    async def scenario() -> bytes:
        channels = Channels()
        listener = channels.subscribe("news")
        channels.publish("news", b"one")
        return await anext(listener)

    assert asyncio.run(scenario()) == b"one"


def test_other_threads_wake_a_reader() -> None:
    """A message from another thread reaches a loop that sleeps."""

    async def scenario() -> bytes:
        channels = Channels()
        listener = channels.subscribe("news")
        reading = asyncio.ensure_future(anext(listener))
        await asyncio.sleep(0)
        thread = threading.Thread(target=channels.publish, args=("news", b"from there"))
        thread.start()
        async with asyncio.timeout(5.0):
            message = await reading
        thread.join()
        return message

    assert asyncio.run(scenario()) == b"from there"


def test_a_slow_reader_loses_the_oldest() -> None:
    """And costs no more memory than that."""

    async def scenario() -> bytes:
        channels = Channels()
        listener = channels.subscribe("news")
        for number in range(BACKLOG + 5):
            channels.publish("news", b"%d" % number)
        return await anext(listener)

    assert asyncio.run(scenario()) == b"5"


def test_a_subscription_nobody_holds_is_none() -> None:
    """Begun or not, dropped or closed."""

    async def scenario() -> list[str]:
        channels = Channels()
        channels.subscribe("dropped")
        closed = channels.subscribe("closed")
        channels.publish("closed", b"one")
        await anext(closed)
        await closed.aclose()
        held = channels.subscribe("held")
        del closed
        listened = channels.listened()
        await held.aclose()
        return listened

    assert asyncio.run(scenario()) == ["held"]


def test_closing_lets_readers_finish_what_they_have() -> None:
    """Then their loops end; an error reaches them instead, if there is one."""

    async def scenario() -> list[bytes]:
        channels = Channels()
        listener, failing = channels.subscribe("news"), channels.add("else")
        channels.publish("news", b"last")
        channels.close()
        failing.end(RuntimeError("gone"))
        with pytest.raises(RuntimeError, match="gone"):
            await anext(failing.stream())
        return [message async for message in listener]

    assert asyncio.run(scenario()) == [b"last"]
