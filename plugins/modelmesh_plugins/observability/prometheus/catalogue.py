"""Every metric there is: name, kind, labels, and what it says. Dashboards and documentation are held against it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
OVERHEAD_SECONDS = (0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.1)
"""Upper bounds of histogram buckets."""

_TARGET = ("pool", "provider", "model")


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric.

    Attributes:
        name: As it is written in queries; a histogram's has ``_bucket``, ``_sum`` or ``_count`` after it there.
        kind: What Prometheus calls its type.
        help: One line for people.
        labels: In the order in which values are given.
        buckets: Upper bounds, for histograms.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...]
    buckets: tuple[float, ...] = ()


REQUESTS = Metric(
    "modelmesh_requests_total",
    "counter",
    "Requests that came to an end: success, cancelled, or the category of the last failure.",
    ("pool", "outcome"),
)
ATTEMPTS = Metric("modelmesh_attempts_total", "counter", "Calls to providers.", (*_TARGET, "outcome"))
RETRIES = Metric("modelmesh_retries_total", "counter", "Calls to the same model again, within one request.", ("pool",))
MASKED = Metric(
    "modelmesh_masked_failures_total",
    "counter",
    "Failed calls of requests that succeeded in the end: failures no caller saw.",
    ("pool",),
)
ROTATIONS = Metric(
    "modelmesh_rotations_total", "counter", "Requests that moved on to another model.", ("pool", "reason")
)
EVENTS = Metric("modelmesh_events_total", "counter", "Routing events.", ("event",))
TRACES = Metric(
    "modelmesh_trace_entries_total", "counter", "Diagnostic messages of sufficient severity.", ("severity",)
)
TOKENS = Metric("modelmesh_tokens_total", "counter", "Tokens: direction is input or output.", (*_TARGET, "direction"))
COST = Metric("modelmesh_cost_usd_total", "counter", "Money spent, where prices are known, in USD.", _TARGET)
DOWNTIME = Metric(
    "modelmesh_downtime_seconds_total",
    "counter",
    "Time that a model, provider or pool did not answer; added at each flush of statistics.",
    ("id",),
)
REQUEST_SECONDS = Metric(
    "modelmesh_request_duration_seconds",
    "histogram",
    "Whole requests, all attempts and pauses included.",
    ("pool",),
    SECONDS,
)
ATTEMPT_SECONDS = Metric(
    "modelmesh_attempt_duration_seconds", "histogram", "Single calls to providers.", _TARGET, SECONDS
)
FIRST_TOKEN_SECONDS = Metric(
    "modelmesh_time_to_first_token_seconds",
    "histogram",
    "From a call to the first content of its stream.",
    _TARGET,
    SECONDS,
)
ROUTER_SECONDS = Metric(
    "modelmesh_router_overhead_seconds",
    "histogram",
    "What the router itself added to successful requests.",
    ("pool",),
    OVERHEAD_SECONDS,
)
IN_FLIGHT = Metric("modelmesh_requests_in_flight", "gauge", "Requests running now.", ("pool",))
POOL_MODELS = Metric(
    "modelmesh_pool_models", "gauge", "Models of a pool: status is active or standby.", ("pool", "status")
)
PROVIDER_AVAILABLE = Metric("modelmesh_provider_available", "gauge", "1 if it may be called now.", ("provider",))
PROVIDER_SCORE = Metric(
    "modelmesh_provider_availability_score", "gauge", "How available probes found it, 0 to 1.", ("provider",)
)
RECORDS = Metric(
    "modelmesh_observability_records_total",
    "counter",
    "Records for observability connectors: result is delivered, failed or dropped.",
    ("connector", "result"),
)
WAITING = Metric(
    "modelmesh_observability_waiting_records", "gauge", "Records that wait for a connector.", ("connector",)
)

RECORDED = (
    REQUESTS,
    ATTEMPTS,
    RETRIES,
    MASKED,
    ROTATIONS,
    EVENTS,
    TRACES,
    TOKENS,
    COST,
    DOWNTIME,
    REQUEST_SECONDS,
    ATTEMPT_SECONDS,
    FIRST_TOKEN_SECONDS,
    ROUTER_SECONDS,
)
"""Added up as records come in."""

OBSERVED = (IN_FLIGHT, POOL_MODELS, PROVIDER_AVAILABLE, PROVIDER_SCORE, RECORDS, WAITING)
"""Read from the mesh when the page is asked for."""

CATALOGUE = (*RECORDED, *OBSERVED)
