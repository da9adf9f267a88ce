"""StatisticsCollector: what requests took, in memory, per model, provider and pool.

Figures go into hourly buckets, so the retention window slides and memory stays bounded; latencies into a logarithmic
histogram (`modelmesh.histogram`), so percentiles are within one percent whatever the traffic.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import TYPE_CHECKING

from modelmesh._engine.system import SystemClock
from modelmesh.errors import unknown_name
from modelmesh.histogram import LogHistogram, bucket_of
from modelmesh.interfaces.observability import AggregateStats
from modelmesh.interfaces.runtime import Clock

if TYPE_CHECKING:
    from modelmesh.interfaces.observability import ObservabilityConnector

__all__ = ["AggregateStats", "RequestMetrics", "StatisticsCollector", "StatsScope"]

FlushTarget = Callable[[dict[str, AggregateStats]], None]


class StatsScope(Enum):
    """Aggregation scope for statistics queries."""

    MODEL = "model"
    PROVIDER = "provider"
    POOL = "pool"


@dataclass
class RequestMetrics:
    """Metrics recorded from a single completed request; ``cost`` is USD, None when the price is not known."""

    latency_ms: float
    tokens_in: int
    tokens_out: int
    cost: float | None = None
    success: bool = True


class _Window:
    """Sums over one span of time."""

    __slots__ = (
        "cost",
        "downtime",
        "failures",
        "latencies",
        "latency_ms",
        "requests",
        "rotations",
        "start",
        "tokens_in",
        "tokens_out",
        "updated",
    )

    def __init__(self, start: float) -> None:
        self.start = start
        self.requests = 0
        self.failures = 0
        self.tokens_in = 0
        self.tokens_out = 0
        self.cost = 0.0
        self.latency_ms = 0.0
        self.rotations = 0
        self.downtime = 0.0
        self.updated = start
        self.latencies = LogHistogram()

    def merge(self, other: _Window) -> None:
        self.requests += other.requests
        self.failures += other.failures
        self.tokens_in += other.tokens_in
        self.tokens_out += other.tokens_out
        self.cost += other.cost
        self.latency_ms += other.latency_ms
        self.rotations += other.rotations
        self.downtime += other.downtime
        self.updated = max(self.updated, other.updated)
        self.latencies.merge(other.latencies)

    def aggregate(self) -> AggregateStats:
        requests = self.requests
        return AggregateStats(
            total_requests=requests,
            successful_requests=requests - self.failures,
            failed_requests=self.failures,
            total_tokens_in=self.tokens_in,
            total_tokens_out=self.tokens_out,
            total_cost=self.cost,
            avg_latency_ms=self.latency_ms / requests if requests else 0.0,
            p50_latency_ms=self.latencies.percentile(0.50),
            p95_latency_ms=self.latencies.percentile(0.95),
            p99_latency_ms=self.latencies.percentile(0.99),
            error_rate=self.failures / requests if requests else 0.0,
            rotation_events=self.rotations,
            last_updated=datetime.fromtimestamp(self.updated, UTC),
            downtime_total=self.downtime,
        )


class _Series:
    """One model's, provider's or pool's figures: the retention window in buckets, and what no flush has taken yet."""

    __slots__ = ("buckets", "down_since", "pending")

    def __init__(self) -> None:
        self.buckets: deque[_Window] = deque()
        self.pending: dict[int, _Window] = {}
        self.down_since: float | None = None


class StatisticsCollector:
    """Aggregate metrics buffer with query API.

    Buffers metrics from completed requests and flushes on a configurable schedule through observability connectors.
    Queryable at model, provider, and pool scopes. May be used from any thread.

    Args:
        connectors: Where `flush` goes: observability connectors, or one function that takes what they take.
        clock: Time; the system's by default.
        retention: Seconds that `query` looks back.
        scopes: Scopes to keep; by default all.
        bucket_seconds: How finely the retention window slides.
    """

    def __init__(
        self,
        connectors: FlushTarget | Sequence[ObservabilityConnector] = (),
        *,
        clock: Clock | None = None,
        retention: float = 7 * 86_400.0,
        scopes: Iterable[StatsScope] = tuple(StatsScope),
        bucket_seconds: float = 3_600.0,
    ) -> None:
        self._targets: list[FlushTarget] = (
            [connectors] if callable(connectors) else [connector.flush for connector in connectors]
        )
        self._clock = clock or SystemClock()
        self._retention = retention
        self._bucket_seconds = bucket_seconds
        self._series: dict[StatsScope, dict[str, _Series]] = {scope: {} for scope in scopes}
        self._lock = threading.Lock()

    # --- taking in ----------------------------------------------------------

    def record(self, model_id: str, provider_id: str, pool_id: str, metrics: RequestMetrics) -> None:
        """Record metrics from a completed request.

        Updates in-memory aggregates at all three scopes (model, provider, pool) with the provided metrics.

        Args:
            model_id: The model that handled the request.
            provider_id: The provider that served the request.
            pool_id: The pool from which the model was selected.
            metrics: Latency, token counts, cost, and success status.
        """
        now = self._clock.time()
        latency = metrics.latency_ms
        bucket = bucket_of(latency)
        cost = metrics.cost or 0.0
        with self._lock:
            for window in self._windows(model_id, provider_id, pool_id, now):
                window.requests += 1
                if not metrics.success:
                    window.failures += 1
                window.tokens_in += metrics.tokens_in
                window.tokens_out += metrics.tokens_out
                window.cost += cost
                window.latency_ms += latency
                window.latencies.add_bucket(bucket)
                window.updated = now

    def record_rotation(self, model_id: str, provider_id: str, pool_id: str) -> None:
        """Record that a pool moved a model between active and standby."""
        now = self._clock.time()
        with self._lock:
            for window in self._windows(model_id, provider_id, pool_id, now):
                window.rotations += 1
                window.updated = now

    def record_down(self, scope: StatsScope, name: str) -> None:
        """Note that a model, provider or pool stopped answering; repeating it changes nothing."""
        with self._lock:
            series = self._find(scope, name)
            if series is not None and series.down_since is None:
                series.down_since = self._clock.time()

    def record_up(self, scope: StatsScope, name: str) -> None:
        """Note that it answers again: the time since `record_down` is downtime."""
        with self._lock:
            series = self._find(scope, name)
            if series is not None:
                self._settle_downtime(series, self._clock.time())
                series.down_since = None

    def _settle_downtime(self, series: _Series, now: float) -> None:
        if series.down_since is None:
            return
        seconds = max(0.0, now - series.down_since)
        series.down_since = now
        for window in (self._bucket(series, now), *self._pending(series, now)):
            window.downtime += seconds
            window.updated = now

    def _windows(self, model_id: str, provider_id: str, pool_id: str, now: float) -> list[_Window]:
        """Return every window an observation goes into: the present bucket, and one not yet flushed per target."""
        windows: list[_Window] = []
        for scope, name in (
            (StatsScope.MODEL, model_id),
            (StatsScope.PROVIDER, provider_id),
            (StatsScope.POOL, pool_id),
        ):
            kept = self._series.get(scope)
            if kept is None:
                continue
            series = kept.get(name)
            if series is None:
                series = kept[name] = _Series()
            windows.append(self._bucket(series, now))
            if self._targets:
                windows.extend(self._pending(series, now))
        return windows

    def _find(self, scope: StatsScope, name: str) -> _Series | None:
        kept = self._series.get(scope)
        return None if kept is None else kept.setdefault(name, _Series())

    def _bucket(self, series: _Series, now: float) -> _Window:
        buckets = series.buckets
        if buckets and now < buckets[-1].start + self._bucket_seconds:
            # A wall clock set back goes on in the newest bucket rather than opening older ones.
            return buckets[-1]
        buckets.append(_Window(now - now % self._bucket_seconds))
        self._forget_old(buckets, now)
        return buckets[-1]

    def _forget_old(self, buckets: deque[_Window], now: float) -> None:
        while buckets and buckets[0].start + self._bucket_seconds <= now - self._retention:
            buckets.popleft()

    def _pending(self, series: _Series, now: float) -> list[_Window]:
        pending = series.pending
        if len(pending) != len(self._targets):
            for number in range(len(self._targets)):
                pending.setdefault(number, _Window(now))
        return list(pending.values())

    # --- handing over ---------------------------------------------------------

    def flush(self) -> None:
        """Push buffered metrics to all observability connectors.

        Each is handed what accrued since it last took some. One that raises keeps its share for the next flush, and
        the others are served all the same. Called automatically on the configured flush interval and at shutdown;
        can also be called manually.

        Raises:
            ExceptionGroup: Some connectors raised; holds what they raised.
        """
        errors: list[Exception] = []
        for number, target in enumerate(self._targets):
            with self._lock:
                taken = self._take(number)
            if not taken:
                continue
            try:
                target(_keyed(taken))
            except Exception as error:
                errors.append(error)
                with self._lock:
                    self._give_back(number, taken)
        if errors:
            raise ExceptionGroup("statistics could not be handed to every connector", errors)

    def _take(self, number: int) -> dict[tuple[StatsScope, str], _Window]:
        now = self._clock.time()
        taken: dict[tuple[StatsScope, str], _Window] = {}
        for scope, kept in self._series.items():
            for name, series in kept.items():
                self._settle_downtime(series, now)
                window = series.pending.pop(number, None)
                if window is not None and (window.requests or window.rotations or window.downtime):
                    taken[scope, name] = window
        return taken

    def _give_back(self, number: int, taken: Mapping[tuple[StatsScope, str], _Window]) -> None:
        for (scope, name), window in taken.items():
            series = self._series[scope].setdefault(name, _Series())
            later = series.pending.get(number)
            if later is not None:
                window.merge(later)
            series.pending[number] = window

    # --- asking -----------------------------------------------------------------

    def query(self, scope: StatsScope, name: str) -> AggregateStats:
        """Return aggregate statistics for a model, provider, or pool, over the retention window.

        Args:
            scope: The aggregation scope (MODEL, PROVIDER, or POOL).
            name: The identifier within the scope (e.g., model name, provider name, or pool name).

        Returns:
            Aggregated statistics for the specified scope and name.

        Raises:
            KeyError: If no data exists for the given scope and name.
        """
        with self._lock:
            kept = self._series.get(scope)
            if kept is None:
                raise KeyError(
                    f"statistics for scope {scope.value!r} are not kept; see observability.statistics.scopes"
                )
            series = kept.get(name)
            now = self._clock.time()
            if series is not None:
                self._settle_downtime(series, now)
                self._forget_old(series.buckets, now)
            if series is None or not series.buckets:
                raise KeyError(f"no statistics yet: {unknown_name(scope.value, name, list(kept))}")
            total = _Window(series.buckets[0].start)
            for bucket in series.buckets:
                total.merge(bucket)
        return total.aggregate()

    def model(self, name: str) -> AggregateStats:
        """Return `query` for a model."""
        return self.query(StatsScope.MODEL, name)

    def provider(self, name: str) -> AggregateStats:
        """Return `query` for a provider."""
        return self.query(StatsScope.PROVIDER, name)

    def pool(self, name: str) -> AggregateStats:
        """Return `query` for a pool."""
        return self.query(StatsScope.POOL, name)

    def names(self, scope: StatsScope) -> list[str]:
        """Names with figures, in the order they came up."""
        with self._lock:
            return list(self._series.get(scope, {}))

    def reset(self) -> None:
        """Clear all buffered statistics.

        Removes all in-memory aggregates. Does not affect data already flushed to observability connectors.
        """
        with self._lock:
            for kept in self._series.values():
                kept.clear()


def _keyed(windows: Mapping[tuple[StatsScope, str], _Window]) -> dict[str, AggregateStats]:
    """Key figures by bare ID; an ID that several scopes share is prefixed with its scope."""
    counts: dict[str, int] = {}
    for _, name in windows:
        counts[name] = counts.get(name, 0) + 1
    return {
        name if counts[name] == 1 else f"{scope.value}:{name}": window.aggregate()
        for (scope, name), window in windows.items()
    }
