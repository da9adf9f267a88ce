"""Bodies are checked before a provider sees them."""

from __future__ import annotations

from typing import Any

import pytest

from modelmesh_plugins.server.body import REFUSED, check_chat, check_embeddings
from modelmesh_plugins.server.errors import ApiError

CHAT: dict[str, Any] = {"model": "chat", "messages": [{"role": "user", "content": "hi"}]}

WRONG_CHATS: dict[str, tuple[dict[str, Any], str, str]] = {
    "no model": ({"model": None}, "model", "it is missing"),
    "empty model": ({"model": " "}, "model", "must be the name"),
    "model of a wrong type": ({"model": 7}, "model", "it is a number"),
    "no messages": ({"messages": None}, "messages", "it is missing"),
    "empty messages": ({"messages": []}, "messages", "with nothing in it"),
    "a message that is text": ({"messages": ["hi"]}, "messages[0]", "it is a string"),
    "a message without a role": ({"messages": [{"content": "hi"}]}, "messages[0].role", "it is missing"),
    "content that is a number": ({"messages": [{"role": "user", "content": 1}]}, "messages[0].content", "a number"),
    "stream as text": ({"stream": "true"}, "stream", "must be true or false"),
    "output below one": ({"max_tokens": -5}, "max_tokens", "at least 1; it is a number, -5"),
    "temperature as text": ({"temperature": "hot"}, "temperature", "must be a number"),
    "temperature as a boolean": ({"temperature": True}, "temperature", "it is a boolean"),
    "no tokens": ({"max_tokens": 0}, "max_tokens", "at least 1"),
    "half a token": ({"max_completion_tokens": 0.5}, "max_completion_tokens", "whole number"),
    "stop of numbers": ({"stop": [1]}, "stop", "a list of strings"),
    "tools as an object": ({"tools": {"type": "function"}}, "tools", "must be a list"),
    "a tool as text": ({"tools": ["weather"]}, "tools[0]", "must be an object"),
    "usage of no stream": ({"stream_options": {"include_usage": True}}, "stream_options", "'stream': true"),
}


@pytest.mark.parametrize(("changes", "param", "said"), WRONG_CHATS.values(), ids=WRONG_CHATS)
def test_a_wrong_chat_is_refused_by_field(changes: dict[str, Any], param: str, said: str) -> None:
    """400 names the field, what it must be and what it is, never its value."""
    with pytest.raises(ApiError) as caught:
        check_chat({**CHAT, **changes})

    assert (caught.value.status, caught.value.param) == (400, param)
    assert said in caught.value.message


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"temperature": None, "stop": None, "stream": None},
        {"messages": [{"role": "assistant", "content": None, "tool_calls": []}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]},
        {"stop": "end", "tools": [], "tool_choice": "auto", "temperature": 1},
        {"stream": True, "stream_options": {"include_usage": False}},
        {"x_vendor": {"anything": 1}},
    ],
    ids=["least", "nulls", "no content", "parts", "all kinds", "usage", "unknown field"],
)
def test_a_right_chat_passes(changes: dict[str, Any]) -> None:
    """Null is as good as absent, and fields nobody knows here are the provider's matter."""
    check_chat({**CHAT, **changes})


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_no_field_redirects_a_request(name: str) -> None:
    """For chats and embeddings alike, whatever the value."""
    for check, body in ((check_chat, CHAT), (check_embeddings, {"model": "embed", "input": "x"})):
        with pytest.raises(ApiError, match="configuration") as caught:
            check({**body, name: None})
        assert (caught.value.status, caught.value.code, caught.value.param) == (400, "field_not_allowed", name)


@pytest.mark.parametrize("given", ["text", ["a", "b"], [1, 2], [[1], [2, 3]]], ids=repr)
def test_texts_and_tokens_can_be_embedded(given: Any) -> None:
    """All four forms of OpenAI's API."""
    check_embeddings({"model": "embed", "input": given})


@pytest.mark.parametrize("given", [None, "", [], 7, {}, ["a", 1], [[1], ["a"]], [[]], [True]], ids=repr)
def test_nothing_else_can_be_embedded(given: Any) -> None:
    """400 names the field."""
    with pytest.raises(ApiError) as caught:
        check_embeddings({"model": "embed", "input": given})

    assert caught.value.param == "input"
