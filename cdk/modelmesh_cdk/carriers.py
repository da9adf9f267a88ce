"""What carries requests: any transport of httpx, or aiohttp where the ``fast`` extra is installed.

aiohttp is spoken to directly. Through types of httpx each request would cost a third more than the request itself.
"""

from __future__ import annotations

import asyncio
import io
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol, cast

import httpx

from modelmesh_cdk.sheltered import ShelteredTransport

if TYPE_CHECKING:
    import aiohttp
    import yarl

LARGE_BODY_BYTES = 1024 * 1024
"""aiohttp warns of bytes of this size; from there on a body is handed to it as a file."""
MAX_HEADER_BYTES = 64 * 1024
MAX_CONNECTIONS = 1_000
KEEPALIVE_SECONDS = 30.0
_URLS = 256


@dataclass(slots=True)
class Opened:
    """An answer whose body is still to come.

    Attributes:
        status: HTTP status.
        headers: Names in lower case.
        parts: The body as it comes, decompressed.
        finish: Called when the body was read to its end: the connection can be used again.
        hang_up: Called when it was not: the connection is closed.
    """

    status: int
    headers: dict[str, str]
    parts: AsyncIterator[bytes]
    finish: Callable[[], Awaitable[None]]
    hang_up: Callable[[], Awaitable[None]]


class Carrier(Protocol):
    """Carries requests on one event loop."""

    async def open(
        self,
        method: str,
        url: httpx.URL,
        headers: Mapping[str, str],
        body: bytes,
        connect: float | None,
        idle: float | None,
    ) -> Opened:
        """Send a request and return its answer; ``connect`` and ``idle`` are seconds."""
        ...

    async def aclose(self) -> None:
        """Close all connections."""
        ...


def new_carrier() -> Carrier:
    """Return a carrier for the running loop: aiohttp's where it is installed, else httpx's own."""
    try:
        import aiohttp
    except ImportError:
        limits = httpx.Limits(max_connections=MAX_CONNECTIONS, keepalive_expiry=KEEPALIVE_SECONDS)
        return HttpxCarrier(ShelteredTransport(verify=_tls(), limits=limits))
    return AiohttpCarrier(aiohttp)


@cache
def _tls() -> ssl.SSLContext:
    """Return the one TLS context of the process: reading the certificates takes tens of milliseconds."""
    return httpx.create_ssl_context()


class HttpxCarrier:
    """Hands requests to a transport of httpx, without its client layer."""

    def __init__(self, transport: httpx.AsyncBaseTransport) -> None:
        self._transport = transport

    async def open(
        self,
        method: str,
        url: httpx.URL,
        headers: Mapping[str, str],
        body: bytes,
        connect: float | None,
        idle: float | None,
    ) -> Opened:
        """Send a request and return its answer."""
        request = httpx.Request(
            method,
            url,
            headers=[("host", url.netloc.decode("ascii")), ("content-length", str(len(body))), *headers.items()],
            stream=httpx.ByteStream(body),
            extensions={"timeout": {"connect": connect, "pool": connect, "read": idle, "write": idle}},
        )
        response = await self._transport.handle_async_request(request)
        names = {
            name.decode("latin-1").lower(): value.decode("latin-1", "replace") for name, value in response.headers.raw
        }
        if "content-encoding" in names:
            parts: AsyncIterator[bytes] = response.aiter_bytes()
        else:
            # Nothing to decompress: what httpx does around each part would cost more than the part itself.
            parts = aiter(cast("httpx.AsyncByteStream", response.stream))
        return Opened(response.status_code, names, parts, response.aclose, lambda: _close(response))

    async def aclose(self) -> None:
        """Close all connections."""
        await self._transport.aclose()


async def _parts(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Yield what comes; when the connection breaks, first what had come before and waits to be read.

    aiohttp raises at once then, and whoever reads slowly would lose it.
    """
    while True:
        try:
            part = await content.readany()
        except Exception as error:
            broken = content.exception()
            if broken is None:
                raise
            content.set_exception(None)  # type: ignore[arg-type]  # the only way to what it holds
            try:
                left = content.read_nowait()
            except Exception:
                left = b""
            finally:
                content.set_exception(broken)
            if left:
                yield left
            raise error from error.__cause__
        if not part:
            return
        yield part


async def _close(response: httpx.Response) -> None:
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


class AiohttpCarrier:
    """Speaks to aiohttp: no cookies, no redirects, and no compression is asked for, as with httpx's own transport."""

    def __init__(self, library: Any) -> None:
        self._library = library
        self._session: aiohttp.ClientSession | None = None
        self._timeouts: dict[tuple[float | None, float | None], aiohttp.ClientTimeout] = {}
        self._urls: dict[int, tuple[httpx.URL, yarl.URL]] = {}

    async def open(
        self,
        method: str,
        url: httpx.URL,
        headers: Mapping[str, str],
        body: bytes,
        connect: float | None,
        idle: float | None,
    ) -> Opened:
        """Send a request and return its answer."""
        session = self._session
        if session is None:
            session = self._session = self._new_session()
        response = await session.request(
            method,
            self._url(url),
            headers=headers,
            data=(body if len(body) < LARGE_BODY_BYTES else io.BytesIO(body)) or None,
            allow_redirects=False,
            timeout=self._timeout(connect, idle),
        )

        async def hang_up() -> None:
            response.close()

        names = {name.lower(): value for name, value in response.headers.items()}
        # Read to its end, an answer has given its connection back already.
        return Opened(response.status, names, _parts(response.content), _nothing, hang_up)

    def _new_session(self) -> aiohttp.ClientSession:
        library = self._library
        connector = _hanging_up(library.TCPConnector)
        session: aiohttp.ClientSession = library.ClientSession(
            connector=connector(limit=MAX_CONNECTIONS, keepalive_timeout=KEEPALIVE_SECONDS, ssl=_tls()),
            cookie_jar=library.DummyCookieJar(),
            skip_auto_headers=("Accept-Encoding",),
            max_line_size=MAX_HEADER_BYTES,
            max_field_size=MAX_HEADER_BYTES,
        )
        return session

    def _timeout(self, connect: float | None, idle: float | None) -> aiohttp.ClientTimeout:
        kept = self._timeouts.get((connect, idle))
        if kept is None:
            made = self._library.ClientTimeout(total=None, connect=connect, sock_connect=connect, sock_read=idle)
            kept = self._timeouts[connect, idle] = made
        return kept

    def _url(self, url: httpx.URL) -> yarl.URL:
        """Return a URL in aiohttp's form, without making it anew where it is the same object as before."""
        kept = self._urls.get(id(url))
        if kept is not None and kept[0] is url:
            return kept[1]
        import yarl

        if len(self._urls) >= _URLS:
            self._urls.clear()
        made = yarl.URL(str(url), encoded=True)
        self._urls[id(url)] = url, made
        return made

    async def aclose(self) -> None:
        """Close all connections."""
        if self._session is not None:
            with suppress(Exception):  # whatever it says, nothing of it is used again
                await self._session.close()


@cache
def _hanging_up(base: Any) -> Any:
    class Connector(base):  # type: ignore[misc]  # a class of a library that may be missing
        """Hangs up at once: a connection that is closed politely stays until what it holds is written.

        That is for ever if its provider has stopped to read, whoever was cancelled or timed out meanwhile.
        """

        def _release(self, key: Any, protocol: Any, *, should_close: bool = False) -> None:
            transport = protocol.transport
            if should_close and transport is not None and transport.get_write_buffer_size():
                transport.abort()
            super()._release(key, protocol, should_close=should_close)

    return Connector


async def _nothing() -> None:
    """There is nothing to do."""
