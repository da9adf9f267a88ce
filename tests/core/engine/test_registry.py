"""The models of a mesh, and the pools they belong to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from modelmesh._engine.model import ModelDefinition
from modelmesh.errors import ConfigurationError
from modelmesh.interfaces.observability import EventType

Build = Callable[..., Any]
CHAT = "generation.text-generation.chat-completion"
CODE = "generation.text-generation.code-generation"


def world_of(build: Build, pool: dict[str, Any], **models: dict[str, Any]) -> Any:
    """Two providers, and a pool under test named ``p``."""
    entries = models or {name: {"provider": provider} for name, provider in {"a": "x", "b": "y", "c": "x"}.items()}
    return build(
        providers={"x": [], "y": []}, models=entries, pools={"p": pool, "chat": {"capability": "chat-completion"}}
    )


def members(world: Any, pool: str = "p") -> str:
    """IDs of a pool's members, in order."""
    return "".join(world.router.get_pool(pool).members)


@pytest.mark.parametrize(
    ("pool", "expected"),
    [
        ({"capability": "chat-completion"}, "abc"),
        ({"capability": "text-generation"}, "abc"),
        ({"capability": "generation"}, "abc"),
        ({"capability": "chat-completion", "models": ["c", "a"]}, "ca"),
        ({"capability": "chat-completion", "providers": ["x"]}, "ac"),
        ({"capability": "chat-completion", "excluded_providers": ["x"]}, "b"),
        ({"models": ["c", "b"]}, "cb"),
        ({"capability": "chat-completion", "selector": lambda model: model.name != "b"}, "ac"),
        ({"capability": "chat-completion", "selector": lambda model: {"a": 1, "b": 3, "c": 0}[model.name]}, "ba"),
        ({"selector": {"providers": ["y"]}}, "b"),
    ],
    ids=[
        "leaf", "subcategory", "category", "ordered", "providers", "excluded", "explicit", "selector", "scores", "all",
    ],
)  # fmt: skip
def test_who_belongs_to_a_pool(build: Build, pool: dict[str, Any], expected: str) -> None:
    """By place in the tree, narrowed and ordered by what the pool says."""
    assert members(world_of(build, pool)) == expected


def test_a_hybrid_pool_holds_named_models_besides(build: Build) -> None:
    """``include`` adds models whatever they declare, after the others and once."""
    world = world_of(
        build,
        {"capability": "chat-completion", "include": ["b", "a"]},
        a={"provider": "x"},
        b={"provider": "y", "capabilities": ["code-generation"]},
    )

    assert members(world) == "ab"
    assert world.router.route("p").fallback_chain == ["b"]


def test_a_selector_pool_asks_for_declared_properties(build: Build) -> None:
    """Features and context window; who does not say is left out."""
    world = world_of(
        build,
        {"selector": {"features": {"vision": True}, "min_context_window": 1000}},
        a={"provider": "x", "features": {"vision": True}, "constraints": {"context_window": 1000}},
        b={"provider": "x", "features": {"vision": True}, "constraints": {"context_window": 999}},
        c={"provider": "x", "features": {"vision": True}},
        d={"provider": "x", "constraints": {"context_window": 9000}},
    )

    assert members(world) == "a"


# --- registering while running ---------------------------------------------------------


def test_a_model_registered_later_joins_its_pools(build: Build) -> None:
    """It takes traffic at once, and is found by its name."""
    world = build(a=[])

    world.mesh.get_registry().register(ModelDefinition("a", (CHAT,), name="late"))

    assert world.mesh.list_models() == ["a", "late"]
    assert world.ask("late").model == "late"


def test_registering_a_name_again_replaces_the_definition_and_keeps_the_state(build: Build) -> None:
    """What the model has used does not start over."""
    world = build(a=[])
    world.ask()

    model = world.mesh.get_registry().register(ModelDefinition("a", (CHAT,), features={"vision": True}, name="a"))

    assert (model.state.quota_used, model.get_features(), len(model.provider.models)) == (1, {"vision": True}, 1)
    assert world.member("a").model is model


def test_unregistering_takes_a_model_out_of_everything(build: Build) -> None:
    """A second time there is nothing to take out."""
    world = build(a=[], b=[])
    registry = world.mesh.get_registry()

    first, second = registry.unregister("a"), registry.unregister("a")

    assert (first, second, world.active, registry.get_model("a")) == (True, False, "b", None)
    assert world.ask().model == "b"


@pytest.mark.parametrize(
    ("definition", "message"),
    [
        (ModelDefinition("b", (CHAT,), name="n"), "unknown provider 'b'"),
        (ModelDefinition("a", ("generation.text-generation",), name="n"), "no leaf"),
        (ModelDefinition("a", ("no.where",), name="n"), "no leaf"),
    ],
    ids=["provider", "inner-node", "unknown-node"],
)
def test_a_definition_that_fits_nowhere_is_refused(build: Build, definition: ModelDefinition, message: str) -> None:
    """The error names the model and what is wrong with it; nothing changes."""
    world = build(a=[])

    with pytest.raises(ConfigurationError, match=message):
        world.mesh.get_registry().register(definition)

    assert world.mesh.list_models() == ["a"]


def test_models_are_found_by_capability_and_by_provider(build: Build) -> None:
    """A category finds everything below it."""
    world = world_of(
        build,
        {"capability": "text-generation"},
        a={"provider": "x"},
        b={"provider": "y", "capabilities": ["code-generation"]},
    )
    registry = world.mesh.get_registry()

    assert [model.name for model in registry.find_by_capability("generation")] == ["a", "b"]
    assert [model.name for model in registry.find_by_capability(CODE)] == ["b"]
    assert [model.name for model in registry.find_by_provider("x")] == ["a"]
    with pytest.raises(KeyError, match="nothing"):
        registry.find_by_capability("nothing")


def test_membership_is_told_once_a_pool_and_then_as_it_changes(build: Build) -> None:
    """One event for the first filling, one for each change, none when nothing changed."""
    world = build(a=[], b=[], observe={})
    registry = world.mesh.get_registry()
    registry.refresh()
    registry.register(ModelDefinition("a", (CHAT,), name="c"))
    registry.unregister("a")

    events = world.seen().of(EventType.POOL_MEMBERSHIP_CHANGED)

    assert [(event.pool_id, event.model_id, event.metadata) for event in events] == [
        ("chat", None, {"added": ["a", "b"], "removed": []}),
        ("chat", "c", {"added": ["c"], "removed": []}),
        ("chat", "a", {"added": [], "removed": ["a"]}),
    ]


def test_a_model_that_rests_stays_at_rest_when_others_join(build: Build) -> None:
    """Filling a pool anew moves nobody."""
    world = build(a=[], b=[])
    world.pool.deactivate(world.member("a").model)

    world.mesh.get_registry().register(ModelDefinition("b", (CHAT,), name="c"))

    assert world.active == "bc"


def test_a_resting_model_that_is_registered_again_stays_at_rest(build: Build) -> None:
    """A new definition is no recovery."""
    world = build(a=[], b=[])
    world.pool.deactivate(world.member("a").model)

    world.mesh.get_registry().register(ModelDefinition("a", (CHAT,), name="a"))

    assert (world.active, world.member("a").reason, world.state("a").status) == ("b", "manual", "standby")
