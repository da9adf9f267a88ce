"""The Prometheus connector: what it counts, what its page says, and how much of it there can be."""

from __future__ import annotations

import socket
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families as parse
from pydantic import SecretStr, ValidationError

from modelmesh.errors import ConfigurationError, ModelMeshError, ProviderServerError
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
from modelmesh_cdk.testing import ObservabilityContract, answer
from modelmesh_plugins.observability.prometheus import PrometheusConfig, PrometheusObservability
from modelmesh_plugins.observability.prometheus.catalogue import CATALOGUE, POOL_MODELS, PROVIDER_AVAILABLE
from modelmesh_plugins.observability.prometheus.series import family
from modelmesh_plugins.server.runner import ProxyServer
from modelmesh_plugins.server.settings import ServerSettings

NOON = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
FAILURE = ProviderServerError("no")
Entry = Callable[..., RequestLogEntry]
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples(page: str) -> Samples:
    """Return a page's values by name and labels, as the official parser reads it; each may stand there once."""
    found = [(each.name, frozenset(each.labels.items()), each.value) for one in parse(page) for each in one.samples]
    assert len({each[:2] for each in found}) == len(found), "a series stands on the page twice"
    return {(name, labels): value for name, labels, value in found}


def value(page: str, name: str, **labels: str) -> float | None:
    """Return the value of one series; None when it is not there."""
    return samples(page).get((name, frozenset(labels.items())))


class TestContract(ObservabilityContract):
    """``modelmesh.prometheus.v1``."""

    def make(self, context: ConnectorContext) -> ObservabilityConnector:
        self.connector = PrometheusObservability()
        return self.connector

    def output(self) -> str:
        return self.connector.render_metrics()

    def test_every_record_is_put_out(self) -> None:
        """Records are counted, not put out one by one."""
        pytest.skip("it counts")


# --- what is counted --------------------------------------------------------------------------


def test_a_masked_failure_is_counted_as_one(build: Callable[..., Any]) -> None:
    """One request, two attempts, one rotation, one failure that the caller never saw."""
    world = build({"connector": "prometheus"}, a=[FAILURE], b=[answer(prompt_tokens=1_000, tokens=500)])
    connector = world.connector

    world.ask()
    world.mesh.shutdown()

    page = connector.render_metrics()
    b = {"pool": "chat", "provider": "b", "model": "b"}
    assert value(page, "modelmesh_requests_total", pool="chat", outcome="success") == 1
    assert value(page, "modelmesh_attempts_total", pool="chat", provider="a", model="a", outcome="server_error") == 1
    assert value(page, "modelmesh_attempts_total", **b, outcome="success") == 1
    assert value(page, "modelmesh_rotations_total", pool="chat", reason="server_error") == 1
    assert value(page, "modelmesh_masked_failures_total", pool="chat") == 1
    assert value(page, "modelmesh_retries_total", pool="chat") == 0
    assert value(page, "modelmesh_tokens_total", **b, direction="input") == 1_000
    assert value(page, "modelmesh_tokens_total", **b, direction="output") == 500
    assert value(page, "modelmesh_cost_usd_total", **b) == pytest.approx(2.0)
    assert value(page, "modelmesh_request_duration_seconds_count", pool="chat") == 1
    assert value(page, "modelmesh_router_overhead_seconds_count", pool="chat") == 1


def test_a_request_that_fails_is_counted_by_its_last_failure(build: Callable[..., Any]) -> None:
    """A call, a retry, and nothing masked."""
    world = build({"connector": "prometheus"}, a=[FAILURE, FAILURE])
    connector = world.connector

    with pytest.raises(ModelMeshError):
        world.ask()
    world.mesh.shutdown()

    page = connector.render_metrics()
    assert value(page, "modelmesh_requests_total", pool="chat", outcome="server_error") == 1
    assert value(page, "modelmesh_retries_total", pool="chat") == 1
    assert value(page, "modelmesh_masked_failures_total", pool="chat") == 0


def test_a_stream_shows_its_time_to_first_token(build: Callable[..., Any]) -> None:
    """Whole answers have none."""
    world = build({"connector": "prometheus"}, a=["one two", "whole"])
    connector = world.connector

    assert world.stream() == "one two"
    world.ask()
    world.mesh.shutdown()

    page = connector.render_metrics()
    target = {"pool": "chat", "provider": "a", "model": "a"}
    assert value(page, "modelmesh_time_to_first_token_seconds_count", **target) == 1
    assert value(page, "modelmesh_attempt_duration_seconds_count", **target) == 2


def test_buckets_add_up(entry: Entry) -> None:
    """A value counts in its own bucket and all above; one on the bound belongs to it; none is lost beyond the last."""
    connector = PrometheusObservability()
    for milliseconds in (5.0, 120.0, 900_000.0):
        connector.log(entry(latency_ms=milliseconds))

    page = connector.render_metrics()

    name, target = "modelmesh_attempt_duration_seconds", {"pool": "chat", "provider": "acme", "model": "gpt"}
    bounds = {"0.005": 1, "0.1": 1, "0.25": 2, "300.0": 2, "+Inf": 3}
    assert {le: value(page, f"{name}_bucket", **target, le=le) for le in bounds} == bounds
    assert value(page, f"{name}_sum", **target) == pytest.approx(900.125)
    assert value(page, f"{name}_count", **target) == 3


def test_events_traces_and_downtime_are_counted() -> None:
    """Of statistics only downtime is taken: the rest would be counted twice."""
    connector = PrometheusObservability()
    stats = AggregateStats(9, 9, 0, 1, 1, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0, NOON, 2.5)

    connector.emit(RoutingEvent(EventType.MODEL_DEACTIVATED, NOON, "m"))
    connector.trace(TraceEntry(Severity.ERROR, NOON, "router", "no"))
    connector.flush({"gpt": stats})
    connector.flush({"gpt": stats})

    page = connector.render_metrics()
    assert value(page, "modelmesh_events_total", event="model_deactivated") == 1
    assert value(page, "modelmesh_trace_entries_total", severity="error") == 1
    assert value(page, "modelmesh_downtime_seconds_total", id="gpt") == 5
    assert not [name for name, _ in samples(page) if name.startswith("modelmesh_requests")]


def test_messages_below_the_connectors_severity_are_not_counted() -> None:
    """Two of them come with every request, and say nothing a request's own figures do not."""
    connector = PrometheusObservability()

    connector.trace(TraceEntry(Severity.INFO, NOON, "router", "said"))

    assert samples(connector.render_metrics()) == {}


def test_pools_providers_and_lost_records_are_read_from_the_mesh(build: Callable[..., Any]) -> None:
    """They are true at the moment of asking."""
    world = build({"connector": "prometheus"}, a=[], b=[])
    world.mesh.rotate("chat")

    page = world.connector.render_metrics()

    assert value(page, "modelmesh_pool_models", pool="chat", status="active") == 1
    assert value(page, "modelmesh_pool_models", pool="chat", status="standby") == 1
    assert value(page, "modelmesh_provider_available", provider="a") == 1
    assert value(page, "modelmesh_provider_availability_score", provider="a") == 1
    assert value(page, "modelmesh_requests_in_flight", pool="chat") == 0
    assert (
        value(page, "modelmesh_observability_records_total", connector="modelmesh.prometheus.v1", result="dropped") == 0
    )


def test_the_page_has_every_metric_of_the_catalogue_and_no_other(build: Callable[..., Any], entry: Entry) -> None:
    """Names, kinds and labels are as the catalogue says."""
    world = build({"connector": "prometheus"})
    connector = world.connector
    connector.log(entry(cost=1.0, time_to_first_token_ms=1.0, request_ms=1.0, overhead_us=1.0))

    families = {each.name: each for each in parse(connector.render_metrics())}

    assert set(families) == {metric.name.removesuffix("_total") for metric in CATALOGUE}
    for metric in CATALOGUE:
        found = families[metric.name.removesuffix("_total")]
        assert (found.type, found.documentation) == (metric.kind, metric.help)
        assert all({*each.labels} - {"le"} == {*metric.labels} for each in found.samples)


# --- bounds -------------------------------------------------------------------------------------


def test_labels_end_in_other(entry: Entry) -> None:
    """Ten times as many models, providers and pools as may be: the page stays small, and no count is lost."""
    connector = PrometheusObservability(PrometheusConfig(max_label_values=20))

    for number in range(200):
        connector.log(entry(model_id=f"m{number}", provider_id=f"p{number}", pool_id=f"q{number}"))

    attempts = {
        labels: count
        for (name, labels), count in samples(connector.render_metrics()).items()
        if "attempts_total" in name
    }
    assert sum(attempts.values()) == 200
    assert len(attempts) == 21
    other = frozenset({"model": "other", "provider": "other", "pool": "other", "outcome": "success"}.items())
    assert attempts[other] == 180


def test_labels_that_multiply_end_in_other(entry: Entry) -> None:
    """Few values of each label make many combinations; there are no more of them than values of one."""
    connector = PrometheusObservability(PrometheusConfig(max_label_values=20))

    for number in range(8_000):
        connector.log(
            entry(model_id=f"m{number % 20}", provider_id=f"p{number // 20 % 20}", pool_id=f"q{number // 400}")
        )

    attempts = [key for key in samples(connector.render_metrics()) if key[0] == "modelmesh_attempts_total"]
    assert len(attempts) <= 20 + 20


def test_outcomes_and_ids_are_bounded_too(entry: Entry) -> None:
    """Whatever a stranger's plugin writes into a record."""
    connector = PrometheusObservability(PrometheusConfig(max_label_values=5))
    stats = AggregateStats(9, 9, 0, 1, 1, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0, NOON, 2.5)

    for number in range(50):
        connector.log(entry(outcome=f"o{number}"))
        connector.flush({f"id{number}": stats})
        connector.emit(RoutingEvent(EventType.MODEL_ROTATED, NOON, pool_id="chat", metadata={"reason": f"r{number}"}))

    names = [name for name, _ in samples(connector.render_metrics())]
    for name in ("modelmesh_requests_total", "modelmesh_downtime_seconds_total", "modelmesh_rotations_total"):
        assert names.count(name) == 6


def test_more_pools_than_labels_do_not_spoil_the_page(build: Callable[..., Any]) -> None:
    """What is read from the mesh is added up under other, not written twice."""
    world = build({"connector": "prometheus", "max_label_values": 1}, a=[], b=[], c=[])

    page = world.connector.render_metrics()

    assert value(page, "modelmesh_provider_available", provider="other") == 1
    merged = family(POOL_MODELS, [(("other", "active"), 2.0), (("other", "active"), 3.0)])
    worst = family(PROVIDER_AVAILABLE, [(("other",), 0.0), (("other",), 1.0)], min)
    assert [[sample.value for sample in each.samples] for each in (merged, worst)] == [[5.0], [0.0]]


def test_odd_names_are_quoted(entry: Entry) -> None:
    """Quotes, backslashes, line breaks and other alphabets come back from the parser as they were."""
    odd = 'm"odel\\\n{}é🎉'
    connector = PrometheusObservability()

    connector.log(entry(model_id=odd))

    target = {"pool": "chat", "provider": "acme", "model": odd, "outcome": "success"}
    assert value(connector.render_metrics(), "modelmesh_attempts_total", **target) == 1


# --- the page over HTTP -----------------------------------------------------------------------------


def test_the_listener_serves_the_page_at_its_path(build: Callable[..., Any], entry: Entry) -> None:
    """Over HTTP, parsed by the official client; any other path is not found."""
    world = build({"connector": "prometheus", "prometheus": {"port": 0, "path": "/own"}})
    world.connector.log(entry())
    url = f"http://127.0.0.1:{world.connector.port}"

    with httpx.Client(trust_env=False) as client:
        page, lost = client.get(f"{url}/own"), client.get(f"{url}/metrics")

    assert page.headers["content-type"].startswith("text/plain; version=")
    assert value(page.text, "modelmesh_requests_total", pool="chat", outcome="success") == 1
    assert (lost.status_code, lost.text) == (404, "the metrics are at /own\n")


def test_collectors_get_the_format_they_ask_for(build: Callable[..., Any]) -> None:
    """OpenMetrics for those that take it."""
    world = build({"connector": "prometheus", "prometheus": {"port": 0}})

    with httpx.Client(trust_env=False) as client:
        page = client.get(
            f"http://127.0.0.1:{world.connector.port}/metrics", headers={"accept": "application/openmetrics-text"}
        )

    assert page.headers["content-type"].startswith("application/openmetrics-text")
    assert page.text.endswith("# EOF\n")


def test_a_port_in_use_is_told_at_the_start(build: Callable[..., Any]) -> None:
    """With the port and what to do; nothing is left running."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        with pytest.raises(
            ConfigurationError, match=rf"cannot listen on 127.0.0.1:{port}: .*in use.*; set another port"
        ):
            build({"connector": "prometheus", "prometheus": {"port": port}})


def test_the_port_is_free_after_shutdown(build: Callable[..., Any]) -> None:
    """The next mesh may have it."""
    first = build({"connector": "prometheus", "prometheus": {"port": 0}})
    port = first.connector.port

    first.mesh.shutdown()
    second = build({"connector": "prometheus", "prometheus": {"port": port}})

    assert second.connector.port == port


def test_without_a_port_nothing_listens(build: Callable[..., Any]) -> None:
    """Several processes of one configuration do not fight over one."""
    assert build({"connector": "prometheus"}).connector.port is None


@pytest.mark.parametrize(
    "settings", [{"port": 70_000}, {"port": -1}, {"path": "metrics"}, {"path": "/m?x=1"}, {"max_label_values": 0}]
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any]) -> None:
    """When the configuration is loaded."""
    with pytest.raises(ValidationError):
        PrometheusConfig(**settings)


def test_the_server_shows_the_page(build: Callable[..., Any], entry: Entry) -> None:
    """GET /metrics of ``modelmesh serve``, for those with a key if keys are asked for."""
    world = build({"connector": "prometheus"})
    world.connector.log(entry())
    key = "door-key-canary-4711"

    with (
        ProxyServer(world.mesh, ServerSettings(port=0, keys=(SecretStr(key),))) as server,
        httpx.Client(base_url=server.url, trust_env=False) as client,
    ):
        refused = client.get("/metrics")
        page = client.get("/metrics", headers={"authorization": f"Bearer {key}"})

    assert refused.status_code == 401
    assert page.headers["content-type"].startswith("text/plain; version=")
    assert value(page.text, "modelmesh_requests_total", pool="chat", outcome="success") == 1


def test_a_server_without_metrics_says_how_to_have_them(build: Callable[..., Any]) -> None:
    """404, and the connector's name."""
    world = build({"connector": "modelmesh.null.v1"})

    with ProxyServer(world.mesh, ServerSettings(port=0)) as server, httpx.Client(trust_env=False) as client:
        reply = client.get(f"{server.url}/metrics")

    assert reply.status_code == 404
    assert "modelmesh.prometheus.v1" in reply.json()["error"]["message"]
