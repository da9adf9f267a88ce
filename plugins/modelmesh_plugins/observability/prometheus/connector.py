"""PrometheusObservability: counts what happens, and shows it as a page."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector
from pydantic import Field, field_validator

from modelmesh.interfaces.observability import (
    AggregateStats,
    EventType,
    RequestLogEntry,
    RoutingEvent,
    Severity,
    TraceEntry,
)
from modelmesh_cdk.labels import OTHER, BoundedLabels
from modelmesh_cdk.observability import BaseObservability, BaseObservabilityConfig
from modelmesh_plugins.observability.prometheus import catalogue as names
from modelmesh_plugins.observability.prometheus.listener import PageListener
from modelmesh_plugins.observability.prometheus.series import Labels, Series, family

if TYPE_CHECKING:
    from modelmesh.mesh import ModelMesh


_SEVERITIES = tuple(Severity)


class PrometheusConfig(BaseObservabilityConfig):
    """Settings of the Prometheus connector."""

    min_severity: Severity = Field(
        default=Severity.WARNING, description="Diagnostic messages below it are not counted."
    )
    port: int | None = Field(
        default=None,
        ge=0,
        le=65535,
        description="Port of a listener of its own; 0 for any free one. Absent: only 'modelmesh serve' shows the page.",
    )
    host: str = Field(default="127.0.0.1", description="Address that listener takes; others than loopback see all.")
    path: str = Field(default="/metrics", description="Where the page is on that listener.")
    max_label_values: int = Field(
        default=500, ge=1, description="Values a label may have; whatever comes after them is counted as 'other'."
    )

    @field_validator("path")
    @classmethod
    def _is_a_path(cls, path: str) -> str:
        if not path.startswith("/") or "?" in path:
            raise ValueError(f"{path!r} is no path; begin it with a slash, as in /metrics")
        return path


class PrometheusObservability(BaseObservability[PrometheusConfig]):
    """Metrics for Prometheus, on a page of its own or of ``modelmesh serve``."""

    config_model = PrometheusConfig

    def __init__(self, config: PrometheusConfig | None = None) -> None:
        super().__init__(config)
        self._lock = threading.Lock()
        self._series = Series()
        self._labels = BoundedLabels(self.config.max_label_values, clean=self._redact)
        self._targets: set[Labels] = set()
        self._mesh: ModelMesh | None = None
        self._listener: PageListener | None = None
        self.registry = CollectorRegistry()
        self.registry.register(_Collector(self))

    # --- life -----------------------------------------------------------------------

    def attach(self, mesh: ModelMesh) -> None:
        """Show this mesh's pools and providers, and open the listener if one was asked for.

        Raises:
            ConfigurationError: The listener's port is taken, or its host is none of this machine's.
        """
        self._mesh = mesh
        with self._lock:
            for pool in mesh.list_pools():
                # A counter that appears with its first increment hides that increment from rate().
                for metric in (names.RETRIES, names.MASKED):
                    self._series.add(metric, (self._label("pool", pool),), 0.0)
        settings = self.config
        if settings.port is not None and self._listener is None:
            self._listener = PageListener(self.registry, host=settings.host, port=settings.port, path=settings.path)

    def close(self) -> None:
        """Close the listener."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()

    @property
    def min_severity(self) -> Severity:
        """What the mesh need not send it."""
        return self.config.min_severity

    @property
    def port(self) -> int | None:
        """Where its own listener listens; None without one."""
        return None if self._listener is None else self._listener.port

    # --- the page ---------------------------------------------------------------------

    def render_metrics(self) -> str:
        """Return the page as text, in Prometheus' exposition format."""
        return generate_latest(self.registry).decode()

    def metrics_page(self) -> tuple[str, bytes]:
        """Return content type and page for a server that shows it at ``/metrics``."""
        return CONTENT_TYPE_LATEST, generate_latest(self.registry)

    def families(self) -> list[Family]:
        """Return every metric with its values at this moment."""
        glance = None if self._mesh is None else _Glance(self._mesh)
        with self._lock:
            return [*self._series.families(), *(() if glance is None else self._observed(glance))]

    # --- records ------------------------------------------------------------------------

    def emit(self, event: RoutingEvent) -> None:
        """Count an event; of a rotation also why."""
        if self._events is not None and event.event_type not in self._events:
            return
        with self._lock:
            self._series.add(names.EVENTS, (event.event_type.value,))
            if event.event_type is EventType.MODEL_ROTATED:
                reason = str(event.metadata.get("reason") or "unknown")
                labels = (self._label("pool", event.pool_id), self._label("reason", reason))
                self._series.add(names.ROTATIONS, labels)

    def log(self, entry: RequestLogEntry) -> None:
        """Count an attempt, and the request it ended."""
        outcome = entry.outcome or ("success" if entry.error is None else "unknown")
        with self._lock:
            series = self._series
            target = self._target(entry)
            series.add(names.ATTEMPTS, (*target, self._label("outcome", outcome)))
            series.observe(names.ATTEMPT_SECONDS, target, entry.latency_ms / 1000.0)
            if entry.tokens_in:
                series.add(names.TOKENS, (*target, "input"), entry.tokens_in)
            if entry.tokens_out:
                series.add(names.TOKENS, (*target, "output"), entry.tokens_out)
            if entry.cost is not None:
                series.add(names.COST, target, entry.cost)
            if entry.time_to_first_token_ms is not None:
                series.observe(names.FIRST_TOKEN_SECONDS, target, entry.time_to_first_token_ms / 1000.0)
            pool = (target[0],)
            if entry.attempt > 1 and entry.routing_reason == "retry":
                series.add(names.RETRIES, pool)
            if entry.is_last:
                self._request(entry, pool, outcome)

    def _request(self, entry: RequestLogEntry, pool: Labels, outcome: str) -> None:
        series = self._series
        series.add(names.REQUESTS, (*pool, self._label("outcome", outcome)))
        if entry.request_ms is not None:
            series.observe(names.REQUEST_SECONDS, pool, entry.request_ms / 1000.0)
        if entry.overhead_us is not None:
            series.observe(names.ROUTER_SECONDS, pool, entry.overhead_us / 1e6)
        if outcome == "success" and entry.attempt > 1:
            series.add(names.MASKED, pool, entry.attempt - 1)

    def flush(self, stats: dict[str, AggregateStats]) -> None:
        """Add downtime; everything else in statistics is counted from request records already."""
        with self._lock:
            for name, figures in stats.items():
                if figures.downtime_total > 0:
                    self._series.add(names.DOWNTIME, (self._label("id", name),), figures.downtime_total)

    def trace(self, entry: TraceEntry) -> None:
        """Count a diagnostic message of sufficient severity."""
        if _SEVERITIES.index(entry.severity) < _SEVERITIES.index(self.config.min_severity):
            return
        with self._lock:
            self._series.add(names.TRACES, (entry.severity.value,))

    # --- inside ---------------------------------------------------------------------------

    def _label(self, label: str, value: str | None) -> str:
        return self._labels.value(label, value)

    def _target(self, entry: RequestLogEntry) -> Labels:
        """Return pool, provider and model of an attempt; there are no more triples of them than values of one."""
        target = (
            self._labels.value("pool", entry.pool_id),
            self._labels.value("provider", entry.provider_id),
            self._labels.value("model", entry.model_id),
        )
        if target not in self._targets:
            if len(self._targets) >= self.config.max_label_values:
                return (target[0], OTHER, OTHER)
            self._targets.add(target)
        return target

    def _observed(self, glance: _Glance) -> Iterator[Family]:
        """Yield what was read from the mesh."""
        pools = [(self._label("pool", pool.name), pool) for pool in glance.pools]
        yield family(names.IN_FLIGHT, [((name,), pool.in_flight) for name, pool in pools])
        active = [((name, "active"), float(pool.active)) for name, pool in pools]
        standby = [((name, "standby"), float(pool.standby)) for name, pool in pools]
        yield family(names.POOL_MODELS, [*active, *standby])
        providers = [((self._label("provider", name),), status) for name, status in glance.providers.items()]
        yield family(names.PROVIDER_AVAILABLE, [(labels, float(each["available"])) for labels, each in providers], min)
        yield family(names.PROVIDER_SCORE, [(labels, each["availability_score"]) for labels, each in providers], min)
        counts = [(self._label("connector", name), each) for name, each in glance.counts.items()]
        yield family(
            names.RECORDS,
            [
                ((name, result), float(getattr(each, result)))
                for name, each in counts
                for result in ("delivered", "failed", "dropped")
            ],
        )
        yield family(names.WAITING, [((name,), float(each.waiting)) for name, each in counts])


class _PoolGlance(NamedTuple):
    name: str
    in_flight: int
    active: int
    standby: int


class _Glance:
    """What a mesh looks like at one moment; read without a lock of ours, as the mesh takes locks of its own."""

    def __init__(self, mesh: ModelMesh) -> None:
        states = [(pool, pool.get_state()) for pool in mesh.get_router().list_pools()]
        self.pools = [
            _PoolGlance(pool.name, pool.active_requests, state.active_count, state.standby_count)
            for pool, state in states
        ]
        self.providers = mesh.provider_status()
        self.counts = mesh.delivery_counts()


class _Collector(Collector):
    """What the client library asks when it makes a page."""

    def __init__(self, connector: PrometheusObservability) -> None:
        self._connector = connector

    def collect(self) -> Iterable[Family]:
        return self._connector.families()

    def describe(self) -> Iterable[Family]:
        """Nothing: registering must not read a mesh."""
        return ()
