"""Request records say which attempt was the last, and what the spans of a request need."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from modelmesh.errors import InvalidRequestError, ModelMeshError, ProviderServerError
from modelmesh_cdk.testing import ScriptedProvider, answer, hang, pieces

FAILURE = ProviderServerError("no")


def test_the_last_record_of_a_request_says_so(build: Callable[..., Any]) -> None:
    """An answer after a failure: two records in order, the second one last."""
    world = build(a=[FAILURE], b=["yes"], observe={})

    world.ask()

    logs = world.seen().logs
    assert [(each.model_id, each.outcome, each.is_last) for each in logs] == [
        ("a", "server_error", False),
        ("b", "success", True),
    ]
    assert [each.routing_reason == "rotation" for each in logs] == [False, True]


def test_a_request_that_fails_ends_with_its_last_failure(build: Callable[..., Any]) -> None:
    """Nobody answers: the last failure closes the request, retries included."""
    world = build(a=[FAILURE] * 9, observe={}, retry={"max_attempts": 2})

    with pytest.raises(ModelMeshError):
        world.ask()

    logs = world.seen().logs
    assert [each.is_last for each in logs] == [False, False, True]
    assert [each.routing_reason for each in logs][1:] == ["retry", "retry"]
    assert logs[-1].request_ms > sum(each.latency_ms for each in logs)  # the pauses between are in it


def test_the_callers_own_mistake_ends_the_request(build: Callable[..., Any]) -> None:
    """One attempt, one record, the last."""
    world = build(a=[InvalidRequestError("no")], b=["yes"], observe={})

    with pytest.raises(InvalidRequestError):
        world.ask()

    assert [each.is_last for each in world.seen().logs] == [True]


def test_a_cancelled_request_ends_with_its_attempt(build: Callable[..., Any]) -> None:
    """The caller went away: that attempt is the last."""
    world = build(a=[hang()], observe={})

    async def scenario() -> None:
        task = asyncio.ensure_future(world.aask())
        for _ in range(20):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    world.run(scenario())
    assert [(each.outcome, each.is_last) for each in world.seen().logs] == [("cancelled", True)]


def test_a_broken_stream_ends_the_request(build: Callable[..., Any]) -> None:
    """After its first content nothing is replayed: one record, the last, with the time to first token."""
    world = build(a=[pieces("one ", "two", end="cut")], b=["yes"], observe={})

    with pytest.raises(ModelMeshError):
        world.stream()

    (entry,) = world.seen().logs
    assert entry.is_last
    assert entry.outcome not in ("success", "cancelled")
    assert entry.time_to_first_token_ms is not None


def test_the_record_names_operation_and_the_providers_own_model(build: Callable[..., Any]) -> None:
    """What OpenTelemetry calls the operation and the requested model."""
    world = build(
        providers={"p": ScriptedProvider([answer()])}, models={"m": {"provider": "p", "model": "gpt-x"}}, observe={}
    )

    world.ask()

    (entry,) = world.seen().logs
    assert (entry.model_id, entry.operation, entry.upstream_model) == ("m", "chat", "gpt-x")
    assert entry.trace is None  # nobody records spans


def test_span_ids_are_drawn_where_somebody_records_spans(build: Callable[..., Any]) -> None:
    """Providers are sent the attempt as their parent, and the record tells the same IDs."""
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    world = build(a=[FAILURE], b=["yes"], observe={"instance": (sink := _SpanSink())})

    world.ask(headers={"traceparent": parent})
    world.mesh.shutdown()

    sent = [world.providers[name].requests[0].headers["traceparent"].split("-") for name in "ab"]
    assert [each[2] for each in sent] == [entry.trace.attempt_span_id for entry in sink.logs]
    assert {each[1] for each in sent} == {"4bf92f3577b34da6a3ce929d0e0e4736"}
    assert len({entry.trace.request_span_id for entry in sink.logs}) == 1
    assert sink.logs[0].trace.traceparent == parent


def test_without_spans_the_callers_context_goes_on_as_it_came(build: Callable[..., Any]) -> None:
    """A parent that nobody records would cut the trace in two."""
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    world = build(a=["yes"])

    world.ask(traceparent=parent, tracestate="a=1")

    assert world.providers["a"].requests[0].headers == {"traceparent": parent, "tracestate": "a=1"}


class _SpanSink:
    """Keeps request records, and wants spans."""

    wants_spans = True

    def __init__(self) -> None:
        self.logs: list[Any] = []

    def log(self, entry: Any) -> None:
        self.logs.append(entry)

    def emit(self, event: Any) -> None:
        """Nothing."""

    def flush(self, stats: Any) -> None:
        """Nothing."""

    def trace(self, entry: Any) -> None:
        """Nothing."""
