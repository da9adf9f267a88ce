"""From the name a caller asks for to the pools that may serve it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from modelmesh.errors import CapabilityNotFoundError

Build = Callable[..., Any]
CHAT = "generation.text-generation.chat-completion"
CODE = "generation.text-generation.code-generation"


def two_levels(build: Build, **rest: Any) -> Any:
    """A pool on the whole of text generation, and one on chat only; ``a`` chats, ``b`` writes code."""
    return build(
        providers={"acme": []},
        models={
            "a": {"provider": "acme", "capabilities": ["chat-completion"]},
            "b": {"provider": "acme", "capabilities": ["code-generation"]},
        },
        pools=rest.pop("pools", {"text": {"capability": "text-generation"}, "chat": {"capability": "chat-completion"}}),
    )


def resolve(world: Any, name: str) -> list[str]:
    """Names of the pools that may serve a name, the best first."""
    return [pool.name for pool in world.mesh.get_router().pipeline.get_stages()[0].resolver.resolve(name)]


@pytest.mark.parametrize(
    ("name", "pools"),
    [
        ("text", ["text"]),
        ("chat-completion", ["chat", "text"]),
        (CHAT, ["chat", "text"]),
        ("generation.chat-completion", ["chat", "text"]),
        ("code-generation", ["text"]),
        ("generation", ["text", "chat"]),
        ("b", ["text"]),
        ("a", ["text", "chat"]),
    ],
    ids=["pool", "leaf", "path", "short-path", "ancestor", "category", "model", "model-in-two"],
)
def test_a_name_stands_for_pools_the_most_specific_first(build: Build, name: str, pools: list[str]) -> None:
    """Pool names first, then the capability with its ancestors, then those below it, then models."""
    assert resolve(two_levels(build), name) == pools


def test_a_leaf_is_served_by_models_of_that_leaf_only(build: Build) -> None:
    """A pool above may hold others; they are no candidates."""
    world = two_levels(build, pools={"text": {"capability": "text-generation"}})

    whole, leaf = world.router.route("text"), world.router.route("code-generation")

    assert (whole.model_id, whole.fallback_chain) == ("a", ["b"])
    assert (leaf.model_id, leaf.fallback_chain) == ("b", [])


def test_a_models_name_reaches_that_model_only(build: Build) -> None:
    """Who names a real model gets it or nobody."""
    decision = two_levels(build).router.route("b")

    assert (decision.model_id, decision.pool_id, decision.fallback_chain) == ("b", "text", [])


def test_models_names_can_be_switched_off(build: Build) -> None:
    """Then callers know pools and capabilities only."""
    world = two_levels(build)
    resolver = world.router.pipeline.get_stages()[0].resolver
    resolver._allow_model_names = False

    with pytest.raises(CapabilityNotFoundError) as caught:
        world.router.route("b")

    assert "text" in str(caught.value)


def test_priority_decides_between_pools_of_one_capability(build: Build) -> None:
    """Higher first, equal ones as configured."""
    pool = {"capability": "chat-completion"}
    world = two_levels(build, pools={"x": pool, "y": {**pool, "priority": 5}, "z": pool})

    assert resolve(world, "chat-completion") == ["y", "x", "z"]


@pytest.mark.parametrize("name", ["nothing", "", "generation.nothing", "image-generation"])
def test_a_name_that_nothing_serves_is_an_error(build: Build, name: str) -> None:
    """Unknown, or known to the tree and served by no pool."""
    with pytest.raises(CapabilityNotFoundError) as caught:
        resolve(two_levels(build), name)

    assert caught.value.capability == name
    assert isinstance(caught.value, KeyError)


def test_what_was_found_is_forgotten_when_models_change(build: Build) -> None:
    """A model that leaves is not found by its name any more."""
    world = two_levels(build)
    resolve(world, "b")

    world.mesh.get_registry().unregister("b")

    with pytest.raises(CapabilityNotFoundError):
        resolve(world, "b")


def test_pools_of_exactly_one_node_can_be_asked_for(build: Build) -> None:
    """Ancestors are left out."""
    resolver = two_levels(build).router.pipeline.get_stages()[0].resolver

    assert [pool.name for pool in resolver.get_matching_pools(CHAT)] == ["chat"]
    assert resolver.get_matching_pools(CODE) == []
