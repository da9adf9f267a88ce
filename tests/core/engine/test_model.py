"""A model at a provider: what it was declared to be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from modelmesh._engine.model import RequestResult, delivery_of

Build = Callable[..., Any]


@pytest.mark.parametrize(
    ("declared", "batch", "expected"),
    [
        ("sync", False, {"sync"}),
        ("streaming", False, {"sync", "streaming"}),
        (None, False, {"sync", "streaming"}),
        (None, True, {"sync", "streaming", "batch"}),
        ({"streaming": True}, False, {"sync", "streaming"}),
        ({"synchronous": False, "batch": True}, False, {"batch"}),
        ({}, True, {"sync", "batch"}),
    ],
    ids=["sync", "streaming", "default", "default-batch", "map", "map-batch-only", "empty-map-batch"],
)
def test_every_way_of_declaring_delivery_is_understood(declared: Any, batch: bool, expected: set[str]) -> None:
    """A word, a map taken literally, or nothing, which leaves it to the capability."""
    assert delivery_of(declared, batch=batch, default=("sync", "streaming")) == expected


def test_a_model_tells_what_it_was_declared_to_be(build: Build) -> None:
    """Capabilities as paths, modes in a fixed order, features and limits."""
    declared = {
        "provider": "acme",
        "model": "acme/a-1",
        "batch": {"max_items": 5},
        "features": {"vision": True},
        "constraints": {"context_window": 1000},
    }
    model = build(providers={"acme": []}, models={"a": declared}).member("a").model

    assert model.get_capabilities() == ["generation.text-generation.chat-completion"]
    assert model.get_delivery_modes() == ["sync", "streaming", "batch"]
    assert (model.get_features(), model.get_constraints()) == ({"vision": True}, {"context_window": 1000})
    assert (model.name, model.wire_name, model.pools) == ("a", "acme/a-1", ["chat"])


def test_results_change_the_state(build: Build) -> None:
    """A success counts tokens and cost; a failure counts itself."""
    model = build(a=[]).member("a").model

    model.update_state(RequestResult(True, latency=0.5, tokens_in=2, tokens_out=3, cost=0.25))
    model.update_state(RequestResult(False, error=ValueError("no")))

    state = model.get_state()
    assert (state.quota_used, state.tokens_used, state.cost_accumulated, state.latency_history) == (1, 5, 0.25, [0.5])
    assert state.failure_count == 1


def test_resetting_forgets_failures_and_cooldown_but_not_usage(build: Build) -> None:
    """As after a recovery."""
    model = build(a=[]).member("a").model
    model.update_state(RequestResult(True, tokens_in=2))
    model.update_state(RequestResult(False))

    model.reset_state()

    assert (model.state.failure_count, model.state.cooldown_remaining, model.state.tokens_used) == (0, 0.0, 2)
