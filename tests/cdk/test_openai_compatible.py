"""Settings of providers that speak OpenAI's language."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from modelmesh_cdk import OpenAICompatibleConfig


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
