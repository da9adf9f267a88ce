"""Which web pages may call, and what the outermost layers do with whatever fails."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from modelmesh_plugins.server.auth import BearerKeys
from modelmesh_plugins.server.errors import ApiError
from modelmesh_plugins.server.guard import Activity, Guard, Origins

PREFLIGHT = {"access-control-request-method": "POST", "access-control-request-headers": "authorization, x-stainless-os"}


async def _ok(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("ok")(scope, receive, send)


def ask(app: Any, method: str = "POST", path: str = "/v1/chat/completions", **headers: str) -> httpx.Response:
    """Ask an application in this process."""

    async def asking() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server") as http:
            return await http.request(method, path, headers=headers)

    return asyncio.run(asking())


def origins(*allowed: str, keyless: bool) -> Origins:
    """Build the layer around an application that is always content."""
    return Origins(_ok, origins=allowed, keyless=keyless, render=ApiError.body)


# --- origins ------------------------------------------------------------------------


@pytest.mark.parametrize("origin", ["https://evil.test", "null", "http://localhost.evil.test", "http://[", "file://"])
@pytest.mark.parametrize("allowed", ["*", "https://app.test"])
def test_without_keys_a_page_from_elsewhere_is_refused(origin: str, allowed: str) -> None:
    """Any page a browser visits could otherwise spend the user's money through localhost."""
    answer = ask(origins(allowed, keyless=True), origin=origin)

    assert answer.status_code == 403
    assert answer.json()["error"]["code"] == "origin_not_allowed"
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    "origin", ["http://localhost:3000", "http://127.0.0.1:5173", "http://[::1]:8080", "http://app.localhost"]
)
def test_without_keys_pages_of_this_machine_may_call(origin: str) -> None:
    """They get their own origin back, not a wildcard."""
    answer = ask(origins("*", keyless=True), origin=origin)

    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == origin
    assert answer.headers["vary"] == "Origin"


def test_without_keys_a_named_origin_may_call() -> None:
    """Whoever names it means it."""
    answer = ask(origins("https://app.test/", keyless=True), origin="https://app.test")

    assert answer.headers["access-control-allow-origin"] == "https://app.test"


def test_with_keys_any_page_may_call() -> None:
    """The key is what keeps strangers out."""
    answer = ask(origins("*", keyless=False), origin="https://app.test")

    assert answer.headers["access-control-allow-origin"] == "*"
    assert "x-request-id" in answer.headers["access-control-expose-headers"]


def test_with_keys_a_page_that_is_not_named_reads_nothing() -> None:
    """The browser withholds the answer without the header."""
    answer = ask(origins("https://app.test", keyless=False), origin="https://other.test")

    assert "access-control-allow-origin" not in answer.headers


def test_programs_send_no_origin_and_notice_nothing() -> None:
    """No header of all this is added."""
    answer = ask(origins("*", keyless=True))

    assert answer.status_code == 200
    assert not [name for name in answer.headers if name.startswith(("access-control", "vary"))]


def test_a_preliminary_question_is_answered_without_the_endpoint() -> None:
    """204 allows the methods, and the headers that were asked about."""
    answer = ask(origins("*", keyless=False), "OPTIONS", **{"origin": "https://app.test", **PREFLIGHT})

    assert answer.status_code == 204
    assert answer.headers["access-control-allow-headers"] == PREFLIGHT["access-control-request-headers"]
    assert "POST" in answer.headers["access-control-allow-methods"]


# --- the guard ----------------------------------------------------------------------


def guard(app: Any, *keys: str, activity: Activity | None = None) -> Guard:
    """Put the guard before an application."""
    bearer = BearerKeys(SecretStr(key) for key in keys)
    return Guard(app, keys=bearer, activity=activity or Activity(), render=ApiError.body)


def test_without_a_key_nothing_behind_the_guard_is_called() -> None:
    """Not even to say that a path is not there."""
    assert ask(guard(_ok, "k"), path="/anything").status_code == 401
    assert ask(guard(_ok, "k"), path="/anything", authorization="Bearer k").status_code == 200


def test_health_is_free_and_not_counted() -> None:
    """A container's health check has no key and is nobody's request."""
    activity = Activity()

    answer = ask(guard(_ok, "k", activity=activity), "GET", "/health")

    assert answer.status_code == 200
    assert (activity.active, activity.total) == (0, 0)


def test_requests_are_counted_whatever_becomes_of_them() -> None:
    """One that fails is over as well."""
    activity = Activity()

    async def failing(scope: Scope, receive: Receive, send: Send) -> None:
        assert activity.active == 1
        raise ZeroDivisionError

    assert ask(guard(failing, activity=activity)).status_code == 500
    assert (activity.active, activity.total) == (0, 1)


def test_an_answer_that_was_begun_is_not_begun_again() -> None:
    """A failure after it can only end it."""

    async def half(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": False})
        raise ZeroDivisionError

    answer = ask(guard(half))

    assert (answer.status_code, answer.text) == (200, "half")


def test_every_answer_has_a_request_id_of_its_own() -> None:
    """Two requests, two IDs."""
    first, second = ask(guard(_ok)).headers["x-request-id"], ask(guard(_ok)).headers["x-request-id"]

    assert first.startswith("req_")
    assert first != second
