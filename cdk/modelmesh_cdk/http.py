"""HTTP for connectors: requests, answers whole or as they come, and failures as the errors they mean.

Authors and their tests meet ``httpx`` (``httpx.MockTransport`` works). Its client layer is left out on the way, since
it costs more than the request itself: there are no cookies, no redirects (credentials are never sent on), and proxies
are those of the transport that is passed in. With the ``fast`` extra, aiohttp carries the bytes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import httpx

from modelmesh.errors import MalformedResponseError, ProviderConnectionError, ProviderError, ProviderTimeoutError
from modelmesh.interfaces.provider import Timeouts
from modelmesh_cdk.carriers import Carrier, HttpxCarrier, Opened, new_carrier
from modelmesh_cdk.http_errors import understood
from modelmesh_cdk.json_codec import decode_json

MAX_BODY_BYTES = 32 * 1024 * 1024
LINGER_SECONDS = 0.05
LINGER_BYTES = 64 * 1024
"""What is worth reading after an answer's end in order to keep its connection; a new one costs about as much."""


@dataclass(slots=True)
class HttpReply:
    """An answer, read whole. Header names are in lower case.

    A repr shows neither headers nor body: it stands in tracebacks, and some gateways answer with the request's key.
    """

    status: int
    headers: dict[str, str] = field(repr=False)
    body: bytes = field(repr=False)

    def json(self) -> Any:
        """Return what the body says.

        Raises:
            MalformedResponseError: It is no JSON.
        """
        with suppress(ValueError, RecursionError):  # what they hold of the body goes no further
            return decode_json(self.body)
        kind = self.headers.get("content-type", "no content type")
        raise MalformedResponseError(f"expected JSON, got {len(self.body)} bytes of {kind}", status_code=self.status)


@dataclass(slots=True)
class HttpStream:
    """An answer whose body is still coming. Header names are in lower case."""

    status: int
    headers: dict[str, str] = field(repr=False)
    _opened: Opened = field(repr=False)
    _limit: int
    _ends_at: float | None = None
    _read_whole: bool = False

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield the body as it comes, decompressed.

        Raises:
            ProviderConnectionError: The connection broke.
            ProviderTimeoutError: Nothing came for the idle time.
        """
        failure: ProviderError | None = None
        try:
            async for chunk in self._parts():
                yield chunk
            self._read_whole = True
        except Exception as error:
            failure = understood(error)
            if failure is None:
                raise
        if failure is not None:
            raise failure

    def _parts(self) -> AsyncIterator[bytes]:
        parts = self._opened.parts
        return parts if self._ends_at is None else _until(self._ends_at, parts)

    async def finish(self, rest: AsyncIterator[bytes]) -> None:
        """Read on when all that matters has been said, so that the connection can be used again; gives up soon.

        Args:
            rest: What `chunks` returned.
        """
        size = 0
        with suppress(ProviderError, TimeoutError):
            async with asyncio.timeout(LINGER_SECONDS):
                async for part in rest:
                    size += len(part)
                    if size > LINGER_BYTES:
                        break

    async def read(self) -> bytes:
        """Return the whole body.

        Raises:
            MalformedResponseError: It is larger than the limit.
            ProviderError: As for `chunks`.
        """
        parts: list[bytes] = []
        size = 0
        failure: ProviderError | None = None
        try:
            async for part in self._parts():
                size += len(part)
                if size > self._limit:
                    failure = MalformedResponseError(f"the body is larger than {self._limit // 1024**2} MB")
                    break
                parts.append(part)
            else:
                self._read_whole = True
        except Exception as error:
            failure = understood(error)
            if failure is None:
                raise
        if failure is not None:
            raise failure
        return b"".join(parts)

    async def close(self) -> None:
        """Close the connection, unless the answer was read to its end; then it is used again."""
        if not self._read_whole:
            await self._opened.hang_up()
            return
        with suppress(Exception):  # the answer is out already
            await self._opened.finish()


class Http:
    """Sends requests; keeps one transport, with its connections, for each event loop that uses it.

    Args:
        transport: Carries every request instead; for tests, proxies and special TLS settings.
        max_body_bytes: What an answer that is read whole may hold.
    """

    def __init__(
        self, *, transport: httpx.AsyncBaseTransport | None = None, max_body_bytes: int = MAX_BODY_BYTES
    ) -> None:
        self._given = None if transport is None else HttpxCarrier(transport)
        self._max_body_bytes = max_body_bytes
        self._carriers: dict[asyncio.AbstractEventLoop, Carrier] = {}
        self._closed = False

    async def send(
        self,
        method: str,
        url: httpx.URL,
        headers: Callable[[], Mapping[str, str]],
        body: bytes = b"",
        *,
        timeouts: Timeouts,
    ) -> HttpReply:
        """Send a request and read its answer whole.

        Args:
            method: Such as ``POST``.
            url: Where to.
            headers: Called for the headers, so that credentials stand in no frame of this library.
            body: Sent as it is.
            timeouts: ``connect`` and ``total`` hold here; None leaves the end to the engine's own clocks.

        Raises:
            ProviderError: No answer came; any status is an answer.
        """
        reply = await self._open(method, url, headers, body, timeouts, None)
        try:
            return HttpReply(reply.status, reply.headers, await reply.read())
        finally:
            await reply.close()

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        url: httpx.URL,
        headers: Callable[[], Mapping[str, str]],
        body: bytes = b"",
        *,
        timeouts: Timeouts,
        idle: float | None = None,
    ) -> AsyncGenerator[HttpStream, None]:
        """Send a request and hand out its answer while it comes; leaving the block closes the connection if need be.

        Args:
            method: See `send`.
            url: See `send`.
            headers: See `send`.
            body: See `send`.
            timeouts: See `send`.
            idle: Seconds the body may pause, keep-alive comments included; by default for ever.
        """
        reply = await self._open(method, url, headers, body, timeouts, idle)
        try:
            yield reply
        finally:
            await reply.close()

    async def _open(
        self,
        method: str,
        url: httpx.URL,
        headers: Callable[[], Mapping[str, str]],
        body: bytes,
        timeouts: Timeouts,
        idle: float | None,
    ) -> HttpStream:
        failure: ProviderError | None = None
        ends_at = None if timeouts.total is None else asyncio.get_running_loop().time() + timeouts.total
        opening = self._carrier().open(method, url, headers(), body, timeouts.connect, idle)
        try:
            if ends_at is None:
                opened = await opening
            else:
                async with asyncio.timeout_at(ends_at):
                    opened = await opening
        except Exception as error:
            failure = understood(error)
            if failure is None:
                if not isinstance(error, TimeoutError):
                    raise
                failure = _too_late()
        # Raised out here, where the carrier's exception, whose frames hold headers, is no longer its context.
        if failure is not None:
            raise failure
        return HttpStream(opened.status, opened.headers, opened, self._max_body_bytes, ends_at)

    def _carrier(self) -> Carrier:
        if self._closed:
            # A carrier made now would never be closed.
            raise ProviderConnectionError("the provider is closed; build a new mesh", retryable=False, sent=False)
        if self._given is not None:
            return self._given
        loop = asyncio.get_running_loop()
        carrier = self._carriers.get(loop)
        if carrier is None:
            # Not a weak dictionary: a carrier refers to its loop, so those of closed loops are let go here.
            self._carriers = {each: kept for each, kept in self._carriers.items() if not each.is_closed()}
            carrier = self._carriers[loop] = new_carrier()
        return carrier

    async def close(self) -> None:
        """Close the connections of all loops, and open none again; those of loops that are gone went with them."""
        self._closed = True
        if self._given is not None:
            await self._given.aclose()
            return
        loop = asyncio.get_running_loop()
        for owner, carrier in list(self._carriers.items()):
            del self._carriers[owner]
            if owner is loop:
                await carrier.aclose()
            elif owner.is_running():
                await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(carrier.aclose(), owner))


async def _until(ends_at: float, parts: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    while True:
        try:
            async with asyncio.timeout_at(ends_at):
                part = await anext(parts)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise _too_late() from None
        yield part


def _too_late() -> ProviderTimeoutError:
    return ProviderTimeoutError("no whole answer in time", clock="total")
