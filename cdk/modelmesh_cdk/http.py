"""HTTP for connectors: httpx requests handed to a transport directly, and failures as the errors they mean.

Authors and their tests meet ``httpx`` (``httpx.MockTransport`` works). The client layer of httpx is left out on the
way, since it costs more than the request itself: there are no cookies, no redirects (credentials are never sent on),
and proxies are those of the transport that is passed in. With the ``fast`` extra, aiohttp carries the bytes.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, cast

import httpx

from modelmesh.errors import MalformedResponseError, ProviderConnectionError, ProviderError, ProviderTimeoutError
from modelmesh.interfaces.provider import Timeouts
from modelmesh_cdk.json_codec import decode_json
from modelmesh_cdk.sheltered import ShelteredTransport

if TYPE_CHECKING:
    import aiohttp

MAX_BODY_BYTES = 32 * 1024 * 1024
LINGER_SECONDS = 0.05
LINGER_BYTES = 64 * 1024
"""What is worth reading after an answer's end in order to keep its connection; a new one costs about as much."""
LARGE_BODY_BYTES = 1024 * 1024
"""aiohttp warns of bytes of this size; from there on a body is handed to it as a stream of one part."""
MAX_HEADER_BYTES = 64 * 1024
MAX_CONNECTIONS = 1_000
KEEPALIVE_SECONDS = 30.0


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
    _response: httpx.Response
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
            failure = _understood(error)
            if failure is None:
                raise
        if failure is not None:
            raise failure

    def _parts(self) -> AsyncIterator[bytes]:
        if "content-encoding" in self.headers:
            parts: AsyncIterator[bytes] = self._response.aiter_bytes()
        else:
            # Nothing to decompress: what httpx does around each chunk would cost more than the chunk itself.
            parts = aiter(cast("httpx.AsyncByteStream", self._response.stream))
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
            failure = _understood(error)
            if failure is None:
                raise
        if failure is not None:
            raise failure
        return b"".join(parts)

    async def close(self) -> None:
        """Close the connection, unless the answer was read to its end; then it is used again."""
        if self._read_whole:
            with suppress(Exception):  # the answer is out already
                await cast("httpx.AsyncByteStream", self._response.stream).aclose()
        else:
            await _hang_up(self._response)


class Http:
    """Sends requests; keeps one transport, with its connections, for each event loop that uses it.

    Args:
        transport: Carries every request instead; for tests, proxies and special TLS settings.
        max_body_bytes: What an answer that is read whole may hold.
    """

    def __init__(
        self, *, transport: httpx.AsyncBaseTransport | None = None, max_body_bytes: int = MAX_BODY_BYTES
    ) -> None:
        self._given = transport
        self._max_body_bytes = max_body_bytes
        self._transports: dict[asyncio.AbstractEventLoop, httpx.AsyncBaseTransport] = {}
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
        request = _request(method, url, headers(), body, timeouts.connect, idle)
        try:
            if ends_at is None:
                response = await self._transport().handle_async_request(request)
            else:
                async with asyncio.timeout_at(ends_at):
                    response = await self._transport().handle_async_request(request)
        except TimeoutError:
            failure = _too_late()
        except Exception as error:
            failure = _understood(error)
            if failure is None:
                raise
        # Raised out here, where the transport's exception, whose frames hold headers, is no longer its context.
        if failure is not None:
            raise failure
        names = {
            name.decode("latin-1").lower(): value.decode("latin-1", "replace") for name, value in response.headers.raw
        }
        return HttpStream(response.status_code, names, response, self._max_body_bytes, ends_at)

    def _transport(self) -> httpx.AsyncBaseTransport:
        if self._closed:
            # A transport made now would never be closed.
            raise ProviderConnectionError("the provider is closed; build a new mesh", retryable=False)
        if self._given is not None:
            return self._given
        loop = asyncio.get_running_loop()
        transport = self._transports.get(loop)
        if transport is None:
            # Not a weak dictionary: a transport refers to its loop, so those of closed loops are let go here.
            self._transports = {each: kept for each, kept in self._transports.items() if not each.is_closed()}
            transport = self._transports[loop] = new_transport()
        return transport

    async def close(self) -> None:
        """Close the connections of all loops, and open none again; those of loops that are gone went with them."""
        self._closed = True
        if self._given is not None:
            await self._given.aclose()
            return
        loop = asyncio.get_running_loop()
        for owner, transport in list(self._transports.items()):
            del self._transports[owner]
            if owner is loop:
                await transport.aclose()
            elif not owner.is_closed() and owner.is_running():
                await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(transport.aclose(), owner))


def new_transport() -> httpx.AsyncBaseTransport:
    """Return a transport for the running loop: aiohttp's with the ``fast`` extra, else httpx's own."""
    try:
        import httpx_aiohttp
    except ImportError:
        limits = httpx.Limits(max_connections=MAX_CONNECTIONS, keepalive_expiry=KEEPALIVE_SECONDS)
        return ShelteredTransport(verify=_tls(), limits=limits)
    transport: httpx.AsyncBaseTransport = httpx_aiohttp.AiohttpTransport(verify=_tls(), client=_aiohttp_session)
    return transport


def _aiohttp_session() -> aiohttp.ClientSession:
    """Return a session that, like httpx's own transport, keeps no cookies and asks for no compression."""
    import aiohttp

    class Connector(aiohttp.TCPConnector):
        """Hangs up at once: a connection that is closed politely stays until what it holds is written.

        That is for ever if its provider has stopped to read, whoever was cancelled or timed out meanwhile.
        """

        def _release(self, key: Any, protocol: Any, *, should_close: bool = False) -> None:
            transport = protocol.transport
            if should_close and transport is not None and transport.get_write_buffer_size():
                transport.abort()
            super()._release(key, protocol, should_close=should_close)

    return aiohttp.ClientSession(
        connector=Connector(limit=MAX_CONNECTIONS, keepalive_timeout=KEEPALIVE_SECONDS, ssl=_tls()),
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers=("Accept-Encoding",),
        max_line_size=MAX_HEADER_BYTES,
        max_field_size=MAX_HEADER_BYTES,
    )


@cache
def _tls() -> ssl.SSLContext:
    """Return the one TLS context of the process: reading the certificates takes tens of milliseconds."""
    return httpx.create_ssl_context()


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


def _understood(error: Exception) -> ProviderError | None:
    """Return the error an exception of the transport means; None for one that is no transport's."""
    if isinstance(error, httpx.HTTPError):
        return understand_http_error(error)
    if _is_aiohttps(error):
        return _understand_aiohttp(error)
    if isinstance(error, (UnicodeError, httpx.InvalidURL)):
        return ProviderConnectionError(f"cannot connect: the host's name is none: {error}")
    return None


def _is_aiohttps(error: BaseException | None) -> bool:
    return type(error).__module__.partition(".")[0] == "aiohttp"


def understand_http_error(error: httpx.HTTPError) -> ProviderError:
    """Return the error a failure of the transport means; of the exception only its type and text are kept."""
    text = str(error) or type(error).__name__
    cause = error.__cause__
    if isinstance(error, httpx.ConnectTimeout) and cause is not None and _is_aiohttps(cause):
        return _understand_aiohttp(cause)
    if isinstance(error, httpx.ConnectTimeout):
        return ProviderTimeoutError(f"no connection in time: {text}", clock="connect")
    if isinstance(error, httpx.PoolTimeout):
        return ProviderTimeoutError("no free connection in time", clock="connect")
    if isinstance(error, httpx.TimeoutException):
        return ProviderTimeoutError(f"the provider went silent: {text}", clock="idle")
    if isinstance(error, httpx.DecodingError):
        return MalformedResponseError(f"the compressed body is broken: {text}")
    if isinstance(error, httpx.ConnectError):
        return ProviderConnectionError(f"cannot connect: {text}")
    return ProviderConnectionError(f"the connection broke: {text}")


def _understand_aiohttp(error: BaseException) -> ProviderError:
    """Return what aiohttp's own exception means, where httpx-aiohttp translates it wrongly or not at all.

    It takes every connection that fails or breaks for a time-out of connecting, and lets through an answer that is no
    HTTP. That last one holds the request's headers, the key among them, so nothing of it is kept but the name.
    """
    if isinstance(error, TimeoutError):
        return ProviderTimeoutError("no connection in time", clock="connect")
    for name in ("os_error", "certificate_error"):
        reason = getattr(error, name, None)
        if reason is not None:
            # The exception's own text shows the address of a TLS context instead.
            return ProviderConnectionError(f"cannot connect: {reason}")
    if hasattr(error, "request_info"):
        return ProviderConnectionError(f"the answer is no HTTP: {type(error).__name__}")
    return ProviderConnectionError(f"the connection broke: {str(error) or type(error).__name__}")


def _request(
    method: str,
    url: httpx.URL,
    headers: Mapping[str, str],
    body: bytes,
    connect: float | None,
    idle: float | None,
) -> httpx.Request:
    raw = [(b"host", url.netloc), (b"content-length", b"%d" % len(body))]
    raw += [(name.encode("ascii"), value.encode()) for name, value in headers.items()]
    request = httpx.Request(
        method,
        url,
        headers=raw,
        stream=httpx.ByteStream(body),
        extensions={"timeout": {"connect": connect, "pool": connect, "read": idle, "write": idle}},
    )
    if len(body) < LARGE_BODY_BYTES:
        request.read()  # so that a transport may take the body as it is, rather than iterate over it
    request.headers.encoding = "utf-8"  # or httpx would try each value to find out
    return request


async def _hang_up(response: httpx.Response) -> None:
    """Close an unfinished answer even while the task is being cancelled: otherwise its place in the pool is lost.

    See https://github.com/encode/httpcore/issues/1093: a second cancellation during the close leaks the connection.
    """
    closing = asyncio.ensure_future(response.aclose())
    try:
        await asyncio.shield(closing)
    except asyncio.CancelledError:
        # The close goes on by itself; what it may raise is of no interest to anybody.
        closing.add_done_callback(lambda task: task.cancelled() or task.exception())
        raise
    except Exception:  # noqa: S110 (the answer is out already; a connection that fails to close is closed)
        pass
