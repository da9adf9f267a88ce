"""Carriers close what they opened, whatever happens to whoever asked for it."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any
from unittest.mock import Mock

import aiohttp
import httpx
import pytest

from modelmesh_cdk import carriers
from modelmesh_cdk.carriers import HttpxCarrier, Opened


class Slow(httpx.AsyncByteStream):
    """A body that takes its time to close, and may fail to."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error
        self.may_close = asyncio.Event()
        self.is_closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b"{}"

    async def aclose(self) -> None:
        await self.may_close.wait()
        self.is_closed = True
        if self.error is not None:
            raise self.error


class Transport(httpx.AsyncBaseTransport):
    """Answers with one body."""

    def __init__(self, body: Slow) -> None:
        self.body = body

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, stream=self.body)


async def opened(body: Slow) -> Opened:
    """Send a request and return its answer, whose body nobody has read."""
    carrier = HttpxCarrier(Transport(body))
    return await carrier.open("POST", httpx.URL("http://provider.test/chat"), {}, b"{}", None, None)


async def settle() -> None:
    """Let everything run that can."""
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.mark.parametrize("error", [None, OSError("gone")], ids=["closes", "fails to"])
def test_whoever_hangs_up_waits_until_the_connection_is_free(error: Exception | None) -> None:
    """What the close raises then is of no interest: the answer is out already."""

    async def scenario() -> list[bool]:
        body = Slow(error)
        closing = asyncio.ensure_future((await opened(body)).hang_up())
        await settle()
        seen = [closing.done()]
        body.may_close.set()
        await closing
        return [*seen, body.is_closed]

    assert asyncio.run(scenario()) == [False, True]


@pytest.mark.parametrize("error", [None, OSError("gone")], ids=["closes", "fails to"])
def test_a_close_goes_on_when_its_task_is_cancelled(error: Exception | None) -> None:
    """The connection's place would be lost otherwise; and nobody hears of what it raises later."""
    complaints: list[Any] = []

    async def scenario() -> bool:
        asyncio.get_running_loop().set_exception_handler(lambda _, complaint: complaints.append(complaint))
        body = Slow(error)
        closing = asyncio.ensure_future((await opened(body)).hang_up())
        await settle()
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        body.may_close.set()
        await settle()
        gc.collect()
        return body.is_closed

    assert asyncio.run(scenario())
    assert complaints == []


def test_what_came_before_a_connection_broke_is_handed_over_first() -> None:
    """However slowly it is read: of what a provider sent and billed nothing is thrown away."""

    async def scenario() -> list[bytes]:
        content = aiohttp.StreamReader(Mock(), 2**16, loop=asyncio.get_running_loop())
        content.feed_data(b"lo")
        content.set_exception(aiohttp.ClientPayloadError("cut"))
        parts = carriers._parts(content)
        first = await anext(parts)
        with pytest.raises(aiohttp.ClientPayloadError, match="cut"):
            await anext(parts)
        return [first]

    assert asyncio.run(scenario()) == [b"lo"]
