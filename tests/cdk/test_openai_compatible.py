"""Settings of providers that speak OpenAI's language."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from modelmesh.errors import InvalidRequestError, ProviderError
from modelmesh.interfaces.provider import ProviderRequest
from modelmesh_cdk import OpenAICompatibleConfig, OpenAICompatibleProvider


@pytest.mark.parametrize(
    "url",
    ["https://api.groq.com/openai/v1", "http://127.0.0.1:8000", "http://[::1]:8000/v1", "http://my_host.local/v1"],
)
def test_a_web_address_is_taken_as_it_is(url: str) -> None:
    """Hosts, addresses and ports of every kind."""
    assert OpenAICompatibleConfig(base_url=url).base_url == url


@pytest.mark.parametrize(
    "url",
    ["api.groq.com", "ftp://api.groq.com", "http://[::1", "http://host:999999/v1", "http://a b/v1", "", "https://"],
)
def test_what_is_no_web_address_is_refused(url: str) -> None:
    """A scheme is not guessed either: with http the key would be sent for everybody to read."""
    with pytest.raises(ValidationError, match="must be an http or https URL"):
        OpenAICompatibleConfig(base_url=url)


@pytest.mark.parametrize(
    "settings",
    [
        {"api_key": "key\n"},
        {"api_key": " key"},
        {"api_key": "kéy"},
        {"headers": {"x-team": "a\nb"}},
        {"headers": {"x team": "a"}},
    ],
    ids=["line-end", "space", "no-ascii", "header-of-two-lines", "name-with-a-space"],
)
def test_what_no_header_can_hold_is_refused_before_the_first_request(settings: dict[str, Any]) -> None:
    """The usual case is a key file that ends with a line end; the message does not show what it is about."""
    with pytest.raises(ValidationError) as caught:
        OpenAICompatibleConfig(base_url="http://127.0.0.1:1", **settings)

    assert "kéy" not in str(caught.value)
    assert "holds a" in str(caught.value)


@pytest.mark.parametrize(
    ("error", "status", "expected"),
    [
        ({"retryable_codes": [418]}, 418, True),
        ({"retryable_codes": [404]}, 404, True),
        ({"retryable_codes": [403]}, 403, True),
        ({"non_retryable_codes": [503]}, 503, False),
        ({"retryable_codes": [418]}, 503, None),
    ],
    ids=["may pass", "no mistake", "no wrong key", "may not", "not listed"],
)
def test_the_settings_say_what_a_status_means(error: dict[str, Any], status: int, expected: bool | None) -> None:
    """Of a status they do not list they say nothing."""
    config = OpenAICompatibleConfig.model_validate({"base_url": "http://127.0.0.1:1", "error": error})
    transport = httpx.MockTransport(lambda _: httpx.Response(status))

    with pytest.raises(ProviderError) as caught:
        asyncio.run(OpenAICompatibleProvider(config, transport=transport).complete(ProviderRequest("m", payload={})))

    assert caught.value.retryable_by_settings is expected
    assert caught.value.category not in ("client_error", "auth")
    assert expected is None or caught.value.retryable is expected


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"max_retries": 3}, "must be 0: the mesh itself repeats calls; set retry.max_attempts in the pool"),
        ({"error": {"retryable_codes": [503], "non_retryable_codes": [503]}}, "503 stands in retryable_codes and in"),
        ({"error": {"retryable_codes": [9]}}, "greater than or equal to 100"),
    ],
    ids=["retries", "both lists", "no status"],
)
def test_what_the_mesh_could_not_keep_to_is_refused(settings: dict[str, Any], said: str) -> None:
    """With what to write in its place."""
    with pytest.raises(ValidationError, match=said):
        OpenAICompatibleConfig.model_validate({"base_url": "http://127.0.0.1:1", **settings})


@pytest.mark.parametrize(
    ("parameter", "words"),
    [
        ({1, 2}, "set is not JSON serializable"),
        ({(1, 2): 3}, "keys must be str"),
        (b"raw", "bytes is not"),
        ([1.0, {"weight": math.nan}], r"metadata\[1\].weight is not a finite number"),
        ([math.inf, 2**70], r"metadata\[0\] is not a finite number"),
    ],
    ids=["set", "key", "bytes", "nan", "infinity"],
)
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
def test_what_json_has_no_form_for_is_the_callers_mistake(parameter: Any, words: str, streamed: bool) -> None:
    """Taken for the provider's, a few such requests would put a sound model to rest."""
    provider = OpenAICompatibleProvider(OpenAICompatibleConfig(base_url="http://127.0.0.1:1"))
    request = ProviderRequest("m", {"messages": [], "metadata": parameter}, stream=streamed)

    async def ask() -> None:
        if not streamed:
            await provider.complete(request)
        async for _ in provider.stream(request):
            pass

    with pytest.raises(InvalidRequestError, match=words):
        asyncio.run(ask())
