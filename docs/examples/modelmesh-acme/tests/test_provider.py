"""The provider: what Acme is asked, what becomes of its answers, and what its faults mean."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import httpx
import pytest
from modelmesh_acme.provider import AcmeConfig, AcmeProvider
from pydantic import ValidationError

from modelmesh.errors import (
    AuthenticationError,
    ContextLengthError,
    InvalidRequestError,
    MalformedResponseError,
    ProviderConnectionError,
    ProviderError,
    ProviderServerError,
    QuotaExhaustedError,
    RateLimitError,
    StreamInterruptedError,
    UnsupportedRequestError,
)
from modelmesh.interfaces.provider import ProviderChunk, ProviderRequest


async def collect(acme: AcmeProvider, request: ProviderRequest) -> list[ProviderChunk]:
    """Return a whole stream."""
    request.stream = True
    return [chunk async for chunk in acme.stream(request)]


def test_an_answer_has_text_tokens_and_a_finish_reason(acme: AcmeProvider, hello: ProviderRequest) -> None:
    """What Acme says comes back in OpenAI's shape."""
    response = asyncio.run(acme.complete(hello))

    assert response.data["choices"][0] == {
        "index": 0,
        "message": {"role": "assistant", "content": "hello"},
        "finish_reason": "stop",
    }
    assert response.data["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def test_messages_become_turns(acme: AcmeProvider, api: Any) -> None:
    """Roles, text parts and limits are said in Acme's words, and the key goes in its header."""
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]},
    ]
    payload = {"messages": messages, "max_tokens": 7, "temperature": 0.5}

    asyncio.run(acme.complete(ProviderRequest("acme-swift", payload)))

    assert api.last_body() == {
        "engine": "acme-swift",
        "tone": "plain",
        "turns": [{"who": "guide", "says": "be brief"}, {"who": "person", "says": "hello"}],
        "words_out": 7,
        "warmth": 0.5,
    }
    assert str(api.requests[-1].url) == "http://acme.test/v2/converse"
    assert api.requests[-1].headers["x-acme-key"].startswith("acme-canary")


def test_a_stream_adds_up_to_the_answer(acme: AcmeProvider, hello: ProviderRequest) -> None:
    """The pieces join to the text, and the last chunk ends it with its tokens."""
    chunks = asyncio.run(collect(acme, hello))

    assert "".join(chunk.text for chunk in chunks) == "hello"
    assert [chunk.finish_reason for chunk in chunks] == [None, None, "stop"]
    assert chunks[0].data["choices"][0]["delta"]["role"] == "assistant"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 5


def test_a_stream_without_its_end_is_cut(acme: AcmeProvider, api: Any, hello: ProviderRequest) -> None:
    """Only Acme's own word makes an answer whole; the error holds what had arrived."""
    api.lines({"says": "hel"})

    with pytest.raises(StreamInterruptedError) as caught:
        asyncio.run(collect(acme, hello))

    assert caught.value.partial == "hel"


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ({"fault": {"kind": "busy", "says": "wait"}}, RateLimitError),
        ({"fault": {"kind": "earthquake"}}, ProviderServerError),
        ("not json", MalformedResponseError),
        ([1], MalformedResponseError),
        ({"says": 5}, MalformedResponseError),
    ],
    ids=["fault", "unknown-fault", "no-json", "no-object", "no-text"],
)
def test_trouble_inside_a_stream_is_an_error(
    acme: AcmeProvider, api: Any, hello: ProviderRequest, line: object, kind: type[ProviderError]
) -> None:
    """What is wrong after the status line is raised as what it means."""
    api.lines({"says": "hel"}, line)

    with pytest.raises(kind):
        asyncio.run(collect(acme, hello))


@pytest.mark.parametrize(
    ("status", "fault", "kind"),
    [
        (401, "bad_key", AuthenticationError),
        (429, "overdrawn", QuotaExhaustedError),
        (400, "too_long", ContextLengthError),
        (400, "misspoken", InvalidRequestError),
        (404, "no_such_engine", UnsupportedRequestError),
        (503, "earthquake", ProviderServerError),
    ],
)
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_a_fault_is_the_error_it_means(
    acme: AcmeProvider,
    api: Any,
    hello: ProviderRequest,
    status: int,
    fault: str,
    kind: type[ProviderError],
    streamed: bool,
) -> None:
    """Each kind of fault blames whom it should; an unknown kind goes by its status."""
    api.fault(status, fault)

    with pytest.raises(kind) as caught:
        asyncio.run(collect(acme, hello) if streamed else acme.complete(hello))

    assert caught.value.status_code == status


def test_a_busy_acme_says_how_long(acme: AcmeProvider, api: Any, hello: ProviderRequest) -> None:
    """Acme's milliseconds become seconds."""
    api.fault(429, "busy", wait_ms=1500)

    with pytest.raises(RateLimitError) as caught:
        asyncio.run(acme.complete(hello))

    assert caught.value.retry_after == 1.5
    assert caught.value.retryable


def test_a_refused_connection_may_be_rotated(acme: AcmeProvider, api: Any, hello: ProviderRequest) -> None:
    """A transport failure surfaces as an error of the provider's."""

    def refuse(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    api.answer = refuse

    with pytest.raises(ProviderConnectionError) as caught:
        asyncio.run(acme.complete(hello))

    assert caught.value.retryable


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"says": null}'], ids=["html", "list", "no-text"])
def test_nonsense_with_status_200_is_malformed(
    acme: AcmeProvider, api: Any, hello: ProviderRequest, body: bytes
) -> None:
    """A body that is no answer is never taken for one."""
    api.answer = lambda _: httpx.Response(200, content=body)

    with pytest.raises(MalformedResponseError):
        asyncio.run(acme.complete(hello))


@pytest.mark.parametrize(
    "more",
    [
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"n": 2},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        {"messages": [{"role": "tool", "content": "4"}]},
    ],
    ids=["tools", "n", "image", "tool-result"],
)
def test_what_acme_cannot_do_is_refused_before_the_call(
    acme: AcmeProvider, api: Any, hello: ProviderRequest, more: dict[str, Any]
) -> None:
    """Such a request goes to a model that can, and costs Acme nothing."""
    request = ProviderRequest("acme-swift", {**hello.payload, **more})

    with pytest.raises(UnsupportedRequestError, match="acme"):
        asyncio.run(acme.complete(request))

    assert api.requests == []


def test_models_are_known_ones_and_new_ones(acme: AcmeProvider) -> None:
    """Engines of this release come with prices, later ones without."""
    models = asyncio.run(acme.list_models())

    assert [model.id for model in models] == ["acme-swift", "acme-next"]
    assert [model.pricing is not None for model in models] == [True, False]


def test_the_key_shows_nowhere(acme: AcmeProvider, api: Any, hello: ProviderRequest) -> None:
    """Neither the provider, nor its settings, nor an error, nor a refused setting prints it."""
    api.fault(401, "bad_key")

    with pytest.raises(AuthenticationError) as caught:
        asyncio.run(acme.complete(hello))
    with pytest.raises(ValidationError) as misspelt:
        AcmeConfig.model_validate({"api_kee": "acme-canary"})

    assert "acme-canary" not in f"{acme!r} {acme.config!r} {caught.value!r} {misspelt.value}"


class Endless(httpx.AsyncByteStream):
    """A body that never ends, and knows whether it was closed."""

    closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            yield b'{"says": "on and '
            yield b'on "}\n'

    async def aclose(self) -> None:
        self.closed = True


def test_closing_a_stream_hangs_up(acme: AcmeProvider, api: Any, hello: ProviderRequest) -> None:
    """Who has heard enough closes the generator, and with it the connection to Acme."""
    body = Endless()
    api.answer = lambda _: httpx.Response(200, stream=body)

    async def first() -> ProviderChunk:
        async with aclosing(acme.stream(hello)) as chunks:
            return await anext(chunks)

    chunk = asyncio.run(first())

    assert chunk.text == "on and on "
    assert body.closed
