"""StatisticsCollector: what requests took, in memory, per model, provider and pool.

Figures go into hourly spans, so the retention window slides and memory stays bounded; latencies into a logarithmic
histogram (`modelmesh.histogram`), so percentiles are within one percent whatever the traffic.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from modelmesh._engine.figures import Figures, History, add_up
from modelmesh._engine.system import SystemClock
from modelmesh.errors import unknown_name
from modelmesh.histogram import bucket_of
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


class _Series:
    """One model's, provider's or pool's figures.

    Attributes:
        fresh: Where observations go; what it holds has not reached ``newest`` and the pending figures yet.
        ends: Wall-clock time at which ``fresh`` no longer counts for the newest span.
        newest: The span that was written last, or None if there is none in the retention window.
        past: The spans of the retention window before it; none where it is None.
        pending: What no flush has taken yet, by the number of the target.
        down_since: Monotonic time since which it does not answer, or None.
    """

    __slots__ = ("down_since", "ends", "fresh", "newest", "past", "pending")

    def __init__(self) -> None:
        self.fresh = Figures(0.0)
        self.ends = float("-inf")
        self.newest: Figures | None = None
        self.past = History()
        self.pending: dict[int, Figures] = {}
        self.down_since: float | None = None

    def is_idle(self) -> bool:
        """Whether it holds nothing that anybody could still ask for."""
        return self.newest is None and not self.pending and self.down_since is None


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
        self._routes: dict[tuple[str, str, str], tuple[_Series, ...]] = {}
        # May be taken twice: the garbage collector may end a request while another one is being recorded.
        self._lock = threading.RLock()

    def reconfigure(self, *, retention: float, scopes: Iterable[StatsScope]) -> None:
        """Look back another time and keep other scopes from now on; what is kept already stays where it may.

        Args:
            retention: Seconds that `query` looks back.
            scopes: Scopes to keep; the figures of all others are dropped.
        """
        with self._lock:
            self._retention = retention
            self._series = {scope: self._series.get(scope, {}) for scope in scopes}
            self._routes.clear()

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
            for series in self._routes.get((model_id, provider_id, pool_id)) or self._route(
                model_id, provider_id, pool_id
            ):
                if now >= series.ends:
                    self._open_span(series, now)
                window = series.fresh
                window.requests += 1
                if not metrics.success:
                    window.failures += 1
                window.tokens_in += metrics.tokens_in
                window.tokens_out += metrics.tokens_out
                window.cost += cost
                window.latency_ms += latency
                window.latencies.add_bucket(bucket)
                window.updated = now

    def record_batch(
        self,
        model_id: str,
        provider_id: str,
        pool_id: str,
        *,
        requests: int,
        failures: int,
        tokens_in: int,
        tokens_out: int,
        cost: float | None,
    ) -> None:
        """Record a batch that a provider carried out: its requests have no latency of their own.

        Args:
            model_id: The model that served it.
            provider_id: Its provider.
            pool_id: The pool it came through.
            requests: How many were answered or failed.
            failures: How many of them failed.
            tokens_in: Input tokens of all.
            tokens_out: Output tokens of all.
            cost: USD of all, None when the price is not known.
        """
        now = self._clock.time()
        with self._lock:
            for series in self._route(model_id, provider_id, pool_id):
                figures = self._figures(series, now)
                figures.requests += requests
                figures.failures += failures
                figures.tokens_in += tokens_in
                figures.tokens_out += tokens_out
                figures.cost += cost or 0.0
                figures.updated = now

    def record_rotation(self, model_id: str, provider_id: str, pool_id: str) -> None:
        """Record that a pool moved a model between active and standby."""
        now = self._clock.time()
        with self._lock:
            for series in self._route(model_id, provider_id, pool_id):
                figures = self._figures(series, now)
                figures.rotations += 1
                figures.updated = now

    def record_down(self, scope: StatsScope, name: str) -> None:
        """Note that a model, provider or pool stopped answering; repeating it changes nothing."""
        with self._lock:
            kept = self._series.get(scope)
            if kept is None:
                return
            series = kept.setdefault(name, _Series())
            if series.down_since is None:
                series.down_since = self._clock.monotonic()

    def record_up(self, scope: StatsScope, name: str) -> None:
        """Note that it answers again: the time since `record_down` is downtime. Nothing for what was never down."""
        with self._lock:
            series = self._series.get(scope, {}).get(name)
            if series is not None:
                self._settle_downtime(series, self._clock.time())
                series.down_since = None

    def _settle_downtime(self, series: _Series, now: float) -> None:
        """Book the downtime so far, each part of it in the span in which it passed."""
        if series.down_since is None:
            return
        moment = self._clock.monotonic()
        # Measured on the monotonic clock: setting the wall clock makes nobody's outage longer.
        seconds = min(moment - series.down_since, self._retention)
        series.down_since = moment
        since = now - seconds
        while since < now:
            figures = self._figures(series, since)
            until = min(now, series.ends)
            figures.downtime += until - since
            figures.updated = max(figures.updated, until)
            since = until

    def _route(self, model_id: str, provider_id: str, pool_id: str) -> tuple[_Series, ...]:
        """Return the series an observation goes into, one for each scope that is kept."""
        key = (model_id, provider_id, pool_id)
        route = self._routes.get(key)
        if route is None:
            names = zip((StatsScope.MODEL, StatsScope.PROVIDER, StatsScope.POOL), key, strict=True)
            route = self._routes[key] = tuple(
                self._series[scope].setdefault(name, _Series()) for scope, name in names if scope in self._series
            )
        return route

    def _figures(self, series: _Series, now: float) -> Figures:
        if now >= series.ends:
            self._open_span(series, now)
        return series.fresh

    def _open_span(self, series: _Series, now: float) -> None:
        # A wall clock set back goes on in the newest span, whose end lies ahead, rather than opening older ones.
        self._fold(series)
        if series.newest is not None:
            series.past.append(series.newest)
        start = now - now % self._bucket_seconds
        series.newest = Figures(start)
        series.ends = start + self._bucket_seconds
        series.fresh = Figures(start)
        self._forget_old(series, now)

    def _fold(self, series: _Series) -> None:
        """Bring fresh observations into the newest span and into each target's pending figures."""
        fresh = series.fresh
        if fresh.is_empty() or series.newest is None:
            return
        series.newest.merge(fresh)
        for number in range(len(self._targets)):
            series.pending.setdefault(number, Figures(fresh.start)).merge(fresh)
        series.fresh = Figures(fresh.start)

    def _forget_old(self, series: _Series, now: float) -> None:
        oldest = now - self._retention - self._bucket_seconds
        series.past.forget(oldest)
        if series.newest is not None and series.newest.start <= oldest:
            series.newest = None
            series.ends = float("-inf")

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

    def _take(self, number: int) -> dict[tuple[StatsScope, str], Figures]:
        now = self._clock.time()
        taken: dict[tuple[StatsScope, str], Figures] = {}
        with self._lock:
            everything = [(scope, name) for scope, kept in self._series.items() for name in kept]
        for scope, name in everything:
            # Locked one at a time: whoever records meanwhile waits for one series, not for thousands.
            with self._lock:
                series = self._series[scope].get(name)
                if series is None:
                    continue
                self._settle_downtime(series, now)
                self._fold(series)
                self._forget_old(series, now)
                figures = series.pending.pop(number, None)
                if figures is not None:
                    taken[scope, name] = figures
                elif series.is_idle():
                    del self._series[scope][name]
                    self._routes.clear()
        return taken

    def _give_back(self, number: int, taken: Mapping[tuple[StatsScope, str], Figures]) -> None:
        for (scope, name), figures in taken.items():
            series = self._series[scope].setdefault(name, _Series())
            later = series.pending.get(number)
            if later is not None:
                figures.merge(later)
            series.pending[number] = figures

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
                self._fold(series)
                self._forget_old(series, now)
            if series is None or series.newest is None:
                raise KeyError(f"no statistics yet: {unknown_name(scope.value, name, list(kept))}")
            total = Figures(0.0)
            total.merge(series.newest)
            past = series.past.packed()
        # Adding up a week takes milliseconds: not under the lock that every request takes.
        add_up(past, total)
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
            self._routes.clear()
            for kept in self._series.values():
                kept.clear()


def _keyed(taken: Mapping[tuple[StatsScope, str], Figures]) -> dict[str, AggregateStats]:
    """Key figures by bare ID; an ID that several scopes share is prefixed with its scope."""
    counts: dict[str, int] = {}
    for _, name in taken:
        counts[name] = counts.get(name, 0) + 1
    return {
        name if counts[name] == 1 else f"{scope.value}:{name}": figures.aggregate()
        for (scope, name), figures in taken.items()
    }
