"""How a key is sent, on the wire and in the configuration."""

from __future__ import annotations

import asyncio
import base64
import traceback
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from pydantic import SecretStr, ValidationError

from modelmesh.errors import ProviderError
from modelmesh.interfaces.provider import ProviderRequest
from modelmesh_cdk import OpenAICompatibleConfig, OpenAICompatibleProvider
from modelmesh_cdk.authentication import AuthConfig
from modelmesh_cdk.testing import FaultServer, refused_url

KEY = "sk-canary-4Tq9ZbW2"
REQUEST = ProviderRequest("m", payload={"messages": [{"role": "user", "content": "hi"}]})


def sent(auth: dict[str, Any], key: str = KEY, **settings: Any) -> httpx.Request:
    """Return what goes out for one chat."""
    config = OpenAICompatibleConfig.model_validate(
        {"base_url": "http://127.0.0.1:1", "api_key": key, "auth": auth, **settings}
    )
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json={"choices": [{"message": {"content": "hello"}}]})

    asyncio.run(OpenAICompatibleProvider(config, transport=httpx.MockTransport(answer)).complete(REQUEST))
    return seen[0]


def basic(pair: str) -> str:
    """Return the header of a name and a password."""
    return f"Basic {base64.b64encode(pair.encode()).decode()}"


@pytest.mark.parametrize(
    ("auth", "name", "value"),
    [
        ({}, "authorization", f"Bearer {KEY}"),
        ({"method": "bearer"}, "authorization", f"Bearer {KEY}"),
        ({"method": "api_key"}, "authorization", f"Bearer {KEY}"),
        ({"method": "header", "name": "Api-Key"}, "api-key", KEY),
        ({"method": "header", "name": "Authorization", "prefix": "Token "}, "authorization", f"Token {KEY}"),
        ({"method": "basic", "username": "ann"}, "authorization", basic(f"ann:{KEY}")),
        ({"method": "basic"}, "authorization", basic(f":{KEY}")),
    ],
    ids=["default", "bearer", "api_key", "header", "prefix", "basic", "basic without a name"],
)
def test_the_key_goes_where_the_method_says(auth: dict[str, Any], name: str, value: str) -> None:
    """In one header, and in no other part of the request."""
    request = sent(auth)

    assert request.headers[name] == value
    assert [each for each in request.headers if KEY in request.headers[each]] in ([name], [])
    assert KEY not in str(request.url)


def test_a_key_in_the_url_stands_beside_other_parameters() -> None:
    """It is quoted as URLs are."""
    request = sent({"method": "query", "name": "key"}, "a&b=c/d+e", query={"api-version": "1"})

    assert parse_qs(urlsplit(str(request.url)).query) == {"api-version": ["1"], "key": ["a&b=c/d+e"]}
    assert "authorization" not in request.headers


@pytest.mark.parametrize(
    "auth", [{"method": "none"}, {"method": "header", "name": "x"}, {"method": "query", "name": "k"}]
)
def test_nothing_is_sent_where_there_is_nothing_to_send(auth: dict[str, Any]) -> None:
    """An empty key is no key; none means none even where there is one."""
    request = sent(auth, KEY if auth["method"] == "none" else "")

    assert "authorization" not in request.headers
    assert "x" not in request.headers
    assert request.url.query == b""


def test_a_header_that_is_written_out_wins() -> None:
    """It is the more exact of the two."""
    assert sent({}, headers={"Authorization": "Custom abc"}).headers["authorization"] == "Custom abc"


@pytest.mark.parametrize(
    ("auth", "said"),
    [
        ({"method": "header"}, "method header needs name, such as api-key"),
        ({"method": "query"}, "method query needs name, such as key"),
        ({"method": "header", "name": "x y"}, "no header's name can"),
        ({"method": "header", "name": "x", "prefix": "a\n"}, "holds a line end"),
        ({"method": "basic", "username": "a:b"}, "holds a colon"),
        ({"method": "bearer", "name": "x"}, "method bearer does not read name; remove it or change the method"),
        ({"method": "query", "name": "x", "prefix": "y"}, "method query does not read prefix"),
        ({"method": "oauth"}, "is not supported yet"),
        ({"method": "service_account"}, "is not supported yet"),
        ({"method": "digest"}, "Input should be 'bearer', 'header', 'query', 'basic'"),
        ({"key_rotation": True}, "is not supported yet"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_could_not_work_is_refused(auth: dict[str, Any], said: str) -> None:
    """Before the first request, with what to do."""
    with pytest.raises(ValidationError, match=said.replace("(", r"\(")):
        AuthConfig.model_validate(auth)


def test_a_method_without_a_key_is_refused() -> None:
    """Whoever says how a key is sent has forgotten it; an empty one is said on purpose."""
    settings = {"base_url": "http://127.0.0.1:1", "auth": {"method": "header", "name": "api-key"}}

    with pytest.raises(ValidationError, match="add api_key"):
        OpenAICompatibleConfig.model_validate(settings)
    assert OpenAICompatibleConfig.model_validate({**settings, "api_key": ""}).api_key == SecretStr("")
    for auth in ({"method": "none"}, {"method": "basic", "username": "ann"}):
        OpenAICompatibleConfig.model_validate({**settings, "auth": auth})


def test_a_key_in_the_url_stands_in_no_exception() -> None:
    """Neither in a text nor in the locals of a frame."""
    with FaultServer([500]) as server:
        shown = [failure(server.url), failure(refused_url())]

    assert [KEY for text in shown if KEY in text] == []


def failure(url: str) -> str:
    """Return all that a report of a failed call shows."""
    config = OpenAICompatibleConfig.model_validate(
        {"base_url": url, "api_key": KEY, "auth": {"method": "query", "name": "key"}}
    )

    async def ask() -> str:
        provider = OpenAICompatibleProvider(config)
        try:
            await provider.complete(REQUEST)
        except ProviderError as error:
            report = traceback.TracebackException.from_exception(error, capture_locals=True)
            return "".join(report.format())
        finally:
            await provider.close()
        raise AssertionError("the call did not fail")

    return asyncio.run(ask())
