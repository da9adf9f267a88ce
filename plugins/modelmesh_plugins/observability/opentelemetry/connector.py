"""OpenTelemetryObservability: a span a request with a child an attempt, and metrics, to a collector."""

from __future__ import annotations

from os import environ
from typing import ClassVar
from urllib.parse import urlsplit

from opentelemetry.metrics import Meter
from pydantic import Field, SecretStr, field_validator

from modelmesh.distributions import own_version
from modelmesh.interfaces.observability import AggregateStats, RequestLogEntry, RoutingEvent, Severity, TraceEntry
from modelmesh_cdk.labels import BoundedLabels
from modelmesh_cdk.observability import BaseObservability, BaseObservabilityConfig
from modelmesh_plugins.observability.opentelemetry import genai_names as names
from modelmesh_plugins.observability.opentelemetry.pipeline import Pipeline
from modelmesh_plugins.observability.opentelemetry.spans import SpanWriter, metric_attributes, wants_content

_CLOSE_SECONDS = 2.0
"""Time the last batches get; less than the mesh gives all its connectors together."""


class OpenTelemetryConfig(BaseObservabilityConfig):
    """Settings of the OpenTelemetry connector."""

    endpoint: str | None = Field(
        default=None,
        description="Base URL of the collector; by default what OTEL_EXPORTER_OTLP_ENDPOINT says, or port 4318 here.",
    )
    headers: dict[str, SecretStr] = Field(default={}, description="Headers for the collector, keys for instance.")
    service_name: str | None = Field(
        default=None, description="What this service is called; by default what OTEL_SERVICE_NAME says, or modelmesh."
    )
    timeout: float = Field(default=5.0, gt=0, description="Time a batch may take, repetitions included, in seconds.")
    span_delay: float = Field(default=5.0, gt=0, description="Time that spans gather before they are sent, in seconds.")
    metrics_interval: float = Field(default=60.0, gt=0, description="Time between two exports of metrics, in seconds.")
    max_label_values: int = Field(
        default=500, ge=1, description="Values an attribute of metrics may have; later ones are counted as 'other'."
    )
    queue_size: int = Field(default=2_048, ge=1, description="Spans that may wait; the oldest give way to more.")

    @field_validator("endpoint")
    @classmethod
    def _is_a_url(cls, endpoint: str | None) -> str | None:
        if endpoint is None:
            return None
        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("it is no URL; write it as http://collector:4318")
        if parts.username or parts.password:
            raise ValueError("a URL with a password ends up in logs; put credentials under headers")
        return endpoint


class OpenTelemetryObservability(BaseObservability[OpenTelemetryConfig]):
    """Traces and metrics for OpenTelemetry, over OTLP/HTTP."""

    config_model = OpenTelemetryConfig
    wants_spans: ClassVar[bool] = True
    sections: ClassVar[frozenset[str]] = frozenset({"events", "logging"})

    def __init__(self, config: OpenTelemetryConfig | None = None) -> None:
        super().__init__(config)
        self._pipeline: Pipeline | None = None
        self._labels = BoundedLabels(self.config.max_label_values, clean=self._redact)
        self._is_closed = False

    # --- records -------------------------------------------------------------------

    def log(self, entry: RequestLogEntry) -> None:
        """Write an attempt's span and figures, and the request's when it was the last."""
        if self._is_closed:
            return
        if self._pipeline is None:
            self._start()
        self._measure(entry)
        if entry.trace is not None:
            self._spans.write(entry, entry.trace, content=wants_content(entry, self.config.log_level))

    def emit(self, event: RoutingEvent) -> None:
        """Count an event."""
        if self._is_closed or (self._events is not None and event.event_type not in self._events):
            return
        if self._pipeline is None:
            self._start()
        self._counted.add(1, {names.EVENT: event.event_type.value})

    def flush(self, stats: dict[str, AggregateStats]) -> None:
        """Nothing: the collector adds up what it is sent."""

    def trace(self, entry: TraceEntry) -> None:
        """Nothing: diagnostic messages belong to a log."""

    def _measure(self, entry: RequestLogEntry) -> None:
        attributes = metric_attributes(entry, self._labels)
        self._duration.record(entry.latency_ms / 1000.0, attributes)
        if entry.time_to_first_token_ms is not None:
            self._first_chunk.record(entry.time_to_first_token_ms / 1000.0, attributes)
        if entry.tokens_in:
            self._tokens.record(entry.tokens_in, {**attributes, names.TOKEN_TYPE: "input"})
        if entry.tokens_out:
            self._tokens.record(entry.tokens_out, {**attributes, names.TOKEN_TYPE: "output"})
        if entry.is_last and entry.request_ms is not None:
            self._requests.record(
                entry.request_ms / 1000.0,
                {
                    names.POOL: self._labels.value(names.POOL, entry.pool_id),
                    names.OUTCOME: self._labels.value(names.OUTCOME, entry.outcome),
                },
            )

    # --- life -------------------------------------------------------------------------

    @property
    def lost(self) -> int:
        """Spans that the collector did not take."""
        return 0 if self._pipeline is None else self._pipeline.exporter.lost

    def force_flush(self) -> None:
        """Send what waits, now; returns when it is sent or lost."""
        if self._pipeline is not None:
            self._pipeline.flush()

    def close(self) -> None:
        """Send what waits, for a few seconds at most."""
        self._is_closed = True
        pipeline, self._pipeline = self._pipeline, None
        if pipeline is not None:
            pipeline.close(_CLOSE_SECONDS)

    def _start(self) -> None:
        """Start the SDK, and its threads with it, with the first record: a mesh that is only checked needs neither."""
        settings = self.config
        about = {"service.version": own_version() or "unknown"}
        name = settings.service_name or ("" if _is_named() else "modelmesh")
        if name:
            about["service.name"] = name
        self._pipeline = Pipeline(
            endpoint=settings.endpoint,
            headers={key.lower(): value.get_secret_value() for key, value in settings.headers.items()},
            resource=about,
            timeout=settings.timeout,
            interval=settings.metrics_interval,
            delay=settings.span_delay,
            queue_size=settings.queue_size,
            report=self._report,
        )
        self._spans = SpanWriter(self._pipeline.traces, self._pipeline.ids, self._redact)
        self._instruments(self._pipeline.metrics.get_meter("modelmesh", schema_url=names.SCHEMA_URL))

    def _instruments(self, meter: Meter) -> None:
        self._tokens = meter.create_histogram(
            names.TOKEN_USAGE,
            "{token}",
            "Input and output tokens used.",
            explicit_bucket_boundaries_advisory=names.TOKEN_BUCKETS,
        )
        self._duration = meter.create_histogram(
            names.OPERATION_DURATION,
            "s",
            "Single calls to providers.",
            explicit_bucket_boundaries_advisory=names.DURATION_BUCKETS,
        )
        self._first_chunk = meter.create_histogram(
            names.FIRST_CHUNK_DURATION,
            "s",
            "From a call to the first content of its stream.",
            explicit_bucket_boundaries_advisory=names.FIRST_CHUNK_BUCKETS,
        )
        self._requests = meter.create_histogram(
            names.REQUEST_DURATION,
            "s",
            "Whole requests, all attempts and pauses included.",
            explicit_bucket_boundaries_advisory=names.DURATION_BUCKETS,
        )
        self._counted = meter.create_counter(names.EVENTS, "{event}", "Routing events.")

    def _report(self, lost: int | None) -> None:
        if self.context is None:
            return
        if lost is None:
            self.context.trace(Severity.INFO, "the collector takes spans again")
        else:
            self.context.trace(Severity.WARNING, f"the collector takes no spans; {lost} are lost by now")


def _is_named() -> bool:
    """Whether the environment names this service."""
    return "OTEL_SERVICE_NAME" in environ or "service.name=" in environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
