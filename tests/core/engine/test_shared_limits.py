"""Limits that others hold rather than spend: nobody rests for a day for what comes back in a moment."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, cast

import pytest

from modelmesh import ModelMesh, PluginHost
from modelmesh._engine.block_ledger import BLOCK_SECONDS
from modelmesh._engine.limits import HELD_SECONDS
from modelmesh.errors import ModelMeshError, StateStoreError
from modelmesh.interfaces.ledger import Balance, WindowClaim
from modelmesh.interfaces.state_store import StoreGuarantees
from modelmesh.router import CompletionRequest
from modelmesh_cdk.testing import FakeClock, ScriptedProvider
from modelmesh_cdk.testing.scripted import hang
from modelmesh_plugins.state_stores.memory import MemoryStateStore

POOL = "chat-completion"
DAILY = {"quota": {"requests": 100, "reset_schedule": "daily"}}
TWO_PLACES = {"rate_limit": {"concurrency": 2}}
PLACES = "concurrency/provider/a"
Build = Callable[..., ModelMesh]


class Shared(MemoryStateStore):
    """A store as others share it; one that is slow has granted long before it says so."""

    guarantees = StoreGuarantees(survives_restart=False, shared_between_processes=True)
    is_slow = False
    is_down = False
    is_unheard = False
    lease = 0.0
    settled: ClassVar[list[int]] = []

    async def settle_all(self, settlements: Any) -> Any:
        self.settled.append(len(settlements))
        if self.is_down:
            raise StateStoreError("gone", retryable=True)
        return await super().settle_all(settlements)

    async def release(self, reservation: str) -> bool:
        if self.is_down:
            raise StateStoreError("gone")
        return await super().release(reservation)

    async def reserve(self, *args: Any, **facts: Any) -> Any:
        self.lease = facts["lease"]
        if self.is_down:
            raise StateStoreError("gone")
        verdict = await super().reserve(*args, **facts)
        if self.is_unheard:
            raise StateStoreError("the connection broke")
        if self.is_slow:
            await asyncio.get_running_loop().create_future()
        return verdict


@pytest.fixture
def build() -> Iterator[Build]:
    """Build a mesh of a limited model and a free one."""
    built: list[ModelMesh] = []

    def make(
        pool: dict[str, Any] | None = None,
        limits: dict[str, Any] = DAILY,
        provider: ScriptedProvider | None = None,
        **storage: Any,
    ) -> ModelMesh:
        plugins = PluginHost()
        plugins.register("state_stores", "test.shared.v1", Shared)
        mesh = ModelMesh(plugins=plugins, environ={}, clock=FakeClock())
        built.append(mesh)
        mesh.initialize(
            {
                "providers": {
                    "a": {"instance": provider or ScriptedProvider(), **limits},
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


def ask(mesh: ModelMesh, **parameters: int) -> str:
    """Ask; return the model that answered."""
    request = CompletionRequest([{"role": "user", "content": "hi"}], metadata={"parameters": parameters})
    return asyncio.run(mesh.get_router().acomplete(POOL, request)).model


def test_requests_that_end_together_are_settled_together(build: Build) -> None:
    """Off their path, by a call or two rather than one each; what they took is in the books when the mesh is closed."""
    mesh = build(limits={**DAILY, **TWO_PLACES})
    store: Any = mesh._built().state_store
    Shared.settled = []

    async def scenario() -> dict[str, Balance]:
        request = CompletionRequest([{"role": "user", "content": "hi"}])
        await asyncio.gather(*(mesh.get_router().acomplete(POOL, request) for _ in range(2)))
        await mesh.ashutdown()
        quota = next(account for account in store._books.windows if account != PLACES)
        return dict(await store.balances([quota, PLACES]))

    quota, places = asyncio.run(scenario()).values()

    assert Shared.settled == [2]
    assert (quota, places) == (Balance(2, 0), Balance(0, 0))


@pytest.mark.parametrize("storage", [{}, {"lease_share": 0.1}], ids=["each", "blocks"])
@pytest.mark.parametrize(
    "asked",
    [{"max_tokens": 2**61}, {"max_tokens": 10**12, "n": 10**9}, {"max_tokens": 10**400}, {"max_tokens": -5_000}],
    ids=["more-than-any-limit", "times-n", "no-float", "negative"],
)
def test_what_a_request_asks_for_however_odd_closes_nothing_for_others(
    build: Build, storage: Any, asked: dict[str, int]
) -> None:
    """It is refused, or left to its provider; a store that is asked for nonsense refuses it, and would seem down."""
    mesh = build(limits={"quota": {"tokens": 100_000, "reset_schedule": "daily"}}, **storage)

    assert ask(mesh, **asked) == ("b" if asked["max_tokens"] > 0 else "a")
    assert ask(mesh, max_tokens=10) == "a"


@pytest.mark.parametrize("storage", [{}, {"lease_share": 0.1}], ids=["each", "blocks"])
def test_what_the_store_granted_unheard_is_free_again_when_it_answers(build: Build, storage: Any) -> None:
    """The request was not made, and its lease would stand for ten minutes."""
    mesh = build(limits=TWO_PLACES, **storage)
    store: Any = mesh._built().state_store

    async def scenario() -> tuple[Balance, Balance]:
        request = CompletionRequest([{"role": "user", "content": "hi"}])
        store.is_unheard = True
        assert (await mesh.get_router().acomplete(POOL, request)).model == "a"  # a rate goes on locally
        store.is_unheard = False
        held = (await store.balances([PLACES]))[PLACES]
        await cast("FakeClock", mesh._clock).run(5.0)
        return held, (await store.balances([PLACES]))[PLACES]

    assert asyncio.run(scenario()) == (Balance(0, 1), Balance(0, 0))


@pytest.mark.parametrize("storage", [{}, {"lease_share": 0.1}], ids=["each", "blocks"])
@pytest.mark.parametrize("ends", ["answered", "cancelled while it claims"])
def test_a_request_that_ends_while_the_store_is_down_keeps_its_place_no_longer(
    build: Build, ends: str, storage: Any
) -> None:
    """Of an outage of a second a provider with few places would not recover for ten minutes."""
    provider = ScriptedProvider([hang()])
    mesh = build(limits=TWO_PLACES, provider=provider, call_timeout="60s", **storage)
    store: Any = mesh._built().state_store
    store.is_slow = ends != "answered"
    request = CompletionRequest([{"role": "user", "content": "hi"}])

    async def scenario() -> tuple[Balance, Balance]:
        asking = asyncio.ensure_future(mesh.get_router().acomplete(POOL, request))
        await turns()
        store.is_down, store.is_slow = True, False
        provider.release()
        if ends != "answered":
            asking.cancel()
        await asyncio.wait({asking})
        await turns()
        held = (await store.balances([PLACES]))[PLACES]
        store.is_down = False
        await cast("FakeClock", mesh._clock).run(5.0)
        return held, (await store.balances([PLACES]))[PLACES]

    assert asyncio.run(scenario()) == (Balance(0, 1), Balance(0, 0))


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


@pytest.mark.parametrize("storage", [{}, {"lease_share": 0.5}], ids=["each", "blocks"])
def test_places_are_shared_and_a_model_without_one_does_not_rest(build: Build, storage: Any) -> None:
    """Calls of all processes together stay under ``concurrency``; a place may be free again the next moment."""
    mesh = build(limits=TWO_PLACES, **storage)
    store: Any = mesh._built().state_store
    claim = WindowClaim(PLACES, 2, 2, 0.0)
    asyncio.run(store.reserve("others", [claim], lease=600.0))

    answered = [ask(mesh)]
    resting = not member(mesh).active
    asyncio.run(store.release("others"))
    answered.append(ask(mesh))

    assert (answered, resting) == (["b", "a"], False)


@pytest.mark.parametrize("storage", [{}, {"lease_share": 0.5}], ids=["each", "blocks"])
def test_a_call_holds_one_place_until_it_ends(build: Build, storage: Any) -> None:
    """However it ends, and no more of them in advance."""
    provider = ScriptedProvider([hang(), hang()])
    mesh = build(limits=TWO_PLACES, provider=provider, **storage)
    store: Any = mesh._built().state_store
    request = CompletionRequest([{"role": "user", "content": "hi"}])

    async def scenario() -> list[Balance]:
        seen = []
        stays, leaves = (asyncio.ensure_future(mesh.get_router().acomplete(POOL, request)) for _ in range(2))
        await turns()
        seen.append((await store.balances([PLACES]))[PLACES])
        leaves.cancel()
        await turns()
        seen.append((await store.balances([PLACES]))[PLACES])
        provider.release()
        await stays
        await turns()
        seen.append((await store.balances([PLACES]))[PLACES])
        return seen

    assert asyncio.run(scenario()) == [Balance(0, 2), Balance(0, 1), Balance()]


@pytest.mark.parametrize(
    ("policy", "answered"), [("local", "ab"), ("closed", "bb"), ("open", "aa")], ids=["local", "closed", "open"]
)
def test_while_the_store_is_down_a_process_has_its_share_of_the_places(
    build: Build, policy: str, answered: str
) -> None:
    """As ``on_store_error`` says of rate limits: one of two here, none, or as many as this process may have."""
    provider = ScriptedProvider([hang()])
    mesh = build(limits=TWO_PLACES, provider=provider, processes=2, on_store_error={"rate_limit": policy})
    mesh._built().state_store.is_down = True  # type: ignore[union-attr]
    request = CompletionRequest([{"role": "user", "content": "hi"}])

    async def scenario() -> str:
        first = asyncio.ensure_future(mesh.get_router().acomplete(POOL, request))
        await turns()
        second = await mesh.get_router().acomplete(POOL, request)
        provider.release()
        return (await first).model + second.model

    assert asyncio.run(scenario()) == answered


def test_what_was_granted_while_the_store_is_down_counts_after_a_reload(build: Build) -> None:
    """However often the configuration is changed meanwhile, this process has its share once."""
    mesh = build(limits={"quota": {"requests": 2}}, on_store_error={"quota": "local"})
    mesh._built().state_store.is_down = True  # type: ignore[union-attr]
    before = ask(mesh) + ask(mesh)
    assert mesh._source is not None
    mesh.reload_config(mesh._source)
    assert (before, ask(mesh)) == ("aa", "b")


def test_what_cannot_be_checked_is_named(build: Build) -> None:
    """Also when it is the number of concurrent calls."""
    mesh = build(limits=TWO_PLACES, on_store_error={"rate_limit": "closed"})
    mesh._built().state_store.is_down = True  # type: ignore[union-attr]
    request = CompletionRequest([{"role": "user", "content": "hi"}])
    mesh.get_router().get_pool(POOL).deactivate(mesh.get_router().get_pool(POOL).members["b"].model)

    with pytest.raises(ModelMeshError, match=r"the limit of 2 concurrent calls for provider 'a' cannot be checked"):
        asyncio.run(mesh.get_router().acomplete(POOL, request))


async def turns() -> None:
    """Let everybody else on the loop go on until they wait for something."""
    for _ in range(30):
        await asyncio.sleep(0)
