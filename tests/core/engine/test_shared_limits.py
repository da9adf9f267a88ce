"""Limits that others hold rather than spend: nobody rests for a day for what comes back in a moment."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from modelmesh import ModelMesh, PluginHost
from modelmesh._engine.block_ledger import BLOCK_SECONDS
from modelmesh._engine.limits import HELD_SECONDS
from modelmesh.interfaces.ledger import WindowClaim
from modelmesh.interfaces.state_store import StoreGuarantees
from modelmesh.router import CompletionRequest
from modelmesh_cdk.testing import FakeClock, ScriptedProvider
from modelmesh_plugins.state_stores.memory import MemoryStateStore

POOL = "chat-completion"
Build = Callable[..., ModelMesh]


class Shared(MemoryStateStore):
    """A store as others share it; one that is slow has granted long before it says so."""

    guarantees = StoreGuarantees(survives_restart=False, shared_between_processes=True)
    is_slow = False
    lease = 0.0

    async def reserve(self, *args: Any, **facts: Any) -> Any:
        self.lease = facts["lease"]
        verdict = await super().reserve(*args, **facts)
        if self.is_slow:
            await asyncio.get_running_loop().create_future()
        return verdict


@pytest.fixture
def build() -> Iterator[Build]:
    """Build a mesh of a limited model and a free one."""
    built: list[ModelMesh] = []

    def make(pool: dict[str, Any] | None = None, **storage: Any) -> ModelMesh:
        plugins = PluginHost()
        plugins.register("state_stores", "test.shared.v1", Shared)
        mesh = ModelMesh(plugins=plugins, environ={}, clock=FakeClock())
        built.append(mesh)
        quota = {"requests": 100, "reset_schedule": "daily"}
        mesh.initialize(
            {
                "providers": {
                    "a": {"instance": ScriptedProvider(), "quota": quota},
                    "b": {"instance": ScriptedProvider()},
                },
                "models": {name: {"provider": name, "capabilities": [POOL]} for name in "ab"},
                "pools": {POOL: pool or {}},
                "storage": {"connector": "test.shared.v1", "sync_policy": "in-memory", **storage},
            }
        )
        return mesh

    yield make
    for mesh in built:
        mesh.shutdown()


def member(mesh: ModelMesh) -> Any:
    """Return the limited model's place."""
    return mesh.get_router().get_pool(POOL).members["a"]


def occupied(mesh: ModelMesh, *, spent: bool) -> None:
    """Have another process hold all of the quota, or spend it."""
    store: Any = mesh._built().state_store
    claim = member(mesh).limits[0].claim(100, mesh._clock.time())
    assert isinstance(claim, WindowClaim)

    async def take() -> None:
        assert (await store.reserve("other", [claim], lease=600.0)).granted
        if spent:
            await store.settle("other", {})

    asyncio.run(take())


def ask(mesh: ModelMesh) -> str:
    """Ask; return the model that answered."""
    request = CompletionRequest([{"role": "user", "content": "hi"}])
    return asyncio.run(mesh.get_router().acomplete(POOL, request)).model


@pytest.mark.parametrize(
    ("storage", "rest"),
    [pytest.param({}, HELD_SECONDS, id="each"), pytest.param({"lease_share": 0.1}, BLOCK_SECONDS, id="blocks")],
)
def test_a_model_whose_limit_others_hold_rests_for_moments(build: Build, storage: Any, rest: float) -> None:
    """Until they may have given something back, not until the day is over."""
    mesh = build(**storage)
    occupied(mesh, spent=False)

    assert ask(mesh) == "b"
    assert member(mesh).cooldown_remaining == pytest.approx(rest)
    assert member(mesh).reason == "rate_limited"


@pytest.mark.parametrize("storage", [{}, {"lease_share": 0.1}], ids=["each", "blocks"])
def test_a_model_whose_limit_is_spent_rests_until_the_window_ends(build: Build, storage: Any) -> None:
    """Nothing comes back before."""
    mesh = build(**storage)
    occupied(mesh, spent=True)

    assert ask(mesh) == "b"
    assert member(mesh).cooldown_remaining == pytest.approx(86_400.0)
    assert member(mesh).reason == "quota_exhausted"


def test_a_request_that_is_cancelled_while_it_claims_gives_its_claim_back(build: Build) -> None:
    """The store may have granted it, and nobody else knows."""
    mesh = build(call_timeout="60s")
    store: Any = mesh._built().state_store
    store.is_slow = True
    request = CompletionRequest([{"role": "user", "content": "hi"}])

    async def scenario() -> list[int]:
        asking = asyncio.ensure_future(mesh.get_router().acomplete(POOL, request))
        account = member(mesh).limits[0].claim(1, mesh._clock.time()).account
        reserved = []
        for _ in range(2):
            for _ in range(20):
                await asyncio.sleep(0)
            reserved.append((await store.balances([account]))[account].reserved)
            asking.cancel()
        return reserved

    assert asyncio.run(scenario()) == [1, 0]


@pytest.mark.parametrize(
    ("pool", "lease"),
    [
        ({"timeouts": {"total": 100.0}}, 130.0),
        ({"timeouts": {"total": 100.0}, "deadline": "10s"}, 40.0),
        ({"timeouts": {"total": 10.0}, "deadline": "100s"}, 40.0),
    ],
    ids=["the attempt", "the deadline", "whichever ends first"],
)
def test_a_claim_is_held_for_as_long_as_its_attempt_may_take(build: Build, pool: dict[str, Any], lease: float) -> None:
    """And half a minute for settling it; should this process die, it comes back after that."""
    mesh = build(pool)

    assert ask(mesh) == "a"

    store: Any = mesh._built().state_store
    assert store.lease == pytest.approx(lease)
