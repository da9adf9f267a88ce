"""What one process learns of a model's health, another knows within a moment."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from modelmesh import ModelMesh, PluginHost
from modelmesh.errors import ProviderServerError
from modelmesh.interfaces.provider import RateLimitStatus
from modelmesh.interfaces.strategy import RecoveryTrigger
from modelmesh.router import CompletionRequest
from modelmesh.state_manager import ROUTING_KEY
from modelmesh_cdk.testing import FakeClock, ScriptedProvider
from modelmesh_cdk.testing.scripted import fail

FAILING = fail(ProviderServerError("no", status_code=500))
Process = Callable[..., ModelMesh]


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    """Start meshes that share one database, as processes of one host do."""
    built: list[ModelMesh] = []

    def make(*script: Any, **settings: Any) -> ModelMesh:
        mesh = ModelMesh(plugins=PluginHost(), environ={})
        built.append(mesh)
        mesh.initialize(configuration(tmp_path, *script, **settings))
        return mesh

    yield make
    for mesh in built:
        mesh.shutdown()


def configuration(
    folder: Path, *script: Any, models: str = "ab", requests: int | None = None, sync_policy: str = "in-memory"
) -> dict[str, Any]:
    """Return one whose provider ``a`` answers by a script, so many requests a day."""
    providers: dict[str, dict[str, Any]] = {
        name: {"instance": ScriptedProvider(script if name == "a" else ())} for name in models
    }
    if requests is not None:
        providers["a"]["quota"] = {"requests": requests, "reset_schedule": "daily"}
    return {
        "providers": providers,
        "models": {name: {"provider": name, "capabilities": ["chat-completion"]} for name in models},
        "pools": {"chat-completion": {"retry": {"max_attempts": 0}, "deactivation": {"retry_limit": 1}}},
        "storage": {
            "connector": "modelmesh.sqlite.v1",
            "path": str(folder / "state.db"),
            "sync_policy": sync_policy,
        },
    }


def ask(mesh: ModelMesh) -> str:
    """Ask; return the ID of the model that answered."""
    request = CompletionRequest([{"role": "user", "content": "hi"}])
    return asyncio.run(mesh.get_router().acomplete("chat-completion", request)).model


def member(mesh: ModelMesh, model: str) -> Any:
    """Return a model's place in the pool."""
    return mesh.get_router().get_pool("chat-completion").members[model]


def until(here: ModelMesh, there: ModelMesh, model: str, *, active: bool, rounds: int = 50) -> bool:
    """Wait until a model is (in)active there as it is here; False after some rounds.

    What is told before somebody listens is lost, as delivery is at most once; so it is told again meanwhile.
    """
    place, waiting = member(here, model), threading.Event()
    for _ in range(rounds):
        if member(there, model).active is active:
            return True
        place.pool.on_move(place, RecoveryTrigger.MANUAL if active else None)
        waiting.wait(0.1)
    return False


def test_a_model_that_failed_elsewhere_rests_here_too(process: Process) -> None:
    """The second process passes it by without having met the failure."""
    first, second = process(FAILING), process()

    assert ask(first) == "b"

    assert until(first, second, "a", active=False)
    assert member(second, "a").reason == "error_threshold"
    assert ask(second) == "b"


def test_a_model_put_aside_and_taken_back_by_hand_is_so_everywhere(process: Process) -> None:
    """An operator says it once."""
    first, second = process(), process()

    first.rotate("chat-completion")
    assert until(first, second, "a", active=False)
    first.get_router().get_pool("chat-completion").recover(member(first, "a").model)

    assert until(first, second, "a", active=True)


def test_the_last_model_is_not_taken_from_a_process_by_another(process: Process) -> None:
    """Errors elsewhere never leave a pool here without anybody; an order by hand does."""
    first, second = process(FAILING), process(models="a")
    ask(first)
    assert not member(first, "a").active

    assert not until(first, second, "a", active=False, rounds=8)
    assert ask(second) == "a"


def test_a_providers_outage_is_one_fact(process: Process) -> None:
    """However many models it has; the second process knows the provider itself as unavailable, and for what."""
    first, second = process(models="ab"), process(models="ab")
    down, there = (mesh._built().providers["a"] for mesh in (first, second))

    down.deactivate("auth_failure", auth=True, rest=60.0, now=member(first, "a").pool.clock.monotonic())

    assert until_told(lambda: there.deactivated == "auth_failure")
    assert not there.state.auth_valid
    assert member(second, "a").reason == "provider_unavailable"
    facts = asyncio.run(_record(first))
    assert list(facts) == ["provider:a"]

    down.recover(RecoveryTrigger.PROBE_SUCCESS, member(first, "a").pool.clock.monotonic())

    assert until_told(lambda: there.is_available() and member(second, "a").active)


def test_an_outage_elsewhere_leaves_no_pool_without_anybody(process: Process) -> None:
    """It may be the other process's own network or key; this one finds out by its own calls."""
    first, second, third = process(), process(models="a"), process()
    now = member(first, "a").pool.clock.monotonic()

    first._built().providers["a"].deactivate("api_outage", auth=False, rest=60.0, now=now)

    assert until_told(lambda: not third._built().providers["a"].is_available())
    assert ask(second) == "a"


def test_a_process_that_starts_later_learns_who_rests(process: Process) -> None:
    """Nobody tells it again."""
    first = process(FAILING)
    ask(first)
    assert until_told(lambda: "member:chat-completion\na" in asyncio.run(_record(first)))

    second = process()

    assert until_told(lambda: not member(second, "a").active)
    assert ask(second) == "b"


def test_headroom_read_here_is_known_there(process: Process) -> None:
    """Within a second, over the store."""
    first, second = process(), process()
    here, there = (mesh._built().providers["a"] for mesh in (first, second))
    remaining = iter(range(1_000, 0, -100))

    def heard() -> bool:
        here.take_rate_limits(RateLimitStatus(next(remaining), requests_limit=1_000))
        return there.rate_limits is not None

    assert until_told(heard, rounds=10)


def until_told(holds: Callable[[], bool], rounds: int = 60) -> bool:
    """Wait until it holds; False after some rounds of a tenth of a second."""
    waiting = threading.Event()
    for _ in range(rounds):
        if holds():
            return True
        waiting.wait(0.1)
    return False


async def _record(mesh: ModelMesh) -> dict[str, Any]:
    """Read the facts that the store keeps, beside the record's own name."""
    store = mesh._built().state_store
    assert store is not None
    record = await store.load(ROUTING_KEY)
    book = {} if record is None else dict(json.loads(record.data))
    return {name: fact for name, fact in book.items() if name != "record"}


@pytest.mark.parametrize(
    ("trigger", "ago", "returns"),
    [
        pytest.param("probe_success", 0.0, True, id="an answer after it"),
        pytest.param("probe_success", 3_600.0, False, id="an answer from before it"),
        pytest.param("quota_reset", 0.0, False, id="a new day"),
        pytest.param("manual", 0.0, True, id="a person"),
    ],
)
def test_news_ends_the_rest_it_is_news_of(process: Process, trigger: str, ago: float, returns: bool) -> None:
    """A rest after errors ends by what was found out since, elsewhere too, and not by a calendar."""
    mesh = process(FAILING, FAILING)
    ask(mesh)
    place = member(mesh, "a")

    asyncio.run(_tell(mesh, {"active": True, "trigger": trigger, "ago": ago}))

    assert until_told(lambda: member(mesh, "b").reason == "manual")  # the last word of the message
    assert place.active is returns


@pytest.mark.parametrize(("ago", "rests"), [(0.0, True), (3_600.0, False)], ids=["later", "earlier"])
def test_a_rest_that_was_ended_here_since_does_not_come_back(process: Process, ago: float, rests: bool) -> None:
    """News may be late, as when the store was down; what this process knows may be younger."""
    mesh = process()
    pool = member(mesh, "a").pool
    pool.deactivate(member(mesh, "a").model, "error_threshold")
    pool.recover(member(mesh, "a").model)

    asyncio.run(_tell(mesh, {"active": False, "reason": "error_threshold", "rest": 60.0, "ago": ago}))

    assert until_told(lambda: member(mesh, "b").reason == "manual")
    assert member(mesh, "a").active is not rests


@pytest.mark.parametrize(("requests", "rests"), [(1, True), (3, False)], ids=["the same limit", "a larger limit"])
def test_a_limit_that_is_used_up_rests_whoever_has_the_same(process: Process, requests: int, rests: bool) -> None:
    """While limits are being changed process by process, those with the new one have what it adds."""
    old, new = process(requests=1), process(requests=requests)
    assert ask(old) + ask(old) == "ab"

    member(old, "b").pool.deactivate(member(old, "b").model)

    assert until_told(lambda: not member(new, "b").active)  # which was told after it
    assert member(new, "a").active is not rests


@pytest.mark.parametrize("today", [True, False], ids=["the same day", "another day"])
def test_a_day_that_is_used_up_rests_whoever_has_the_same(process: Process, tmp_path: Path, today: bool) -> None:
    """A process whose clock is wrong may have used up a day that is not that of the others."""
    mesh = process(requests=3)
    clock = FakeClock(time=member(mesh, "a").pool.clock.time() + (0.0 if today else 90_000.0))
    with ModelMesh(plugins=PluginHost(), environ={}, clock=clock) as other:
        other.initialize({**configuration(tmp_path, requests=3), "storage": {}})
        limits = member(other, "a").limits_behind("quota_exhausted")
    said = {"active": False, "reason": "quota_exhausted", "rest": 80_000.0, "ago": 0.0, "limits": limits}

    asyncio.run(_tell(mesh, said))

    assert until_told(lambda: member(mesh, "b").reason == "manual")
    assert member(mesh, "a").active is not today


def test_a_rest_that_was_ended_elsewhere_while_a_process_was_down_is_over_when_it_is_back(process: Process) -> None:
    """What it saved when it ended is older than what the others said since."""
    ended, other = (process(sync_policy=policy) for policy in ("sync-on-boundary", "in-memory"))
    member(ended, "a").pool.deactivate(member(ended, "a").model)
    assert until_told(lambda: not member(other, "a").active)
    ended.shutdown()
    member(other, "a").pool.recover(member(other, "a").model)
    assert until_told(lambda: asyncio.run(_record(other))["member:chat-completion\na"]["fact"]["active"])

    again = process(sync_policy="sync-on-boundary")

    assert until_told(lambda: member(again, "a").active)


@pytest.mark.parametrize("limits", [{}, {"limits": None}], ids=["unsaid", "null"])
def test_a_rest_that_says_nothing_of_limits_is_taken_over(process: Process, limits: dict[str, Any]) -> None:
    """As an earlier version told it."""
    mesh = process(requests=3)

    asyncio.run(_tell(mesh, {"active": False, "reason": "quota_exhausted", "rest": 60.0, "ago": 0.0, **limits}))

    assert until_told(lambda: member(mesh, "b").reason == "manual")
    assert not member(mesh, "a").active


@pytest.mark.parametrize("whole", [True, False], ids=["the provider", "its model"])
def test_what_a_reload_corrects_does_not_rest_again_for_what_was_told_before(
    process: Process, tmp_path: Path, whole: bool
) -> None:
    """Facts that are kept are read again by the new configuration, and are of the old one."""
    mesh, other = process(), process()
    provider, place = mesh._built().providers["a"], member(mesh, "a")
    if whole:
        provider.deactivate("auth_failure", auth=True, rest=600.0, now=place.pool.clock.monotonic())
    else:
        place.pool.deactivate(place.model, "error_threshold")
    assert until_told(lambda: not member(other, "a").active)

    mesh.reload_config(configuration(tmp_path))

    routing = mesh._built().shared_routing
    assert routing is not None
    mesh._loop.run(routing._facts.catch_up())
    assert (member(mesh, "a").active, mesh._built().providers["a"].deactivated) == (True, None)


async def _tell(mesh: ModelMesh, said: dict[str, Any]) -> None:
    """Say something of model a as another process does, and after it, for this one to see, that b was put aside."""
    pool, store = "chat-completion", mesh._built().state_store
    assert store is not None
    last = {"pool": pool, "model": "b", "active": False, "reason": "manual", "rest": None, "ago": 0.0}
    facts = [["member:a", 0, {"pool": pool, "model": "a", **said}], ["member:b", 0, last]]
    for _ in range(100):  # until somebody listens
        await store.publish("routing", json.dumps({"from": "another", "facts": facts}).encode())
        if not member(mesh, "b").active:
            return
        await asyncio.sleep(0.02)
