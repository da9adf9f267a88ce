"""Downtime: a model that rests everywhere, a provider that may not be called, a pool without anybody."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from modelmesh.errors import AuthenticationError, ModelMeshError, ProviderServerError
from modelmesh.statistics import StatsScope

Build = Callable[..., Any]
TWO_POOLS = {"chat": {"capability": "chat-completion"}, "other": {"capability": "chat-completion"}}


def down_for(world: Any, scope: str, name: str) -> float:
    """Return the seconds something was down; none where nothing is known of it."""
    try:
        return float(world.mesh.get_statistics().query(StatsScope(scope), name).downtime_total)
    except KeyError:
        return 0.0


def test_a_model_is_down_while_it_rests_in_all_its_pools(build: Build) -> None:
    """One pool that still uses it is enough to be up."""
    world = build(a=[], b=[], pools=TWO_POOLS)
    model = world.member("a").model
    world.router.get_pool("chat").deactivate(model)
    world.clock.advance(10)
    world.router.get_pool("other").deactivate(model)
    world.clock.advance(20)
    world.router.get_pool("other").recover(model)
    world.clock.advance(40)

    found = {name: down_for(world, "model", name) for name in "ab"}

    assert found == {"a": 20.0, "b": 0.0}


def test_a_pool_is_down_while_it_has_no_active_model(build: Build) -> None:
    """From the last one that leaves to the first that returns."""
    world = build(a=[], b=[])
    for name in "ab":
        world.pool.deactivate(world.member(name).model)
        world.clock.advance(5)
    open_ended = down_for(world, "pool", "chat")
    world.pool.recover(world.member("a").model)
    world.clock.advance(100)

    assert (open_ended, down_for(world, "pool", "chat")) == (5.0, 5.0)


def test_a_provider_is_down_until_it_recovers(build: Build) -> None:
    """With its models, and with the pool if it was all there is."""
    world = build(a=[AuthenticationError("no", status_code=401)], recovery={"cooldown": 60})
    with pytest.raises(ModelMeshError):
        world.ask()
    world.clock.advance(30)
    halfway = down_for(world, "provider", "a")
    world.clock.advance(60)
    world.ask()
    seen = {scope: down_for(world, scope, name) for scope, name in (("provider", "a"), ("model", "a"))}
    world.clock.advance(1_000)

    assert halfway == 30.0
    assert seen["provider"] == seen["model"] >= 60.0
    assert down_for(world, "provider", "a") == seen["provider"]


def test_failures_that_end_in_a_rest_count_from_the_rest_on(build: Build) -> None:
    """The cooldown is the downtime."""
    failing = ProviderServerError("down", status_code=500)
    world = build(a=[failing], b=[], deactivation={"retry_limit": 1}, random=[0.0, 0.0])
    world.ask()
    world.clock.advance(60)
    world.ask()
    world.clock.advance(100)

    assert (down_for(world, "model", "a"), down_for(world, "pool", "chat")) == (60.0, 0.0)


def test_a_model_that_is_taken_away_is_no_longer_down(build: Build) -> None:
    """Nobody misses it; the pool it leaves empty is down."""
    world = build(a=[])
    world.pool.deactivate(world.member("a").model)
    world.clock.advance(5)
    world.mesh.get_registry().unregister("a")
    world.clock.advance(7)

    assert (down_for(world, "model", "a"), down_for(world, "pool", "chat")) == (5.0, 12.0)


def test_a_new_definition_does_not_end_the_downtime(build: Build) -> None:
    """The model rests on, under the same name."""
    world = build(a=[], b=[])
    model = world.member("a").model
    world.pool.deactivate(model)
    world.clock.advance(5)
    world.mesh.get_registry().register(model.definition)
    world.clock.advance(5)

    assert down_for(world, "model", "a") == 10.0


def test_nothing_was_down_that_never_rested(build: Build) -> None:
    """And statistics hold no names only because a mesh was built."""
    world = build(a=[], b=[])

    statistics = world.mesh.get_statistics()

    assert [statistics.names(scope) for scope in StatsScope] == [[], [], []]
