"""What an attempt leaves behind: events, traces, logs and figures, at the right moments."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from modelmesh.errors import (
    AllProvidersExhaustedError,
    AuthenticationError,
    InvalidRequestError,
    ProviderServerError,
    ProviderTimeoutError,
    RateLimitError,
)
from modelmesh.interfaces.observability import EventType, Severity
from modelmesh.interfaces.provider import ModelInfo, RateLimitStatus
from modelmesh.statistics import StatsScope
from modelmesh_cdk.testing import ScriptedProvider, answer, fail, hang, pieces

Build = Callable[..., Any]
DEBUG = {"tracing": {"min_severity": "debug"}}


def down() -> ProviderServerError:
    """A provider's failure."""
    return ProviderServerError("down", status_code=500)


# --- events -----------------------------------------------------------------------------


def test_a_quiet_life_has_one_event(build: Build) -> None:
    """The first filling of the pool, and nothing for answers."""
    world = build(a=[], b=[], observe={})
    world.ask()

    sink = world.seen()

    assert [event.event_type for event in sink.events] == [EventType.POOL_MEMBERSHIP_CHANGED]


def test_a_rotation_tells_from_where_to_where_and_why(build: Build) -> None:
    """Once for each move within a request, with the request's ID."""
    world = build(a=[down()], b=[], observe={})
    reply = world.ask()

    (event,) = world.seen().of(EventType.MODEL_ROTATED)

    assert (event.model_id, event.provider_id, event.pool_id) == ("b", "b", "chat")
    assert event.metadata == {
        "from_model": "a",
        "from_provider": "a",
        "reason": "server_error",
        "attempt": 2,
        "request_id": reply.metadata["request_id"],
    }


def test_a_switch_before_a_rate_limit_is_a_rotation(build: Build) -> None:
    """Told once, by the first request that goes elsewhere; a model that rests is left for that reason."""
    spent = answer(rate_limits=RateLimitStatus(10, requests_limit=100, reset_seconds=60.0))
    world = build(a=[spent], b=[], strategy="rate-limit-aware", observe={})
    world.ask()
    reply = world.ask()
    world.ask()

    (event,) = world.seen().of(EventType.MODEL_ROTATED)

    assert (event.model_id, event.provider_id, event.pool_id) == ("b", "b", "chat")
    assert event.metadata == {
        "from_model": "a",
        "from_provider": "a",
        "reason": "rate_limit",
        "attempt": 1,
        "request_id": reply.metadata["request_id"],
    }


def test_leaving_a_model_that_rests_is_no_switch(build: Build) -> None:
    """That it left has been told by then."""
    world = build(a=[], b=[], strategy="rate-limit-aware", observe={})
    world.ask()
    world.pool.deactivate(world.member("a").model)
    assert world.ask().model == "b"

    assert world.seen().of(EventType.MODEL_ROTATED) == []


def test_a_retry_of_the_same_model_is_no_rotation(build: Build) -> None:
    """The word is kept for going elsewhere."""
    world = build(a=[down()], observe={})
    world.ask()

    assert world.seen().of(EventType.MODEL_ROTATED) == []


def test_leaving_and_returning_are_told_with_reason_and_trigger(build: Build) -> None:
    """With the figures that led to it, and how long the rest was."""
    world = build(a=[down()], b=[], deactivation={"retry_limit": 1}, observe={}, random=[0.0, 0.0])
    world.ask()
    world.clock.advance(60)
    world.ask()

    left, returned = world.seen().of(EventType.MODEL_DEACTIVATED, EventType.MODEL_ACTIVATED)

    assert (left.event_type, left.model_id, left.provider_id, left.pool_id) == (
        EventType.MODEL_DEACTIVATED, "a", "a", "chat",
    )  # fmt: skip
    assert left.metadata == {"reason": "error_threshold", "failure_count": 1, "error_rate": 1.0, "cooldown": 60}
    assert returned.metadata == {"trigger": "cooldown_expired", "rested_seconds": 60}


class Unreachable(ScriptedProvider):
    """Does not answer probes."""

    async def list_models(self) -> Sequence[ModelInfo]:
        raise ProviderTimeoutError("nobody there")


@pytest.mark.parametrize("how", ["call", "probe"])
def test_a_provider_that_leaves_is_told_first_and_its_models_after_it(build: Build, how: str) -> None:
    """Whoever found out: a call that its key did not open, or the probe at the start."""
    refused = AuthenticationError("no", status_code=401)
    world = build(
        a=Unreachable([refused]), b=[], random=[0.0, 0.0], recovery={"probe_on_start": how == "probe"}, observe={}
    )

    if how == "call":
        world.ask()
    events = world.seen().of(
        EventType.PROVIDER_DEACTIVATED, EventType.MODEL_DEACTIVATED, EventType.PROVIDER_HEALTH_CHANGED
    )

    assert [event.event_type.value for event in events] == [
        "provider_deactivated",
        "model_deactivated",
        "provider_health_changed",
    ]
    assert {event.provider_id for event in events} == {"a"}
    cause = "startup_probe" if how == "probe" else "auth_failure"
    assert events[0].metadata == {"cause": cause, "cooldown": 60.0}
    assert events[2].metadata == {"old": "healthy", "new": "unavailable", "status": "unavailable", "cause": cause}


def test_events_carry_the_wall_clock_in_utc(build: Build) -> None:
    """Timezone-aware, from the mesh's clock."""
    world = build(a=[], observe={})

    assert world.seen().events[0].timestamp.isoformat() == "2026-01-01T00:00:00+00:00"


def test_an_event_filter_lets_groups_through(build: Build) -> None:
    """Words for several events work as well as their values."""
    world = build(
        a=[down()],
        b=[],
        deactivation={"retry_limit": 1},
        observe={"events": {"filter": ["deactivation", "model_rotated"], "include_metadata": False}},
    )
    world.ask()

    events = world.seen().events

    assert {event.event_type for event in events} == {EventType.MODEL_DEACTIVATED, EventType.MODEL_ROTATED}
    assert all(event.metadata == {} for event in events)


# --- traces -----------------------------------------------------------------------------


def test_traces_tell_the_story_of_a_request(build: Build) -> None:
    """The decision at DEBUG, the failure at WARNING, success at INFO, in this order, under one request ID."""
    world = build(a=[down()], b=[], observe=DEBUG)
    reply = world.ask()

    told = [entry for entry in world.seen().traces if entry.metadata.get("request_id")]
    lines = ("goes to a", "a failed", "b answered")
    story = [next(place for place, entry in enumerate(told) if line in entry.message) for line in lines]

    assert story == sorted(story)
    assert [told[place].severity for place in story] == [Severity.DEBUG, Severity.WARNING, Severity.INFO]
    assert {entry.metadata["request_id"] for entry in told} == {reply.metadata["request_id"]}


def test_each_stage_is_traced_at_debug(build: Build) -> None:
    """With the candidates it left."""
    world = build(a=[], b=[], observe=DEBUG)
    world.ask()

    stages = [entry for entry in world.seen().traces if entry.message.startswith("stage ")]

    assert [entry.message.removeprefix("stage ") for entry in stages][:3] == [
        "capability-resolver",
        "pool-selection",
        "delivery-filter",
    ]
    assert {entry.severity for entry in stages} == {Severity.DEBUG}
    assert stages[-1].metadata["candidates"] == 2


@pytest.mark.parametrize(("lowest", "kept"), [("warning", {"warning", "error"}), ("error", {"error"})])
def test_a_minimum_severity_silences_the_rest(build: Build, lowest: str, kept: set[str]) -> None:
    """Below it nothing is even built."""
    world = build(a=[down()], b=[], deactivation={"retry_limit": 1}, observe={"tracing": {"min_severity": lowest}})
    world.ask()

    assert {entry.severity.value for entry in world.seen().traces} == kept


def test_a_wait_is_traced_with_its_length(build: Build) -> None:
    """Who reads along sees why nothing happens."""
    world = build(a=[RateLimitError("slow down", status_code=429, retry_after=2)], observe={})
    world.ask()

    (entry,) = [entry for entry in world.seen().traces if "waiting" in entry.message]

    assert (entry.severity, entry.metadata["reason"], "2.000 s" in entry.message) == (
        Severity.WARNING,
        "rate_limit",
        True,
    )


# --- logs -------------------------------------------------------------------------------


def test_every_attempt_is_logged_under_one_request_id(build: Build) -> None:
    """Numbered, with status and error, and the overhead on the last."""
    world = build(a=[down()], b=[answer(tokens=3, prompt_tokens=2, delay=0.5)], observe={}, price={"per_request": 0.25})
    reply = world.ask()

    first, last = world.seen().logs

    assert (first.model_id, first.status_code, first.error, first.attempt, first.routing_reason) == (
        "a", 500, "down", 1, "first",
    )  # fmt: skip
    assert (last.model_id, last.status_code, last.error, last.attempt, last.routing_reason) == (
        "b", 200, None, 2, "rotation",
    )  # fmt: skip
    assert (last.tokens_in, last.tokens_out, last.cost, last.latency_ms) == (2, 3, 0.25, pytest.approx(500))
    assert {first.request_id, last.request_id} == {reply.metadata["request_id"]}
    assert (last.capability, last.delivery_mode, last.pool_id) == ("chat", "sync", "chat")
    assert (first.overhead_us, last.overhead_us) == (None, pytest.approx(0, abs=1))


@pytest.mark.parametrize(
    ("error", "status"),
    [(ProviderTimeoutError("late"), 504), (ValueError("odd"), 502), (InvalidRequestError("no", status_code=422), 422)],
    ids=["timeout", "none", "own"],
)
def test_a_failure_without_a_status_is_logged_with_one_that_fits(build: Build, error: Exception, status: int) -> None:
    """504 for a timeout, 502 for anything else."""
    world = build(a=[fail(error)], retry={"max_attempts": 0}, observe={})
    with pytest.raises((AllProvidersExhaustedError, InvalidRequestError)):
        world.ask()

    assert [entry.status_code for entry in world.seen().logs] == [status]


def test_payloads_are_logged_at_the_levels_that_ask(build: Build) -> None:
    """At ``full`` the request and the answer as JSON, secrets of the configuration taken out."""
    world = build(a=["My key is sk-abcdefghijklmnopqrstuvwxyz"], observe={"logging": {"level": "full"}})
    world.ask(text="hello there")

    (entry,) = world.seen().logs

    assert json.loads(entry.request_payload)["messages"][0]["content"] == "hello there"
    assert "sk-abcdef" not in entry.response_payload
    assert "REDACTED" in entry.response_payload


def test_no_payload_is_logged_by_default(build: Build) -> None:
    """The level is ``metadata``."""
    world = build(a=[], observe={})
    world.ask(text="private")

    assert "private" not in repr(world.seen().logs)


def test_a_stream_is_logged_with_its_mode_and_text(build: Build) -> None:
    """One record at its end."""
    world = build(a=[pieces("One ", "two")], observe={"logging": {"level": "summary"}})
    world.stream()

    (entry,) = world.seen().logs

    assert (entry.delivery_mode, entry.status_code, entry.response_payload) == ("streaming", 200, "One two")


# --- figures ------------------------------------------------------------------------------


def test_statistics_count_attempts_for_model_provider_and_pool(build: Build) -> None:
    """A failure and a success, at each scope where they belong."""
    world = build(a=[down()], b=[answer(tokens=3, prompt_tokens=2)], price={"per_request": 0.25})
    world.ask()

    statistics = world.mesh.get_statistics()
    pool = statistics.query(StatsScope.POOL, "chat")

    assert (statistics.model("a").failed_requests, statistics.provider("b").successful_requests) == (1, 1)
    assert (pool.total_requests, pool.failed_requests, pool.error_rate) == (2, 1, 0.5)
    assert (pool.total_tokens_in, pool.total_tokens_out, pool.total_cost) == (2, 3, 0.25)


def test_rotation_events_are_moves_between_active_and_standby(build: Build) -> None:
    """A deactivation and a recovery make two."""
    world = build(a=[down()], b=[], deactivation={"retry_limit": 1})
    world.ask()
    world.clock.advance(70)
    world.ask()

    assert world.mesh.get_statistics().pool("chat").rotation_events == 2


def test_tokens_of_a_broken_stream_are_paid_for(build: Build) -> None:
    """What was seen before the break is in the receipt's cost."""
    world = build(
        a=[pieces("x" * 4_000, end="cut")],
        b=[pieces("ok")],
        price={"output_per_1k_tokens": 1.0},
        on_stream_failure="hold",
        hold_time=10,
    )
    world.stream()

    assert world.mesh.get_statistics().model("a").total_cost == pytest.approx(1.0)


def test_an_unknown_price_is_no_price(build: Build) -> None:
    """None in records, nothing in sums."""
    world = build(a=[], observe={})
    reply = world.ask()

    assert reply.metadata["receipt"].attempts[0].cost is None
    assert (reply.metadata["receipt"].cost, world.state("a").cost_accumulated) == (0.0, 0.0)
    assert world.seen().logs[0].cost is None


# --- callers in a hurry -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("history", "answered_ago", "counted"),
    [([5.0, 5.0, 0.0], 1.0, 0), ([], 1.0, 1), ([0.0, 0.0, 5.0], 1.0, 1), ([5.0], 61.0, 1)],
    ids=["usually slower", "never answered", "usually there by then", "silent for a while"],
)
@pytest.mark.parametrize("kind", ["plain", "streamed"])
def test_a_deadline_too_short_for_the_model_is_not_its_failure(
    build: Build, kind: str, history: list[float], answered_ago: float, counted: int
) -> None:
    """Unless it has answered nobody for a while, or would have been there by then: then it may hang."""
    world = build(a=[hang()], b=[])
    state = world.state("a")
    state.latency_history, state.last_request = history, world.clock.time() - answered_ago
    body = {"messages": [{"role": "user", "content": "hi"}]}

    async def read() -> None:
        async for _ in world.router.execute_stream("chat", body, metadata={"deadline": 0.02}):
            pass

    world.ask(deadline=0.02) if kind == "plain" else world.run(read())

    assert (state.failure_count, world.calls("b")) == (counted, 1)


def test_a_models_own_clock_counts_however_recently_it_answered(build: Build) -> None:
    """The configuration says how long is too long."""
    world = build(a=[hang()], b=[], timeouts={"total": 0.02})
    world.state("a").latency_history, world.state("a").last_request = [5.0], world.clock.time()

    world.ask(deadline=10.0)

    assert world.state("a").failure_count == 1
