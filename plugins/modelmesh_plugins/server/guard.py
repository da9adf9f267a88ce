"""The outermost layers around the endpoints: web origins, request IDs, keys, and failures that nobody foresaw."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from modelmesh_plugins.server.auth import BearerKeys
from modelmesh_plugins.server.disconnect import CallerGoneError
from modelmesh_plugins.server.dispatch import path_of
from modelmesh_plugins.server.errors import SERVER, ApiError, api_error
from modelmesh_plugins.server.replies import RenderError, json_reply
from modelmesh_plugins.server.settings import HEALTH, is_loopback

logger = logging.getLogger("modelmesh.server")

REQUEST_ID = "modelmesh.request_id"
"""Key of the ASGI scope under which a request's ID stands: the mesh goes by the same one."""


@dataclass(slots=True)
class Activity:
    """What the server is doing.

    Attributes:
        active: Requests running now, those for ``/health`` left out.
        total: Requests so far, likewise.
        started: Monotonic time of the start.
    """

    active: int = 0
    total: int = 0
    started: float = field(default_factory=time.monotonic)

    @property
    def uptime(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started


class Guard:
    """Lets callers with a key through and turns whatever fails behind it into an answer; nothing passes it.

    Args:
        app: What is behind it.
        keys: Who may call.
        activity: Is kept up to date.
        render: Returns an error's body, without secrets.
    """

    def __init__(self, app: ASGIApp, *, keys: BearerKeys, activity: Activity, render: RenderError) -> None:
        self._app = app
        self._keys = keys
        self._activity = activity
        self._render = render

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, whatever happens."""
        if scope["type"] != "http":
            return
        request_id = f"req_{secrets.token_hex(12)}"
        scope[REQUEST_ID] = request_id
        reply = _Reply(send, request_id)
        if path_of(scope) == HEALTH:
            await self._answer(scope, receive, reply)
            return
        self._activity.active += 1
        self._activity.total += 1
        try:
            await self._answer(scope, receive, reply)
        finally:
            self._activity.active -= 1

    async def _answer(self, scope: Scope, receive: Receive, reply: _Reply) -> None:
        try:
            if path_of(scope) != HEALTH:
                self._keys.check(_header(scope, b"authorization"))
            await self._app(scope, receive, reply)
        except CallerGoneError:
            return
        except asyncio.CancelledError:
            # The server stops and has waited long enough. What ran has been cancelled; the caller is told.
            await self._fail(
                scope, receive, reply, ApiError(503, "the server was stopped", kind=SERVER, code="stopped")
            )
        except Exception as error:
            known = api_error(error)
            if known.status == 500:
                logger.error("request %s failed: %s", reply.request_id, type(error).__name__)
                logger.debug("request %s", reply.request_id, exc_info=error)
            await self._fail(scope, receive, reply, known)

    async def _fail(self, scope: Scope, receive: Receive, reply: _Reply, error: ApiError) -> None:
        if reply.started:
            return
        answer = json_reply(self._render(error), status=error.status, headers=error.all_headers())
        await answer(scope, receive, reply)


class _Reply:
    """A ``send`` that notes whether an answer was begun, and gives it a request ID if it has none."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self.request_id = request_id
        self.started = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            MutableHeaders(scope=message).setdefault("x-request-id", self.request_id)
        await self._send(message)


class Origins:
    """Which web pages may call.

    A browser sends the page's origin along. Where no key is asked for, this is all that keeps any page its user
    happens to visit from spending the user's money through ``http://localhost``: then ``*`` means pages of this
    machine, and a page from elsewhere is refused unless its origin is named.

    Args:
        app: What is behind it.
        origins: Origins that may call, ``*`` for any; empty for none.
        keyless: Whether no key is asked for.
        render: Returns an error's body.
    """

    def __init__(self, app: ASGIApp, *, origins: tuple[str, ...], keyless: bool, render: RenderError) -> None:
        self._app = app
        self._named = frozenset(origin.rstrip("/").lower() for origin in origins)
        self._any = "*" in origins
        self._keyless = keyless
        self._render = render

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a browser's preliminary question, or pass the request on."""
        if scope["type"] != "http":
            return
        origin = (_header(scope, b"origin") or b"").decode("latin-1").lower()
        allowed = origin in self._named or (self._any and (not self._keyless or _is_local(origin)))
        if origin and self._keyless and not allowed and not _is_local(origin):
            message = (
                f"pages of {origin} may not call a server without keys; "
                "add the origin to proxy.cors.origins, or set proxy.auth.tokens"
            )
            error = ApiError(403, message, code="origin_not_allowed")
            await json_reply(self._render(error), status=403, headers=error.all_headers())(scope, receive, send)
            return
        headers = self._cors_headers(origin, scope) if origin and allowed else {}

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                found = MutableHeaders(scope=message)
                found.update(headers)
                if origin:
                    found.add_vary_header("Origin")
            await send(message)

        if scope["method"] == "OPTIONS":
            await with_headers({"type": "http.response.start", "status": 204, "headers": []})
            await with_headers({"type": "http.response.body", "body": b""})
            return
        await self._app(scope, receive, with_headers)

    def _cors_headers(self, origin: str, scope: Scope) -> dict[str, str]:
        headers = {
            "access-control-allow-origin": "*" if self._any and not self._keyless else origin,
            "access-control-expose-headers": "x-request-id, retry-after, x-modelmesh-model, x-modelmesh-provider",
        }
        if scope["method"] == "OPTIONS":
            asked = _header(scope, b"access-control-request-headers") or b"authorization, content-type"
            headers |= {
                "access-control-allow-methods": "GET, POST, OPTIONS",
                "access-control-allow-headers": asked.decode("latin-1"),
                "access-control-max-age": "600",
            }
        return headers


def _is_local(origin: str) -> bool:
    """Whether a web origin is a page of this machine."""
    try:
        host = urlsplit(origin).hostname or ""
    except ValueError:
        return False
    return host == "localhost" or host.endswith(".localhost") or is_loopback(host)


def _header(scope: MutableMapping[str, Any], name: bytes) -> bytes | None:
    return Headers(scope=scope).get(name.decode(), "").encode("latin-1") or None
