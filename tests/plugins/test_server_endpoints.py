"""What of a request over HTTP reaches the provider, and what does not."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from modelmesh.mesh import ModelMesh
from modelmesh_cdk.testing import ScriptedProvider
from modelmesh_plugins.server.app import create_app
from modelmesh_plugins.server.replies import answered_by

BODY: dict[str, Any] = {"model": "chat", "messages": [{"role": "user", "content": "hello"}]}
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def provider() -> ScriptedProvider:
    """Keeps what it is asked."""
    return ScriptedProvider()


@pytest.fixture
def mesh(provider: ScriptedProvider) -> Iterator[ModelMesh]:
    """A mesh on that provider."""
    with ModelMesh(environ={}) as mesh:
        mesh.initialize(
            {
                "providers": {"scripted": {"instance": provider}},
                "models": {"m": {"provider": "scripted", "capabilities": ["chat-completion"]}},
                "pools": {"chat": {"capability": "chat-completion"}},
            }
        )
        yield mesh


def ask(mesh: ModelMesh, body: dict[str, Any], **headers: str) -> httpx.Response:
    """Ask for a chat in this process."""

    async def asking() -> httpx.Response:
        transport = httpx.ASGITransport(create_app(mesh))
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as http:
            return await http.post("/v1/chat/completions", json=body, headers=headers)

    return asyncio.run(asking())


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
def test_the_body_reaches_the_provider_but_for_model_and_stream(
    mesh: ModelMesh, provider: ScriptedProvider, stream: bool
) -> None:
    """Those two are the mesh's to say; the rest is passed on, known or not."""
    ask(mesh, {**BODY, "stream": stream, "temperature": 0.5, "x_vendor": [1]})

    (request,) = provider.requests
    assert request.payload == {"messages": BODY["messages"], "temperature": 0.5, "x_vendor": [1]}
    assert request.stream is stream


@pytest.mark.parametrize(
    ("body", "headers", "session"),
    [
        ({}, {"x-session-id": "s1"}, "s1"),
        ({"user": "u1"}, {}, "u1"),
        ({"metadata": {"session_id": "s2"}, "user": "u1"}, {}, "s2"),
        ({"user": "u1"}, {"x-session-id": "s1"}, "s1"),
        ({}, {}, None),
        ({"metadata": {"session_id": 7}}, {}, None),
    ],
    ids=["header", "user", "metadata before user", "header before all", "none", "no text"],
)
def test_a_session_is_known_by_header_or_body(
    mesh: ModelMesh,
    provider: ScriptedProvider,
    body: dict[str, Any],
    headers: dict[str, str],
    session: str | None,
) -> None:
    """For strategies that keep a session with its model."""
    ask(mesh, {**BODY, **body}, **headers)

    assert provider.requests[0].metadata.get("session_id") == session


def test_of_the_callers_headers_only_trace_context_is_passed_on(mesh: ModelMesh, provider: ScriptedProvider) -> None:
    """Above all not the caller's key."""
    ask(mesh, BODY, traceparent=TRACE, tracestate="a=b", authorization="Bearer callers-key", cookie="c=d")

    assert provider.requests[0].headers == {"traceparent": TRACE, "tracestate": "a=b"}


def test_a_name_that_no_header_can_hold_is_spelt_so_that_one_can() -> None:
    """Models may be named in any script, and never break out of their header."""
    headers = answered_by("req_1", "модель", "p\r\nx-other: 1")

    assert headers["x-modelmesh-model"] == "%D0%BC%D0%BE%D0%B4%D0%B5%D0%BB%D1%8C"
    assert headers["x-modelmesh-provider"] == "p%0D%0Ax-other: 1"
