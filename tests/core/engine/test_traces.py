"""Who traces what: mesh, router, pool and provider, each at the severity that fits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from modelmesh import ModelMesh
from modelmesh.errors import (
    AllProvidersExhaustedError,
    AuthenticationError,
    CapabilityNotFoundError,
    ConfigurationError,
    InvalidRequestError,
    ModelMeshError,
    ProviderServerError,
)
from modelmesh.interfaces.observability import Severity, TraceEntry
from modelmesh_cdk.testing import pieces

Build = Callable[..., Any]
DEBUG = {"tracing": {"min_severity": "debug"}}


def down() -> ProviderServerError:
    """A provider's failure that may pass."""
    return ProviderServerError("down", status_code=500)


def told(world: Any, component: str) -> list[tuple[str, str]]:
    """Return severity and message of what a component said."""
    return [(each.severity.value, each.message) for each in world.seen().traces if each.component == component]


def one(world: Any, component: str, message: str) -> TraceEntry:
    """Return the one entry of a component that begins like this."""
    found = [each for each in world.seen().traces if each.component == component and each.message.startswith(message)]
    assert len(found) == 1, [(each.component, each.message) for each in world.seen().traces]
    entry: TraceEntry = found[0]
    return entry


def test_the_mesh_tells_its_setup_its_start_and_its_end(build: Build) -> None:
    """What was built at DEBUG, the two moments at INFO."""
    world = build(a=[], observe=DEBUG)

    assert told(world, "mesh") == [
        ("debug", "provider a is set up"),
        ("debug", "pool chat is set up"),
        ("info", "ready"),
        ("info", "shutting down"),
    ]


def test_a_mesh_that_cannot_be_built_says_so_and_leaves_no_worker(sink: Any) -> None:
    """CRITICAL, to whoever was to watch it."""
    config = {
        "providers": {"p": {"connector": "modelmesh.simulator.v1"}},
        "models": {"m": {"provider": "p", "capabilities": ["chat-completion"]}},
        "pools": {"chat": {"capability": "chat-completion", "deactivation": {"budget_limit": 1.0}}},
        "observability": {"instance": sink},
    }

    with pytest.raises(ConfigurationError, match="no price"):
        ModelMesh(environ={}).initialize(config)

    (entry,) = [each for each in sink.traces if each.severity is Severity.CRITICAL]
    assert (entry.component, "no price" in (entry.error or "")) == ("mesh", True)
    assert sink.is_closed


def test_the_decision_has_its_reason_and_its_fallback_chain(build: Build) -> None:
    """Before it is carried out, at DEBUG: who was chosen, why, and who would be next."""
    world = build(a=[], b=[], c=[], observe=DEBUG)
    reply = world.ask()

    facts = one(world, "router", "chat goes to a").metadata

    assert facts["request_id"] == reply.metadata["request_id"]
    assert (facts["reason"], facts["fallback_chain"], facts["candidates"]) == ("first", ["b", "c"], 3)
    assert facts["routing_latency_us"] >= 0


def test_the_strategys_score_is_traced_at_debug(build: Build) -> None:
    """With the request it was for."""
    world = build(a=[], observe=DEBUG)
    reply = world.ask()

    facts = one(world, "router", "stage selection-strategy").metadata

    assert (facts["selected"], facts["request_id"]) == ("a", reply.metadata["request_id"])
    assert {"score", "reason", "pool"} <= set(facts)


def test_a_success_is_told_by_its_provider(build: Build) -> None:
    """With latency and tokens, and with the reason why it was chosen."""
    world = build(a=[], b=[], observe={})
    world.ask()

    seen = one(world, "provider.a", "a answered").metadata

    assert {"latency_ms", "tokens_in", "tokens_out", "request_id"} <= set(seen)
    assert (seen["pool"], seen["reason"]) == ("chat", "first")


@pytest.mark.parametrize(
    ("script", "severity", "attempts"), [([], "debug", 1), ([down()], "info", 2)], ids=["smooth", "rough"]
)
def test_the_router_tells_a_success_and_its_own_time(build: Build, script: Any, severity: str, attempts: int) -> None:
    """At INFO where there was trouble on the way, and at DEBUG where the provider's line says it all."""
    world = build(a=script, b=[], observe=DEBUG)
    world.ask()

    entry = one(world, "router", "chat was answered")

    assert (entry.severity.value, entry.metadata["attempts"]) == (severity, attempts)
    assert entry.metadata["overhead_us"] >= 0


def test_each_call_is_announced_at_debug(build: Build) -> None:
    """By the provider it goes to."""
    world = build(a=[down()], b=[], observe=DEBUG)
    world.ask()

    assert ("debug", "sends to a") in told(world, "provider.a")
    assert ("debug", "sends to b") in told(world, "provider.b")


@pytest.mark.parametrize(
    ("error", "severity"),
    [(down(), "warning"), (AuthenticationError("no", status_code=401), "error"), (InvalidRequestError("no"), "error")],
    ids=["may pass", "key", "request"],
)
def test_a_failure_is_as_bad_as_it_is_lasting(build: Build, error: ModelMeshError, severity: str) -> None:
    """What may pass is a warning, what will not is an error."""
    world = build(a=[error], observe={}, retry={"max_attempts": 0})
    with pytest.raises(ModelMeshError):
        world.ask()

    assert (severity, "a failed") in told(world, "provider.a")


def test_a_retry_of_the_same_model_is_a_warning(build: Build) -> None:
    """With the reason, and the number of the attempt."""
    world = build(a=[down()], observe={})
    world.ask()

    entry = one(world, "router", "retries a")

    assert (entry.severity, entry.metadata["attempt"], entry.metadata["reason"], entry.error) == (
        Severity.WARNING, 2, "server_error", "down",
    )  # fmt: skip


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
def test_a_request_nobody_could_answer_is_an_error(build: Build, streamed: bool) -> None:
    """With everybody who was tried."""
    world = build(a=[down()], b=[down()], observe={}, retry={"max_attempts": 0})
    with pytest.raises(AllProvidersExhaustedError):
        world.stream() if streamed else world.ask()

    entry = one(world, "router", "chat was not answered")

    assert (entry.severity, entry.metadata["tried"]) == (Severity.ERROR, ["a", "b"])


def test_a_stream_that_breaks_is_an_error(build: Build) -> None:
    """The caller saw a part of it."""
    world = build(a=[pieces("half ", end="cut")], observe={})
    with pytest.raises(ModelMeshError):
        world.stream()

    assert one(world, "router", "chat was not answered").severity is Severity.ERROR


def test_the_callers_own_mistake_is_only_a_warning(build: Build) -> None:
    """Nobody has to get up for it."""
    world = build(a=[InvalidRequestError("no", status_code=400)], observe={})
    with pytest.raises(InvalidRequestError):
        world.ask()

    assert one(world, "router", "chat was not answered").severity is Severity.WARNING


def test_a_request_without_a_route_is_told(build: Build) -> None:
    """An unknown name is a warning, a pool where everybody rests an error."""
    world = build(a=[], observe={})
    with pytest.raises(CapabilityNotFoundError):
        world.ask("chta")
    world.pool.deactivate(world.member("a").model)
    with pytest.raises(ModelMeshError):
        world.ask(request_id="mine-1")

    found = [(e.severity.value, e.metadata["request_id"]) for e in world.seen().traces if "not answered" in e.message]

    assert [severity for severity, _ in found] == ["warning", "error"]
    assert found[1][1] == "mine-1"


def test_a_pool_tells_who_comes_who_leaves_and_who_returns(build: Build) -> None:
    """Membership at DEBUG, a rest at ERROR, a return and a take-over at INFO."""
    world = build(a=[down()], b=[], deactivation={"retry_limit": 1}, observe=DEBUG, random=[0.0, 0.0])
    world.ask()
    world.clock.advance(60)
    world.ask()

    assert told(world, "pool.chat") == [
        ("debug", "added a"),
        ("debug", "added b"),
        ("error", "a rests for 60 s: error_threshold"),
        ("info", "b takes over from a"),
        ("info", "a is active again: cooldown_expired"),
    ]


def test_a_rest_that_somebody_wanted_is_no_error(build: Build) -> None:
    """An order by hand."""
    world = build(a=[], b=[], observe={})
    world.pool.deactivate(world.member("a").model)

    assert told(world, "pool.chat") == [("info", "a rests until it is recovered: manual")]


@pytest.mark.parametrize(
    ("given", "kept"),
    [("mine-1", True), ("", False), ("x" * 129, False), ("line\nbreak", False), (7, False), ("übung", False)],
    ids=["sound", "empty", "long", "line", "number", "not ASCII"],
)
def test_a_caller_may_bring_the_request_id(build: Build, given: Any, kept: bool) -> None:
    """It stands in every record; one that would not do in a header is replaced."""
    world = build(a=[down()], b=[], observe={})
    reply = world.ask(request_id=given)

    used = reply.metadata["request_id"]

    assert (used == given) is kept
    assert {entry.request_id for entry in world.seen().logs} == {used}


def test_nobody_builds_what_nobody_reads(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a connector no trace entry is made, however much goes wrong."""
    made: list[object] = []
    monkeypatch.setattr("modelmesh._engine.telemetry.TraceEntry", lambda *values: made.append(values))
    world = build(a=[down()], b=[], deactivation={"retry_limit": 1})
    world.ask()

    assert made == []
