"""A request that no model of its pool can have an answer to is refused before anybody is asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from modelmesh.errors import UnsupportedRequestError

Build = Callable[..., Any]
BODIES: dict[str, dict[str, Any]] = {
    "chat": {"messages": [{"role": "user", "content": "hi"}]},
    "embeddings": {"input": "hi"},
    "image": {"prompt": "a cat"},
}
EVERYTHING = {"pools": {"pool": {"models": ["a", "b"]}}}


def ask(build: Build, operation: str, first: list[str], second: list[str]) -> Any:
    """Ask a pool of two models with these capabilities; return the world."""
    models = {name: {"provider": name, "capabilities": each} for name, each in (("a", first), ("b", second))}
    world = build(providers={"a": [], "b": []}, models=models, **EVERYTHING)
    world.run(world.router.execute(operation, "pool", BODIES[operation]))
    return world


@pytest.mark.parametrize(
    ("operation", "first", "second", "said"),
    [
        (
            "embeddings",
            ["chat-completion"],
            ["code-generation"],
            "chat-completion, code-generation; ask a pool of text-",
        ),
        ("chat", ["text-embeddings"], ["image-embeddings"], "image-embeddings, text-embeddings; ask a pool of chat-"),
    ],
    ids=["embeddings", "chat"],
)
def test_what_no_model_was_declared_for_is_refused(
    build: Build, operation: str, first: list[str], second: list[str], said: str
) -> None:
    """With what they were declared for and where to ask instead."""
    with pytest.raises(UnsupportedRequestError, match=f"takes {operation} requests; .* {said}"):
        ask(build, operation, first, second)


@pytest.mark.parametrize(
    ("operation", "first", "second"),
    [
        ("embeddings", ["text-embeddings"], ["chat-completion"]),
        ("embeddings", ["chat-completion", "text-embeddings"], ["chat-completion"]),
        ("embeddings", ["chat-completion"], ["text-embeddings"]),
        ("embeddings", ["semantic-search"], ["chat-completion"]),
        ("chat", ["text-to-image"], ["text-embeddings"]),
        ("image", ["chat-completion"], ["text-embeddings"]),
    ],
    ids=["declared", "both", "another one", "who knows", "pictures from chats", "another operation"],
)
def test_what_may_be_answered_is_sent(build: Build, operation: str, first: list[str], second: list[str]) -> None:
    """A wrong refusal would cost more than a provider's."""
    world = ask(build, operation, first, second)

    assert world.calls("a") + world.calls("b") >= 1


def test_a_model_that_rests_is_no_reason_to_refuse(build: Build) -> None:
    """Another request will find it."""
    models = {
        "a": {"provider": "a", "capabilities": ["chat-completion"]},
        "b": {"provider": "b", "capabilities": ["text-embeddings"]},
    }
    world = build(providers={"a": [], "b": []}, models=models, **EVERYTHING)
    world.router.get_pool("pool").deactivate(world.member("b", "pool").model)

    world.run(world.router.execute("embeddings", "pool", BODIES["embeddings"]))

    assert world.calls("a") == 1
