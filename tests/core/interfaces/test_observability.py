"""The observability interface, to the letter of its document."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from datetime import UTC, datetime
from enum import Enum
from typing import Any

import pytest

from modelmesh.interfaces.observability import (
    Events,
    EventType,
    Logging,
    LogLevel,
    ObservabilityConnector,
    RequestLogEntry,
    RoutingEvent,
    Severity,
    Statistics,
    TraceEntry,
    Tracing,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (
            EventType,
            "model_activated model_deactivated model_rotated provider_health_changed provider_deactivated "
            "provider_recovered pool_membership_changed discovery_models_updated",
        ),
        (LogLevel, "metadata summary full"),
        (Severity, "debug info warning error critical"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_enums_have_the_documented_members(kind: type[Enum], values: str) -> None:
    """Values in their order, each named like its value in capitals."""
    assert [(each.name, each.value) for each in kind] == [(value.upper(), value) for value in values.split()]


@pytest.mark.parametrize(
    ("cls", "documented"),
    [
        (
            RoutingEvent,
            "event_type: EventType, timestamp: datetime, model_id: str | None = None, provider_id: str | None = None, "
            "pool_id: str | None = None, metadata: dict[str, Any] = None",
        ),
        (
            RequestLogEntry,
            "timestamp: datetime, model_id: str, provider_id: str, capability: str, delivery_mode: str, "
            "latency_ms: float, status_code: int, tokens_in: int, tokens_out: int, cost: float | None = None, "
            "error: str | None = None",
        ),
        (
            TraceEntry,
            "severity: Severity, timestamp: datetime, component: str, message: str, metadata: dict[str, Any] = None, "
            "error: str | None = None",
        ),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_dataclasses_begin_with_the_documented_fields(cls: type[Any], documented: str) -> None:
    """Names, order, types and defaults; what was added stands behind them and may be left out."""
    found = [f"{each.name}: {each.type}{_default(each)}" for each in fields(cls)]
    count = documented.count(": ")

    assert ", ".join(found[:count]) == documented
    assert all(each.default is not MISSING for each in fields(cls)[count:])


def _default(each: Field[Any]) -> str:
    return "" if each.default is MISSING else f" = {each.default}"


@pytest.mark.parametrize(
    "make",
    [
        lambda metadata: RoutingEvent(EventType.MODEL_ROTATED, NOW, metadata=metadata),
        lambda metadata: TraceEntry(Severity.INFO, NOW, "router", "hello", metadata),
    ],
    ids=["event", "trace"],
)
def test_metadata_left_out_becomes_an_empty_dict(make: Callable[[dict[str, Any] | None], Any]) -> None:
    """One of its own each time; what was given is kept as it is, empty or not."""
    given: dict[str, Any] = {}

    assert make(None).metadata == {}
    assert make(None).metadata is not make(None).metadata
    assert make(given).metadata is given


@pytest.mark.parametrize(
    ("part", "method", "signature"),
    [
        (Events, "emit", "(self, event: RoutingEvent) -> None"),
        (Logging, "log", "(self, entry: RequestLogEntry) -> None"),
        (Statistics, "flush", "(self, stats: dict[str, AggregateStats]) -> None"),
        (Tracing, "trace", "(self, entry: TraceEntry) -> None"),
    ],
    ids=["events", "logging", "statistics", "tracing"],
)
def test_each_part_asks_for_its_one_method(part: type[Any], method: str, signature: str) -> None:
    """Abstract, synchronous, with the documented signature."""
    assert part.__abstractmethods__ == {method}
    assert str(inspect.signature(getattr(part, method))).replace("'", "") == signature
    assert not inspect.iscoroutinefunction(getattr(part, method))


def test_a_connector_is_all_four_parts() -> None:
    """In their order, with nothing asked for besides."""
    assert ObservabilityConnector.__bases__ == (Events, Logging, Statistics, Tracing)
    assert ObservabilityConnector.__abstractmethods__ == {"emit", "log", "flush", "trace"}
