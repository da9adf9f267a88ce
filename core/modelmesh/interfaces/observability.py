"""What crosses the border between the core and an observability connector.

Four sub-interfaces, all required, all synchronous: `Events`, `Logging`, `Statistics`, `Tracing`. The core calls
them off the request's path, from one worker per connector: they may take their time and may fail, no request
notices. They are never called by two threads at once for the same connector.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any


class EventType(Enum):
    """Types of routing events emitted by the library."""

    MODEL_ACTIVATED = "model_activated"
    MODEL_DEACTIVATED = "model_deactivated"
    MODEL_ROTATED = "model_rotated"
    PROVIDER_HEALTH_CHANGED = "provider_health_changed"
    PROVIDER_DEACTIVATED = "provider_deactivated"
    PROVIDER_RECOVERED = "provider_recovered"
    POOL_MEMBERSHIP_CHANGED = "pool_membership_changed"
    DISCOVERY_MODELS_UPDATED = "discovery_models_updated"


class LogLevel(Enum):
    """Detail level for request/response logging."""

    METADATA = "metadata"
    SUMMARY = "summary"
    FULL = "full"


class Severity(Enum):
    """Severity levels for structured trace reporting, lowest first."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"
    CRITICAL = "critical"


@dataclass
class RoutingEvent:
    """A routing state-change event; ``timestamp`` is timezone-aware UTC."""

    event_type: EventType
    timestamp: datetime
    model_id: str | None = None
    provider_id: str | None = None
    pool_id: str | None = None
    metadata: dict[str, Any] = None  # type: ignore[assignment]  # never None after __post_init__

    def __post_init__(self) -> None:
        if self.metadata is None:
            self.metadata = {}  # type: ignore[unreachable]  # it is None when it was left out


@dataclass(frozen=True, slots=True)
class TraceLink:
    """Where an attempt stands in a distributed trace (W3C trace context); IDs are lower-case hexadecimal.

    Attributes:
        trace_id: Of the whole trace, 32 digits.
        request_span_id: Of the request, 16 digits.
        attempt_span_id: Of the attempt, 16 digits; providers are sent it as their parent.
        traceparent: As the caller sent it; None when the trace begins here.
        tracestate: Likewise.
    """

    trace_id: str
    request_span_id: str
    attempt_span_id: str
    traceparent: str | None = None
    tracestate: str | None = None


@dataclass
class RequestLogEntry:
    """One attempt's request/response log record.

    The first eleven fields are fixed; those after ``error`` were added at the end and are optional.

    Attributes:
        timestamp: When the attempt ended, timezone-aware UTC.
        model_id: As configured.
        provider_id: As configured.
        capability: What was asked for.
        delivery_mode: ``sync``, ``streaming`` or ``batch``.
        latency_ms: From the call to its end.
        status_code: HTTP status; without one 504 for a timeout, 502 for any other failure.
        tokens_in: Input tokens.
        tokens_out: Output tokens.
        cost: USD, or None when the price is not known.
        error: The failure in one line, or None.
        request_id: Shared by all attempts of a request.
        pool_id: The pool that chose the model.
        request_payload: JSON text of the request, at the levels that ask for it.
        response_payload: JSON text of the answer, at the levels that ask for it.
        routing_reason: Why this model was chosen.
        attempt: 1-based number of the attempt within its request.
        overhead_us: Microseconds the router itself took, on the last record of a request.
        outcome: ``success``, the error's category, or ``cancelled``.
        operation: ``chat``, ``embeddings``, ``speech``, ``transcription`` or ``image``.
        upstream_model: The model as its provider names it.
        time_to_first_token_ms: Streams only; None when no content came.
        request_ms: From the request's arrival to the attempt's end, other attempts and pauses included.
        is_last: Whether the request ended with this attempt.
        trace: Its place in a trace, where a connector with ``wants_spans`` takes logs.
        log_level: How much of requests and answers this copy may hold; set on delivery.
    """

    timestamp: datetime
    model_id: str
    provider_id: str
    capability: str
    delivery_mode: str
    latency_ms: float
    status_code: int
    tokens_in: int
    tokens_out: int
    cost: float | None = None
    error: str | None = None
    request_id: str | None = None
    pool_id: str | None = None
    request_payload: str | None = None
    response_payload: str | None = None
    routing_reason: str | None = None
    attempt: int = 1
    overhead_us: float | None = None
    outcome: str | None = None
    operation: str | None = None
    upstream_model: str | None = None
    time_to_first_token_ms: float | None = None
    request_ms: float | None = None
    is_last: bool = False
    trace: TraceLink | None = None
    log_level: LogLevel | None = None


@dataclass
class AggregateStats:
    """Aggregated statistics for a model, provider, or pool.

    Each figure is stored once. The names without a unit (``requests_total``, ``latency_avg`` …) are read-only
    views for observability connectors: ``latency_*`` and ``downtime_total`` are seconds, ``*_latency_ms``
    milliseconds, costs USD, ``error_rate`` 0.0-1.0.

    Attributes:
        rotation_events: Deactivations and recoveries.
        last_updated: When the newest figure came in, timezone-aware UTC.
        downtime_total: Seconds a model was standby, a provider unavailable, a pool without an active model.
    """

    total_requests: int
    successful_requests: int
    failed_requests: int
    total_tokens_in: int
    total_tokens_out: int
    total_cost: float
    avg_latency_ms: float
    p50_latency_ms: float
    p95_latency_ms: float
    p99_latency_ms: float
    error_rate: float
    rotation_events: int
    last_updated: datetime
    downtime_total: float = field(default=0.0)

    @property
    def requests_total(self) -> int:
        """Same as ``total_requests``."""
        return self.total_requests

    @property
    def requests_success(self) -> int:
        """Same as ``successful_requests``."""
        return self.successful_requests

    @property
    def requests_failed(self) -> int:
        """Same as ``failed_requests``."""
        return self.failed_requests

    @property
    def tokens_in(self) -> int:
        """Same as ``total_tokens_in``."""
        return self.total_tokens_in

    @property
    def tokens_out(self) -> int:
        """Same as ``total_tokens_out``."""
        return self.total_tokens_out

    @property
    def cost_total(self) -> float:
        """Same as ``total_cost``."""
        return self.total_cost

    @property
    def latency_avg(self) -> float:
        """``avg_latency_ms`` in seconds."""
        return self.avg_latency_ms / 1000.0

    @property
    def latency_p95(self) -> float:
        """``p95_latency_ms`` in seconds."""
        return self.p95_latency_ms / 1000.0


@dataclass
class TraceEntry:
    """A structured trace/log entry with severity level.

    Attributes:
        component: Who speaks, such as ``router``, ``pool.text-generation`` or ``provider.openai``.
    """

    severity: Severity
    timestamp: datetime
    component: str
    message: str
    metadata: dict[str, Any] = None  # type: ignore[assignment]  # never None after __post_init__
    error: str | None = None

    def __post_init__(self) -> None:
        if self.metadata is None:
            self.metadata = {}  # type: ignore[unreachable]  # it is None when it was left out


class Events(ABC):
    """Publish routing decisions and state changes."""

    @abstractmethod
    def emit(self, event: RoutingEvent) -> None:
        """Emit a routing event to the configured output."""
        ...


class Logging(ABC):
    """Record request/response data at a configurable detail level.

    The level is ``observability.logging.level``: ``metadata``, ``summary`` or ``full``.
    """

    @abstractmethod
    def log(self, entry: RequestLogEntry) -> None:
        """Record a request/response log entry."""
        ...


class Statistics(ABC):
    """Flush aggregate metrics, keyed by model, provider or pool ID."""

    @abstractmethod
    def flush(self, stats: dict[str, AggregateStats]) -> None:
        """Flush aggregate statistics to the configured output.

        Args:
            stats: What accrued since the last flush, by scope identifier. An ID that stands in more than one
                scope is prefixed ``scope:``.
        """
        ...


class Tracing(ABC):
    """Structured trace reporting with severity levels, filtered by ``min_severity``."""

    @abstractmethod
    def trace(self, entry: TraceEntry) -> None:
        """Record a trace entry at the specified severity level."""
        ...


class ObservabilityConnector(Events, Logging, Statistics, Tracing):
    """Full observability connector combining all required interfaces.

    Several may be active at once (a webhook for alerts and a file for dashboards, say).

    A connector may offer more, none of which it must have:

    - ``bind(context)`` and ``close()``, at the ends of its life;
    - ``attach(mesh)``, called once when everything is built, for connectors that show what the mesh looks like. A
      `modelmesh.errors.ModelMeshError` it raises ends the start; anything else is traced;
    - ``metrics_page() -> tuple[str, bytes]``, a content type and a page that ``modelmesh serve`` then serves at
      ``/metrics``; called on a thread, at any time;
    - ``sections``, those among ``events``, ``logging``, ``statistics`` and ``tracing`` it takes, and ``min_severity``
      of traces, where it takes less than the configuration may send: what nobody takes costs nothing;
    - ``wants_spans = True``: request records carry a `TraceLink`, and providers are told its IDs.
    """
