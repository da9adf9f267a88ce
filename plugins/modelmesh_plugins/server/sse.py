"""Streamed answers as server-sent events, in the shape OpenAI's clients read.

A stream that is whole ends with ``data: [DONE]``. One that fails after its first byte ends with an error event and
without it; one that fails before is an ordinary error answer, which is why nothing is sent until the first chunk is
there, or until the caller has waited long enough to be told that somebody is still at work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import aclosing
from typing import Any

from starlette.types import Receive, Scope, Send

from modelmesh.interfaces.provider import ProviderChunk
from modelmesh.router import RoutedStream
from modelmesh_cdk.json_codec import encode_json
from modelmesh_plugins.server.disconnect import disconnected, end_tasks
from modelmesh_plugins.server.errors import SERVER, ApiError, api_error
from modelmesh_plugins.server.replies import RenderError, answered_by

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"


class ChunkShape:
    """Turns chunks into events; usage comes in one chunk of its own at the end, and only if it was asked for.

    Args:
        routed: Whose chunks they are.
        include_usage: Whether the caller asked for usage.
    """

    def __init__(self, routed: RoutedStream, *, include_usage: bool) -> None:
        self._routed = routed
        self._include_usage = include_usage
        self._usage: dict[str, Any] | None = None
        self._first: dict[str, Any] = {}

    @property
    def has_begun(self) -> bool:
        """Whether a chunk has come."""
        return bool(self._first)

    def events(self, chunk: ProviderChunk) -> Iterator[bytes]:
        """Yield what one chunk becomes: one event, or none if all it held was usage."""
        data = chunk.data
        if not self._first:
            self._first = {
                "id": data.get("id") or self._routed.request_id,
                "object": "chat.completion.chunk",
                "created": data.get("created") or 0,
                "model": data.get("model") or self._routed.model_id,
            }
        usage = data.get("usage")
        if usage:
            self._usage = usage
            if not data.get("choices"):
                return
        elif chunk.raw is not None and _passes_as_it_is(data, chunk.raw):
            yield b"data: %b\n\n" % chunk.raw
            return
        shaped = {**self._first, **{name: value for name, value in data.items() if name != "usage" and value}}
        shaped["object"] = "chat.completion.chunk"
        shaped.setdefault("choices", [])
        yield _event(shaped)

    def end(self) -> Iterator[bytes]:
        """Yield what comes after the last chunk of a whole stream."""
        if self._include_usage:
            yield _event({**self._first, "choices": [], "usage": self._usage or self._counted()})
        yield DONE

    def _counted(self) -> dict[str, Any]:
        """Return the mesh's own count where the provider gave none."""
        attempts = self._routed.receipt.attempts
        tokens_in, tokens_out = (attempts[-1].tokens_in, attempts[-1].tokens_out) if attempts else (0, 0)
        return {
            "prompt_tokens": tokens_in,
            "completion_tokens": tokens_out,
            "total_tokens": tokens_in + tokens_out,
        }


def _passes_as_it_is(data: dict[str, Any], raw: bytes) -> bool:
    """Whether a provider's JSON is one line and has what clients require, so that its bytes can be passed on."""
    return (
        bool(data.get("id") and data.get("model") and "choices" in data and data.get("created") is not None)
        and data.get("object") == "chat.completion.chunk"
        and b"\n" not in raw
        and b"\r" not in raw
    )


def _event(data: dict[str, Any]) -> bytes:
    return b"data: %b\n\n" % encode_json(data)


class EventStream:
    """An ASGI answer that streams.

    Raises:
        ModelMeshError: When called, if the stream failed before anything was sent.

    Args:
        routed: The stream.
        include_usage: Whether the caller asked for usage.
        keep_alive: Seconds of silence after which a comment is sent; 0 for never.
        render: Returns an error's body, without secrets.
    """

    def __init__(self, routed: RoutedStream, *, include_usage: bool, keep_alive: float, render: RenderError) -> None:
        self._routed = routed
        self._shape = ChunkShape(routed, include_usage=include_usage)
        self._keep_alive = keep_alive
        self._render = render
        self._lock = asyncio.Lock()
        self._started = False
        self._ended = False
        self._sent_at = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream until it ends or the caller hangs up."""
        self._sent_at = asyncio.get_running_loop().time()
        pumping = asyncio.create_task(self._pump(send))
        others = [asyncio.create_task(disconnected(receive))]
        if self._keep_alive:
            others.append(asyncio.create_task(self._comment(send)))
        try:
            await asyncio.wait({pumping, others[0]}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            await end_tasks(pumping, *others)
            if self._started and not self._ended:
                await self._fail(send, ApiError(503, "the server was stopped", kind=SERVER, code="stopped"))
            raise
        await end_tasks(*others, *(() if pumping.done() else (pumping,)))
        if not pumping.cancelled():
            pumping.result()

    async def _pump(self, send: Send) -> None:
        """Send chunk after chunk; leaving it in any way closes the provider's connection."""
        try:
            async with aclosing(self._routed.generator) as chunks:
                async for chunk in chunks:
                    for event in self._shape.events(chunk):
                        await self._write(send, event)
            await self._write(send, b"".join(self._shape.end()), last=True)
        except Exception as error:
            if not self._started:
                raise
            await self._fail(send, api_error(error))

    async def _comment(self, send: Send) -> None:
        """Tell a caller who hears nothing that somebody is still at work, and proxies that the connection is alive."""
        loop = asyncio.get_running_loop()
        while True:
            wait = self._sent_at + self._keep_alive - loop.time()
            if wait > 0:
                await asyncio.sleep(wait)
            else:
                await self._write(send, KEEP_ALIVE)

    async def _fail(self, send: Send, error: ApiError) -> None:
        await self._write(send, _event(self._render(error)), last=True)

    async def _write(self, send: Send, data: bytes, *, last: bool = False) -> None:
        async with self._lock:
            if self._ended:
                return
            if not self._started:
                self._started = True
                await send({"type": "http.response.start", "status": 200, "headers": self._headers()})
            self._ended = last
            await send({"type": "http.response.body", "body": data, "more_body": not last})
            self._sent_at = asyncio.get_running_loop().time()

    def _headers(self) -> list[tuple[bytes, bytes]]:
        # Who answers is known once content is there: before it, another model may still take over.
        who = (self._routed.model_id, self._routed.provider_id) if self._shape.has_begun else (None, None)
        named = answered_by(self._routed.request_id, *who)
        return [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-cache"),
            (b"x-accel-buffering", b"no"),
            *((name.encode(), value.encode()) for name, value in named.items()),
        ]
