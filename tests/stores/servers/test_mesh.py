"""A mesh whose store goes down and comes back (R10): money is refused at once, rates go on, nothing is restarted."""

from __future__ import annotations

import time
from typing import Any

import pytest

from modelmesh import ModelMesh
from modelmesh.errors import ModelMeshError

CONFIGURATION: dict[str, Any] = {
    "providers": {
        "paid": {"connector": "modelmesh.simulator.v1", "budget": {"daily_limit": 5.0}},
        "free": {"connector": "modelmesh.simulator.v1", "rate_limit": {"rpm": 1_000}},
    },
    "models": {
        "large": {
            "provider": "paid",
            "capabilities": ["chat-completion"],
            "pricing": {"input_per_1k_tokens": 0, "output_per_1k_tokens": 0, "per_request": 0.01},
        },
        "small": {"provider": "free", "capabilities": ["chat-completion"]},
    },
    "pools": {
        "dear": {"capability": "chat-completion", "models": ["large"]},
        "cheap": {"capability": "chat-completion", "models": ["small"]},
    },
}


def test_a_store_that_is_down_stops_spending_only_and_only_so_long(shared: Any) -> None:
    """No request waits longer than a quarter of a second; when the store is back, so is the budget's pool."""
    kind = "modelmesh.redis.v1" if shared.kind == "redis" else "modelmesh.postgres.v1"
    settings = {**shared.settings(), "timeout": 0.25}

    with ModelMesh() as mesh:
        mesh.initialize({**CONFIGURATION, "storage": {"connector": kind, **settings}})
        assert _answered(mesh, "dear")
        assert _answered(mesh, "cheap")
        shared.server.stop()
        try:
            began = time.monotonic()
            assert not _answered(mesh, "dear")
            assert _answered(mesh, "cheap")
            assert time.monotonic() - began < 2 * 0.25 + 0.3
        finally:
            shared.server.start()
        began = time.monotonic()
        while not _answered(mesh, "dear"):
            assert time.monotonic() - began < 5.0, "it did not come back"
            time.sleep(0.05)


def _answered(mesh: ModelMesh, pool: str) -> bool:
    try:
        mesh.get_client().chat.completions.create(model=pool, messages=[{"role": "user", "content": "Hello"}])
    except ModelMeshError:
        return False
    return True


def test_a_store_that_cannot_be_had_is_told_when_the_mesh_starts() -> None:
    """A wrong URL is a problem of the configuration, with its place."""
    storage = {"connector": "modelmesh.redis.v1", "url": "localhost:6379"}

    with ModelMesh() as mesh, pytest.raises(ModelMeshError, match="a Redis URL is redis://"):
        mesh.initialize({**CONFIGURATION, "storage": storage})
