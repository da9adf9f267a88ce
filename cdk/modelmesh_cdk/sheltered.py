"""httpx's own transport, made safe to cancel: its steps run in tasks that no caller can cancel twice.

httpcore closes a connection while the cancellation that ended its request passes through. A second cancellation (a
time limit and a caller that leaves, say) interrupts the closing, and the connection stays open and keeps its place in
the pool for ever: https://github.com/encode/httpcore/issues/1093. Here each step is a task of its own: the caller's
cancellation ends it once, it cleans up in its own time, and further ones meet only the caller.

A single cancellation that comes when the pool has chosen a connection, or has just opened it, leaves it behind as well:
neither idle nor closed, and no request's. Such are looked for after each cancellation, and closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

import httpx

Result = TypeVar("Result")

CLEANING_SECONDS = 1.0
"""How long the end of a transport waits for connections whose requests were cancelled."""


class ShelteredTransport(httpx.AsyncHTTPTransport):
    """httpx's own transport; requests and answers may be cancelled at any moment, any number of times."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._cleaning: set[asyncio.Task[None]] = set()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; its answer's body is sheltered as well."""
        response = await self.shelter(super().handle_async_request(request), httpx.Response.aclose)
        assert isinstance(response.stream, httpx.AsyncByteStream)
        response.stream = _ShelteredStream(self, response.stream)
        return response

    async def aclose(self) -> None:
        """Close all connections, after those whose requests were cancelled a moment ago."""
        if self._cleaning:
            await asyncio.wait(self._cleaning, timeout=CLEANING_SECONDS)
        await super().aclose()

    async def shelter(
        self, step: Coroutine[Any, Any, Result], undo: Callable[[Result], Coroutine[Any, Any, None]] | None = None
    ) -> Result:
        """Await a step in a task of its own.

        Args:
            step: Cancelled once when the caller is, and then left to clean up.
            undo: Called for the result when the step ended well, but too late for the caller.
        """
        task = asyncio.ensure_future(step)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.cancel()
            self.keep(asyncio.ensure_future(self._clean_up(task, undo)))
            raise

    def keep(self, task: asyncio.Task[None]) -> None:
        """Let a task that cleans up run to its end, whoever stops waiting for it."""
        self._cleaning.add(task)
        task.add_done_callback(self._cleaning.discard)

    async def _clean_up(
        self, task: asyncio.Task[Result], undo: Callable[[Result], Coroutine[Any, Any, None]] | None
    ) -> None:
        await asyncio.wait({task})
        if undo is not None and not task.cancelled() and task.exception() is None:
            with suppress(Exception):  # nobody waits for it any more
                await undo(task.result())
        await self._close_orphans()

    async def _close_orphans(self) -> None:
        pool: Any = self._pool  # there is no public way to what has which connection
        held = {id(request.connection) for request in pool._requests}
        for connection in pool.connections:  # a list of its own
            if not (id(connection) in held or connection.is_idle() or connection.is_closed()):
                pool._connections.remove(connection)
                with suppress(Exception):  # it is of no use any more
                    await connection.aclose()


class _ShelteredStream(httpx.AsyncByteStream):
    """The body of an answer, each part read in a task of its own."""

    def __init__(self, transport: ShelteredTransport, stream: httpx.AsyncByteStream) -> None:
        self._transport = transport
        self._stream = stream
        self._reading = asyncio.Lock()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        parts = aiter(self._stream)
        while True:
            try:
                part = await self._transport.shelter(self._next(parts))
            except StopAsyncIteration:
                return
            yield part

    async def _next(self, parts: AsyncIterator[bytes]) -> bytes:
        async with self._reading:
            return await anext(parts)

    async def aclose(self) -> None:
        closing = asyncio.ensure_future(self._close())
        self._transport.keep(closing)
        await asyncio.shield(closing)

    async def _close(self) -> None:
        # A read that was cancelled may still be cleaning up; httpcore wants one at a time.
        async with self._reading:
            with suppress(Exception):  # whatever it was, the connection is of no use any more
                await self._stream.aclose()
