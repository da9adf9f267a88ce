"""BaseObservability: an observability connector is one method that writes a line; the rest follows from it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar, Generic, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, field_validator

from modelmesh.errors import unknown_name
from modelmesh.hookspecs import hookimpl
from modelmesh.interfaces.observability import (
    AggregateStats,
    EventType,
    LogLevel,
    ObservabilityConnector,
    RequestLogEntry,
    RoutingEvent,
    Severity,
    TraceEntry,
)
from modelmesh.interfaces.runtime import ConnectorContext
from modelmesh.redaction import Redactor
from modelmesh_cdk.json_codec import encode_json

EVENT_GROUPS: Mapping[str, frozenset[str]] = {
    "rotation": frozenset({"model_rotated"}),
    "deactivation": frozenset({"model_deactivated", "provider_deactivated"}),
    "recovery": frozenset({"model_activated", "provider_recovered"}),
    "health": frozenset({"provider_health_changed"}),
}
"""Words that stand for several events in a filter."""

_SCOPES = ("model", "provider", "pool")
_RANK = {severity.value: rank for rank, severity in enumerate(Severity)}


class BaseObservabilityConfig(BaseModel):
    """Settings every connector has. Inside a mesh the dispatcher has filtered already, so the defaults let all pass."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    event_filter: list[str] = Field(default=[], description="Event names or groups; empty for all.")
    log_level: LogLevel = Field(default=LogLevel.FULL, description="Detail of request records.")
    min_severity: Severity = Field(default=Severity.DEBUG, description="Traces below it are dropped.")
    redact_secrets: bool = Field(default=True, description="Take anything that looks like a credential out of lines.")
    scopes: list[str] = Field(default=list(_SCOPES), description="Scopes of statistics to write.")

    @field_validator("event_filter")
    @classmethod
    def _are_events(cls, names: list[str]) -> list[str]:
        return _known("event", names, [*EVENT_GROUPS, *(event.value for event in EventType)])

    @field_validator("scopes")
    @classmethod
    def _are_scopes(cls, names: list[str]) -> list[str]:
        return _known("scope", names, _SCOPES)


ConfigT = TypeVar("ConfigT", bound=BaseObservabilityConfig)


class BaseObservability(ObservabilityConnector, Generic[ConfigT]):
    """Inherit this and write `_write`.

    Records become JSON lines with ``type`` event, log, stats or trace; override a ``_format_…`` hook for another shape.
    The core calls it from one thread of its own, off every request's path: it may block, and may raise.

    Records come in batches, for connectors that care: one that sets ``batch_size`` (records) and ``batch_wait``
    (seconds) says how many may gather and for how long, and one that has ``begin_batch()`` and ``end_batch()`` is told
    where a batch begins and ends; what `end_batch` raises concerns all of it. ``stop_waiting()``, if there is one, is
    called from another thread when shutdown begins; it must return at once.

    Attributes:
        config_model: Settings the connector reads from its section of the configuration.
        connector_id: Set it only when one plugin offers several connectors; else the entry point's name is the ID.
    """

    config_model: ClassVar[type[BaseObservabilityConfig]] = BaseObservabilityConfig
    connector_id: ClassVar[str] = ""
    is_null: ClassVar[bool] = False
    context: ConnectorContext | None = None

    def __init__(self, config: ConfigT | None = None) -> None:
        self.config = config if config is not None else cast("ConfigT", self.config_model())
        self._redactor = Redactor()
        self._redacts = self.config.redact_secrets
        self._second, self._until_second = math.nan, ""
        self._events = _events(self.config.event_filter)
        self._lowest = _RANK[self.config.min_severity.value]

    @classmethod
    @hookimpl
    def modelmesh_observability(cls) -> Mapping[str, type[BaseObservability[Any]]]:
        """Offer this class under its entry point's name."""
        return {cls.connector_id: cls}

    def bind(self, context: ConnectorContext) -> None:
        """Receive clock and trace."""
        self.context = context
        # What the mesh hands over has lost its secrets: to look again would double the cost, and undo the wish of one
        # who set logging.redact_secrets to false.
        self._redacts = self.config.redact_secrets and not context.redacts

    # --- what the core calls ----------------------------------------------------

    def emit(self, event: RoutingEvent) -> None:
        """Write an event that passes the filter."""
        if self._takes_event(event):
            self._send(self._format_event(event))

    def log(self, entry: RequestLogEntry) -> None:
        """Write a request record at the configured level."""
        self._send(self._format_log(entry))

    def flush(self, stats: dict[str, AggregateStats]) -> None:
        """Write statistics, a line a scope."""
        for scope_id, figures in stats.items():
            if self._takes_scope(scope_id):
                self._send(self._format_stats(scope_id, figures))

    def trace(self, entry: TraceEntry) -> None:
        """Write a trace of sufficient severity."""
        if self._takes_trace(entry):
            self._send(self._format_trace(entry))

    def close(self) -> None:
        """Release what is held; called once, after the last record."""

    # --- hooks --------------------------------------------------------------------

    def _write(self, line: str) -> None:
        """Put one line where it belongs, without a line end. Does nothing by default."""

    def _format_event(self, event: RoutingEvent) -> str:
        return self._json(
            "event",
            {
                "event_type": event.event_type.value,
                "timestamp": self._iso(event.timestamp),
                "model_id": event.model_id,
                "provider_id": event.provider_id,
                "pool_id": event.pool_id,
                "metadata": event.metadata,
            },
        )

    def _format_log(self, entry: RequestLogEntry) -> str:
        record: dict[str, Any] = {
            "timestamp": self._iso(entry.timestamp),
            "request_id": entry.request_id,
            "model_id": entry.model_id,
            "provider_id": entry.provider_id,
            "pool_id": entry.pool_id,
            "attempt": entry.attempt,
            "status_code": entry.status_code,
            "latency_ms": entry.latency_ms,
            "tokens_in": entry.tokens_in,
            "tokens_out": entry.tokens_out,
            "total_tokens": entry.tokens_in + entry.tokens_out,
            "cost": entry.cost,
            "error": entry.error,
        }
        if self.config.log_level is not LogLevel.METADATA:
            record |= {
                "capability": entry.capability,
                "delivery_mode": entry.delivery_mode,
                "routing_reason": entry.routing_reason,
                "overhead_us": entry.overhead_us,
            }
            for name in ("request_payload", "response_payload"):
                payload = getattr(entry, name)
                if payload is not None:
                    record[name] = payload
        return self._json("log", record)

    def _format_stats(self, scope_id: str, stats: AggregateStats) -> str:
        return self._json(
            "stats",
            {
                "scope_id": scope_id,
                "requests_total": stats.requests_total,
                "requests_success": stats.requests_success,
                "requests_failed": stats.requests_failed,
                "tokens_in": stats.tokens_in,
                "tokens_out": stats.tokens_out,
                "cost_total": stats.cost_total,
                "latency_avg": stats.latency_avg,
                "latency_p95": stats.latency_p95,
                "downtime_total": stats.downtime_total,
                "rotation_events": stats.rotation_events,
            },
        )

    def _format_trace(self, entry: TraceEntry) -> str:
        record: dict[str, Any] = {
            "severity": entry.severity._value_,
            "timestamp": self._iso(entry.timestamp),
            "component": entry.component,
            "message": entry.message,
        }
        if entry.metadata:
            record["metadata"] = entry.metadata
        if entry.error is not None:
            record["error"] = entry.error
        return self._json("trace", record)

    def _redact(self, text: str) -> str:
        """Return a text without credentials."""
        return self._redactor.text(text)

    # --- inside ---------------------------------------------------------------------

    def _iso(self, moment: datetime) -> str:
        """Return a moment as ISO 8601 in UTC, to the millisecond."""
        second = moment.timestamp() // 1
        if second != self._second:
            # Records of one second share all but their milliseconds, and isoformat is the dearest part of a line.
            self._second, self._until_second = second, moment.astimezone(UTC).isoformat()[:19]
        return f"{self._until_second}.{moment.microsecond // 1000:03d}Z"

    def _takes_event(self, event: RoutingEvent) -> bool:
        return self._events is None or event.event_type in self._events

    def _takes_scope(self, scope_id: str) -> bool:
        # A bare ID may hold a colon of its own (llama3:8b); only the name of a scope before it is a prefix.
        scope, _, name = scope_id.partition(":")
        return not name or scope not in _SCOPES or scope in self.config.scopes

    def _takes_trace(self, entry: TraceEntry) -> bool:
        # ``value`` is a Python function, and this is asked for each line.
        return _RANK[entry.severity._value_] >= self._lowest

    def _json(self, kind: str, record: Mapping[str, Any]) -> str:
        if not self.config.redact_secrets:
            return json.dumps({"type": kind, **record}, ensure_ascii=False, default=str)
        # Redaction also makes plain values of what JSON has no form for. The type goes into the text: a record that
        # began with it would have to be copied once more.
        text = encode_json(self._redactor.mapping(record) if self._redacts else record).decode()
        line = f'{{"type":"{kind}",{text[1:]}'
        return _CleanLine(line) if self._redacts else line

    def _send(self, line: str) -> None:
        if self._redacts:
            line = str(line) if isinstance(line, _CleanLine) else self._redact(line)
        if not line.isascii():
            # Halves of surrogate pairs come out of providers' JSON; no file takes them. So written, JSON reads them.
            line = line.encode(errors="backslashreplace").decode()
        self._write(line)


class _CleanLine(str):
    """A JSON line whose values were redacted one by one; taken for plain text, quotes could go with a secret."""

    __slots__ = ()


def _events(names: list[str]) -> frozenset[EventType] | None:
    """Return the events a filter names; None for all."""
    if not names:
        return None
    values = {value for name in names for value in EVENT_GROUPS.get(name, frozenset({name}))}
    return frozenset(EventType(value) for value in values)


def _known(kind: str, names: list[str], known: Sequence[str]) -> list[str]:
    for name in names:
        if name not in known:
            raise ValueError(unknown_name(kind, name, known))
    return names
