"""BaseObservability: records become lines, without secrets."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from modelmesh.interfaces.observability import (
    AggregateStats,
    EventType,
    ObservabilityConnector,
    RequestLogEntry,
    RoutingEvent,
    Severity,
    TraceEntry,
)
from modelmesh.interfaces.runtime import ConnectorContext
from modelmesh.redaction import REDACTED
from modelmesh_cdk.observability import EVENT_GROUPS, BaseObservability, BaseObservabilityConfig

NOON = datetime(2026, 11, 21, 12, 0, 0, 250_000, tzinfo=UTC)
KEY = "sk-canary-0123456789abcdefghijklmnop"


class Lines(BaseObservability[BaseObservabilityConfig]):
    """Keeps its lines."""

    connector_id = "acme.lines.v1"

    def __init__(self, **settings: Any) -> None:
        super().__init__(BaseObservabilityConfig.model_validate(settings))
        self.lines: list[str] = []

    def _write(self, line: str) -> None:
        self.lines.append(line)

    @property
    def records(self) -> list[dict[str, Any]]:
        """The lines, parsed."""
        return [json.loads(line) for line in self.lines]


def event(kind: EventType = EventType.MODEL_ROTATED, **metadata: Any) -> RoutingEvent:
    """Return an event of the chat pool."""
    return RoutingEvent(kind, NOON, "gpt", "openai", "chat", metadata)


def trace(severity: Severity = Severity.INFO, message: str = "hello", **metadata: Any) -> TraceEntry:
    """Return a trace of the router."""
    return TraceEntry(severity, NOON, "router", message, metadata)


def entry(**fields: Any) -> RequestLogEntry:
    """Return the record of one attempt."""
    return RequestLogEntry(NOON, "gpt", "openai", "chat-completion", "sync", 12.5, 200, 3, 4, **fields)


def stats() -> AggregateStats:
    """Return the figures of a window."""
    return AggregateStats(10, 9, 1, 300, 400, 0.5, 1000.0, 900.0, 2500.0, 3000.0, 0.1, 2, NOON, 1.8)


class StoppedClock:
    """A clock that stands still."""

    def monotonic(self) -> float:
        return 0.0

    def time(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("nobody waits here")


def test_a_class_with_one_method_is_a_connector() -> None:
    """What the engine needs, and what it registers, is all there."""
    connector = Lines()
    context = ConnectorContext("console", StoppedClock(), random.Random(0))

    connector.bind(context)

    assert isinstance(connector, ObservabilityConnector)
    assert connector.context is context
    assert not connector.is_null
    assert Lines.modelmesh_observability() == {"acme.lines.v1": Lines}


def test_without_any_method_records_go_nowhere() -> None:
    """The defaults are safe to call, settings or not."""
    connector: BaseObservability[BaseObservabilityConfig] = BaseObservability()

    connector.emit(event())
    connector.log(entry())
    connector.flush({"gpt": stats()})
    connector.trace(trace())
    connector.close()

    assert connector.config == BaseObservabilityConfig()


def test_an_event_is_a_line_of_json() -> None:
    """With its time in UTC, to the millisecond."""
    connector = Lines()

    connector.emit(event(reason="rate_limit", cooldown=30.0))

    assert connector.records == [
        {
            "type": "event",
            "event_type": "model_rotated",
            "timestamp": "2026-11-21T12:00:00.250Z",
            "model_id": "gpt",
            "provider_id": "openai",
            "pool_id": "chat",
            "metadata": {"reason": "rate_limit", "cooldown": 30.0},
        }
    ]


def test_times_of_other_zones_are_written_in_utc() -> None:
    """One zone in all lines."""
    connector = Lines()

    connector.trace(TraceEntry(Severity.INFO, NOON.astimezone(timezone(timedelta(hours=2))), "router", "x"))

    assert connector.records[0]["timestamp"] == "2026-11-21T12:00:00.250Z"


METADATA = {
    "type": "log",
    "timestamp": "2026-11-21T12:00:00.250Z",
    "request_id": "r1",
    "model_id": "gpt",
    "provider_id": "openai",
    "pool_id": "chat",
    "attempt": 2,
    "status_code": 200,
    "latency_ms": 12.5,
    "tokens_in": 3,
    "tokens_out": 4,
    "total_tokens": 7,
    "cost": 0.25,
    "error": None,
}
SUMMARY = {
    "capability": "chat-completion",
    "delivery_mode": "sync",
    "routing_reason": "in turn",
    "overhead_us": 80.0,
    "request_payload": "{}",
}


@pytest.mark.parametrize(("level", "more"), [("metadata", {}), ("summary", SUMMARY), ("full", SUMMARY)])
def test_a_request_record_has_the_detail_of_its_level(level: str, more: dict[str, Any]) -> None:
    """Tokens, cost and error always; payloads only where they were asked for and are there."""
    connector = Lines(log_level=level)
    facts: dict[str, Any] = {"routing_reason": "in turn", "overhead_us": 80.0, "request_payload": "{}"}

    connector.log(entry(cost=0.25, request_id="r1", pool_id="chat", attempt=2, **facts))

    assert connector.records == [METADATA | more]


def test_statistics_are_a_line_a_scope() -> None:
    """Latencies and downtime in seconds."""
    connector = Lines()

    connector.flush({"gpt": stats(), "chat": stats()})

    first, second = connector.records
    assert second == first | {"scope_id": "chat"}
    assert first == {
        "type": "stats",
        "scope_id": "gpt",
        "requests_total": 10,
        "requests_success": 9,
        "requests_failed": 1,
        "tokens_in": 300,
        "tokens_out": 400,
        "cost_total": 0.5,
        "latency_avg": 1.0,
        "latency_p95": 2.5,
        "downtime_total": 1.8,
        "rotation_events": 2,
    }


@pytest.mark.parametrize(
    ("scopes", "written"),
    [
        (["model", "provider", "pool"], ["chat", "llama3:8b", "model:x", "pool:x", "pool:"]),
        (["pool"], ["chat", "llama3:8b", "pool:x", "pool:"]),
        ([], ["chat", "llama3:8b", "pool:"]),
    ],
    ids=["all", "one", "none"],
)
def test_statistics_of_other_scopes_are_left_out(scopes: list[str], written: list[str]) -> None:
    """As far as the ID tells; a colon of its own does not make it one of another scope."""
    connector = Lines(scopes=scopes)

    connector.flush(dict.fromkeys(["chat", "llama3:8b", "model:x", "pool:x", "pool:"], stats()))

    assert [record["scope_id"] for record in connector.records] == written


@pytest.mark.parametrize(
    ("metadata", "error", "more"),
    [
        ({}, None, {}),
        ({"model": "gpt"}, None, {"metadata": {"model": "gpt"}}),
        ({}, "it broke", {"error": "it broke"}),
    ],
    ids=["plain", "metadata", "error"],
)
def test_a_trace_has_what_there_is_to_say(metadata: dict[str, Any], error: str | None, more: dict[str, Any]) -> None:
    """Metadata and error only where there are any."""
    connector = Lines()

    connector.trace(TraceEntry(Severity.WARNING, NOON, "router", "hello", metadata, error))

    said = {"type": "trace", "severity": "warning", "timestamp": "2026-11-21T12:00:00.250Z"}
    assert connector.records == [said | {"component": "router", "message": "hello"} | more]


@pytest.mark.parametrize("lowest", Severity, ids=lambda severity: severity.value)
def test_traces_below_the_severity_are_dropped(lowest: Severity) -> None:
    """The severity itself passes."""
    connector = Lines(min_severity=lowest.value)

    for severity in Severity:
        connector.trace(trace(severity))

    order = [severity.value for severity in Severity]
    assert [record["severity"] for record in connector.records] == order[order.index(lowest.value) :]


@pytest.mark.parametrize(
    ("names", "passing"),
    [
        ([], {kind.value for kind in EventType}),
        (["model_rotated"], {"model_rotated"}),
        (["rotation"], {"model_rotated"}),
        (["deactivation"], {"model_deactivated", "provider_deactivated"}),
        (["recovery"], {"model_activated", "provider_recovered"}),
        (["health", "discovery_models_updated"], {"provider_health_changed", "discovery_models_updated"}),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, list) else "",
)
def test_a_filter_takes_events_and_groups(names: list[str], passing: set[str]) -> None:
    """Both spellings of the configuration; nothing named lets all pass."""
    connector = Lines(event_filter=names)

    for kind in EventType:
        connector.emit(event(kind))

    assert {record["event_type"] for record in connector.records} == passing


def test_every_group_names_events_that_exist() -> None:
    """A group with a misspelt event would never match."""
    assert set().union(*EVENT_GROUPS.values()) <= {kind.value for kind in EventType}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"event_filter": ["rotations"]}, "did you mean 'rotation'"),
        ({"scopes": ["models"]}, "did you mean 'model'"),
        ({"min_severity": "loud"}, "min_severity"),
        ({"log_level": "all"}, "log_level"),
        ({"colour": True}, "colour"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], message: str) -> None:
    """With the nearest that would."""
    with pytest.raises(ValidationError, match=message):
        BaseObservabilityConfig.model_validate(settings)


HIDING_PLACES = {
    "event": lambda connector: connector.emit(event(reason=f"key {KEY}", nested={"deep": [KEY]})),
    "event name": lambda connector: connector.emit(event(api_key="canary")),
    "event key": lambda connector: connector.emit(event(EventType.MODEL_ROTATED, **{KEY: 1})),
    "log error": lambda connector: connector.log(entry(error=f"Bearer {KEY}")),
    "log payload": lambda connector: connector.log(entry(request_payload=json.dumps({"api_key": "canary-1"}))),
    "stats": lambda connector: connector.flush({KEY: stats()}),
    "trace": lambda connector: connector.trace(trace(message=f'GET "https://x/?key={KEY}"')),
    "trace error": lambda connector: connector.trace(TraceEntry(Severity.ERROR, NOON, "x", "y", {}, KEY)),
    "trace object": lambda connector: connector.trace(trace(error=ValueError(KEY))),
}


@pytest.mark.parametrize("place", HIDING_PLACES)
def test_a_secret_is_taken_out_wherever_it_stands(place: str) -> None:
    """And the line stays JSON."""
    connector = Lines()

    HIDING_PLACES[place](connector)

    (line,) = connector.lines
    assert "canary" not in line
    assert REDACTED in line
    assert json.loads(line)["type"] == place.partition(" ")[0]


def test_figures_are_no_secrets() -> None:
    """Numbers and absent values stay, whatever their names."""
    connector = Lines()

    connector.emit(event(tokens_in=12345, secret=12345, password=True, authorization=None))

    assert connector.records[0]["metadata"] == {
        "tokens_in": 12345,
        "secret": 12345,
        "password": True,
        "authorization": None,
    }


def test_redaction_can_be_switched_off() -> None:
    """By whoever writes to a place that may know."""
    connector = Lines(redact_secrets=False)

    connector.trace(trace(message=KEY, path=NOON))

    assert connector.records[0]["message"] == KEY
    assert connector.records[0]["metadata"] == {"path": str(NOON)}


class Plain(Lines):
    """Has a shape of its own."""

    def _format_event(self, event: RoutingEvent) -> str:
        return f"{event.event_type.value} api_key={event.metadata['api_key']}"

    def _format_trace(self, entry: TraceEntry) -> str:
        return super()._format_trace(entry) + f" # {KEY}"


def test_an_authors_own_lines_are_redacted_as_well() -> None:
    """Also where they add to ours."""
    connector = Plain()

    connector.emit(event(api_key="canary-1"))
    connector.trace(trace())

    assert connector.lines[0] == f"model_rotated api_key={REDACTED}"
    assert connector.lines[1].endswith(f" # {REDACTED}")


def test_writers_get_a_plain_str() -> None:
    """Some libraries look closely at what they are given."""
    connector = Lines()

    connector.trace(trace())

    assert type(connector.lines[0]) is str


def test_what_no_file_can_hold_is_written_as_an_escape() -> None:
    """A lone surrogate survives, as JSON spells it."""
    connector = Lines()

    connector.trace(trace(message="\ud800 é"))

    assert connector.lines[0].encode()
    assert connector.records[0]["message"] == "\ud800 é"


@given(
    st.text(st.characters(exclude_categories=[])),
    st.dictionaries(
        st.text(max_size=5) | st.sampled_from(["secret", "password", "authorization", "api_key", "url"]),
        st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.text('"\\?&=key:\n ', max_size=20)),
    ),
)
def test_every_record_is_one_line_of_json(message: str, metadata: dict[str, Any]) -> None:
    """Whatever it says."""
    connector = Lines()

    connector.trace(TraceEntry(Severity.INFO, NOON, "router", message, metadata, message))

    (line,) = connector.lines
    assert "\n" not in line
    assert json.loads(line)["type"] == "trace"
