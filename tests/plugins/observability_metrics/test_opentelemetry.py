"""The OpenTelemetry connector, against a receiver on loopback that decodes what it is sent."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable
from typing import Any, ClassVar

import httpx
import pytest
from pydantic import SecretStr, ValidationError

from modelmesh.errors import ModelMeshError, ProviderServerError
from modelmesh.interfaces.observability import LogLevel, ObservabilityConnector, RequestLogEntry, TraceLink
from modelmesh.interfaces.runtime import ConnectorContext
from modelmesh_cdk.testing import ObservabilityContract, answer, context
from modelmesh_plugins.observability.opentelemetry import (
    OpenTelemetryConfig,
    OpenTelemetryObservability,
)
from modelmesh_plugins.observability.opentelemetry import (
    genai_names as names,
)
from modelmesh_plugins.server.runner import ProxyServer
from modelmesh_plugins.server.settings import ServerSettings

FAILURE = ProviderServerError("no room left")
CANARY = "sk-canary-5f0c2b7e91d34a6f8b20"
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SOUND = f"00-{TRACE}-{PARENT}-01"
LINK = TraceLink("1" * 32, "2" * 16, "3" * 16)
Entry = Callable[..., RequestLogEntry]


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What this machine's environment says to OpenTelemetry is none of these tests' business."""
    for name in [name for name in os.environ if name.startswith("OTEL_") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _shared_collector(collector: Any) -> None:
    """Tell the contract where to send."""
    TestContract.url = collector.url


class TestContract(ObservabilityContract):
    """``modelmesh.opentelemetry.v1``."""

    url: ClassVar[str] = ""

    def make(self, context: ConnectorContext) -> ObservabilityConnector:
        return OpenTelemetryObservability(OpenTelemetryConfig(endpoint=self.url))


def section(collector: Any, **settings: Any) -> dict[str, Any]:
    """Return an observability section that sends to a collector."""
    return {"connector": "opentelemetry", "opentelemetry": {"endpoint": collector.url, **settings}}


# --- spans ----------------------------------------------------------------------------------


def test_a_request_is_a_span_with_a_child_an_attempt(
    build: Callable[..., Any], collector: Any, facts: Callable[[Any], dict[str, Any]]
) -> None:
    """A failure and an answer: three spans of one trace, named and told as the conventions say."""
    world = build(section(collector), a=[FAILURE], b=[answer(prompt_tokens=1_000, tokens=500)])

    world.ask()
    world.mesh.shutdown()

    by_name = {span.name: span for span in collector.spans}
    request, failed, answered = (by_name[name] for name in ("chat chat", "chat a-upstream", "chat b-upstream"))
    assert len(collector.spans) == 3
    assert {span.trace_id for span in collector.spans} == {request.trace_id}
    assert request.parent_span_id == b""
    assert failed.parent_span_id == answered.parent_span_id == request.span_id
    told = facts(answered)
    assert told["gen_ai.operation.name"] == "chat"
    assert told["gen_ai.provider.name"] == "b"
    assert told["gen_ai.request.model"] == "b-upstream"
    assert (told["gen_ai.usage.input_tokens"], told["gen_ai.usage.output_tokens"]) == (1_000, 500)
    assert told["modelmesh.cost_usd"] == pytest.approx(2.0)
    assert told["modelmesh.routing.reason"] == "rotation"
    assert (failed.status.code, failed.status.message) == (2, "no room left")
    assert facts(failed)["error.type"] == "server_error"
    assert facts(request)["modelmesh.attempts"] == 2
    assert request.status.code == 0


def test_spans_lie_within_their_request(build: Callable[..., Any], collector: Any) -> None:
    """Attempts begin and end inside it, one after the other."""
    world = build(section(collector), a=[FAILURE], b=[])

    world.ask()
    world.mesh.shutdown()

    first, second, request = collector.spans
    begun = request.start_time_unix_nano
    assert begun <= first.start_time_unix_nano <= first.end_time_unix_nano
    assert first.end_time_unix_nano <= second.end_time_unix_nano == request.end_time_unix_nano
    assert abs(begun / 1e9 - time.time()) < 60


def test_a_request_that_fails_has_a_span_that_says_so(
    build: Callable[..., Any], collector: Any, facts: Callable[[Any], dict[str, Any]]
) -> None:
    """Its error type is the last failure's."""
    world = build(section(collector), a=[FAILURE, FAILURE])

    with pytest.raises(ModelMeshError):
        world.ask()
    world.mesh.shutdown()

    request = next(span for span in collector.spans if span.name == "chat chat")
    assert request.status.code == 2
    assert facts(request)["error.type"] == "server_error"
    assert len(collector.spans) == 3


def test_the_callers_trace_goes_on_and_reaches_providers(build: Callable[..., Any], collector: Any) -> None:
    """The caller's span is the request's parent; the attempt's is what the provider gets for one."""
    world = build(section(collector), a=[])

    world.ask(headers={"traceparent": SOUND, "tracestate": "vendor=1"})
    world.mesh.shutdown()

    attempt, request = collector.spans
    assert request.trace_id.hex() == attempt.trace_id.hex() == TRACE
    assert request.parent_span_id.hex() == PARENT
    assert request.trace_state == attempt.trace_state == "vendor=1"
    sent = world.providers["a"].requests[0].headers
    assert sent == {"traceparent": f"00-{TRACE}-{attempt.span_id.hex()}-01", "tracestate": "vendor=1"}


def test_the_context_comes_in_over_http(build: Callable[..., Any], collector: Any) -> None:
    """A request to the server with ``traceparent`` belongs to its caller's trace."""
    world = build(section(collector), a=[])

    with ProxyServer(world.mesh, ServerSettings(port=0)) as server, httpx.Client(trust_env=False) as client:
        reply = client.post(
            f"{server.url}/v1/chat/completions",
            json={"model": "chat", "messages": [{"role": "user", "content": "hi"}]},
            headers={"traceparent": SOUND},
        )
    world.mesh.shutdown()

    assert reply.status_code == 200
    assert {span.trace_id.hex() for span in collector.spans} == {TRACE}


def test_a_trace_the_caller_does_not_sample_is_not_recorded(build: Callable[..., Any], collector: Any) -> None:
    """Nor do providers hear otherwise; metrics count it all the same."""
    world = build(section(collector), a=[])

    world.ask(traceparent=f"00-{TRACE}-{PARENT}-00")
    world.mesh.shutdown()

    assert collector.spans == []
    assert world.providers["a"].requests[0].headers["traceparent"].endswith("-00")
    assert len(collector.points("gen_ai.client.operation.duration")) == 1


@pytest.mark.parametrize("level", ["metadata", "summary"])
def test_prompts_and_answers_are_told_at_level_full_only(build: Callable[..., Any], collector: Any, level: str) -> None:
    """Neither spans nor metrics hold a word of them below it."""
    observability = {**section(collector), "logging": {"level": level}}
    world = build(observability, a=[answer("a secret answer")])

    world.ask()
    world.mesh.shutdown()

    assert collector.spans
    assert not any(b"What is it" in body or b"a secret answer" in body for body in collector.bodies)


def test_at_level_full_prompts_and_answers_are_messages(
    build: Callable[..., Any], collector: Any, facts: Callable[[Any], dict[str, Any]]
) -> None:
    """In the shape of the conventions, for whole answers and streams."""
    world = build({**section(collector), "logging": {"level": "full"}}, a=[answer("It is."), answer("It was.")])

    world.ask()
    world.stream()
    world.mesh.shutdown()

    told = [facts(span) for span in collector.spans if span.name == "chat a-upstream"]
    assert [json.loads(each[names.INPUT_MESSAGES]) for each in told] == [
        [{"role": "user", "parts": [{"type": "text", "content": "What is it?"}]}]
    ] * 2
    texts = [json.loads(each[names.OUTPUT_MESSAGES])[0]["parts"][0]["content"] for each in told]
    assert texts == ["It is.", "It was."]


def test_a_connector_may_be_kept_from_prompts(build: Callable[..., Any], collector: Any) -> None:
    """Its own ``log_level`` holds while another sink gets everything."""
    world = build({**section(collector, log_level="metadata"), "logging": {"level": "full"}}, a=[])

    world.ask()
    world.mesh.shutdown()

    assert not any(b"What is it" in body for body in collector.bodies)


def test_secrets_are_taken_out(entry: Entry, collector: Any) -> None:
    """Of errors and of content."""
    connector = OpenTelemetryObservability(OpenTelemetryConfig(endpoint=collector.url))
    payload = json.dumps({"messages": [{"role": "user", "content": f"my key is {CANARY}"}]})

    connector.log(
        entry(trace=LINK, outcome="auth", error=f"Bearer {CANARY}", request_payload=payload, log_level=LogLevel.FULL)
    )
    connector.close()

    assert len(collector.spans) == 2
    assert not any(CANARY.encode() in body for body in collector.bodies)


def test_payloads_that_are_odd_are_left_out(entry: Entry, collector: Any) -> None:
    """Cut JSON, JSON of another shape, images and tool calls harm nothing."""
    connector = OpenTelemetryObservability(OpenTelemetryConfig(endpoint=collector.url))
    image = {"messages": [{"role": 5, "content": [{"type": "image_url"}, {"text": "t"}, 3]}, "x"]}
    call = {"choices": [{"message": {"tool_calls": [{"id": "1", "function": {"name": "f"}}, 4]}}, 7]}
    odd = [('{"messages": [{"ro…', "[]"), ("[]", "{}"), ('{"messages": 5}', "5"), (json.dumps(image), json.dumps(call))]

    for asked, answered in odd:
        connector.log(entry(trace=LINK, request_payload=asked, response_payload=answered, log_level=LogLevel.FULL))
    connector.close()

    assert len(collector.spans) == 2 * len(odd)


# --- metrics and service ------------------------------------------------------------------------


def test_tokens_and_durations_are_histograms_of_the_conventions(
    build: Callable[..., Any], collector: Any, facts: Callable[[Any], dict[str, Any]]
) -> None:
    """Named and told apart as they say, with the bounds they recommend."""
    world = build(section(collector), a=[FAILURE], b=[answer(prompt_tokens=100, tokens=7)])

    world.ask()
    world.mesh.shutdown()

    tokens = {facts(point)["gen_ai.token.type"]: point for point in collector.points("gen_ai.client.token.usage")}
    assert {kind: point.sum for kind, point in tokens.items()} == {"input": 100, "output": 7}
    assert list(tokens["input"].explicit_bounds) == list(names.TOKEN_BUCKETS)
    durations = {
        facts(point)["gen_ai.provider.name"]: facts(point) for point in collector.points(names.OPERATION_DURATION)
    }
    assert durations["a"]["error.type"] == "server_error"
    assert "error.type" not in durations["b"]
    (request,) = collector.points("modelmesh.request.duration")
    assert facts(request) == {"modelmesh.pool": "chat", "modelmesh.outcome": "success"}
    assert any(facts(point)["modelmesh.event"] == "model_rotated" for point in collector.points("modelmesh.events"))


def test_a_stream_shows_its_time_to_first_chunk(build: Callable[..., Any], collector: Any) -> None:
    """In its span and as a histogram."""
    world = build(section(collector), a=["one two"])

    world.stream()
    world.mesh.shutdown()

    assert [point.count for point in collector.points("gen_ai.client.operation.time_to_first_chunk")] == [1]


def test_more_models_than_a_metric_should_have_end_in_one(
    entry: Entry, collector: Any, facts: Callable[[Any], dict[str, Any]]
) -> None:
    """Whatever comes after the limit is counted as other; spans keep the name."""
    connector = OpenTelemetryObservability(OpenTelemetryConfig(endpoint=collector.url, max_label_values=50))

    for number in range(100):
        connector.log(entry(model_id=f"m{number}", outcome=f"o{number}", trace=LINK))
    connector.close()

    points = collector.points("gen_ai.client.operation.duration")
    by_model = {facts(point)["gen_ai.request.model"]: point.count for point in points}
    assert (len(by_model), by_model["other"]) == (51, 50)
    assert len({facts(span)["gen_ai.request.model"] for span in collector.spans}) == 101


def test_the_service_has_a_name_and_a_version(build: Callable[..., Any], collector: Any) -> None:
    """Its own, unless one was given."""
    world = build(section(collector, service_name="shop"), a=[])

    world.ask()
    world.mesh.shutdown()

    assert collector.resources[0]["service.name"] == "shop"
    assert collector.resources[0]["service.version"]


def test_the_environment_may_name_collector_and_service(
    build: Callable[..., Any], collector: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenTelemetry's own variables hold where the configuration says nothing."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    monkeypatch.setenv("OTEL_SERVICE_NAME", "by-environment")
    world = build({"connector": "opentelemetry"}, a=[])

    world.ask()
    world.mesh.shutdown()

    assert collector.resources[0]["service.name"] == "by-environment"


def test_headers_reach_the_collector_and_nobody_else(build: Callable[..., Any], collector: Any) -> None:
    """They may be keys."""
    world = build(section(collector, headers={"X-Own-Key": CANARY}), a=[])

    world.ask()
    shown = repr(world.connector.config)
    world.mesh.shutdown()

    assert {each["x-own-key"] for each in collector.headers} == {CANARY}
    assert CANARY not in shown
    assert "x-own-key" not in world.providers["a"].requests[0].headers


def test_names_are_those_of_the_conventions() -> None:
    """The names in our one file are the ones the conventions' package has, as long as it has any."""
    known = pytest.importorskip("opentelemetry.semconv._incubating.attributes.gen_ai_attributes")
    metrics = pytest.importorskip("opentelemetry.semconv._incubating.metrics.gen_ai_metrics")
    if not hasattr(known, "GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK"):
        pytest.skip("the installed package is older than the names")
    theirs = {value for module in (known, metrics) for value in vars(module).values() if isinstance(value, str)}

    ours = {value for value in vars(names).values() if isinstance(value, str) and value.startswith("gen_ai.")}

    assert len(ours) > 10
    assert ours <= theirs


# --- a collector in trouble ------------------------------------------------------------------------


def test_a_collector_that_is_down_harms_nothing(build: Callable[..., Any]) -> None:
    """Requests are answered, shutdown ends within its limit, and the lost spans are counted."""
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
    world = build({"connector": "opentelemetry", "opentelemetry": {"endpoint": url, "timeout": 0.2}}, a=[])

    answers = [world.ask() for _ in range(20)]
    started = time.monotonic()
    world.mesh.shutdown()

    assert answers == ["Hello."] * 20
    assert time.monotonic() - started < 4.5


def test_lost_spans_are_counted_and_told(entry: Entry, collector: Any) -> None:
    """Once when it begins, once when it is over."""
    collector.status = 400
    connector = OpenTelemetryObservability(OpenTelemetryConfig(endpoint=collector.url))
    said: list[str] = []
    about = context("observability")
    connector.bind(ConnectorContext(about.name, about.clock, about.random, lambda _, message: said.append(message)))

    for status in (400, 400, 200, 200):
        collector.status = status
        connector.log(entry(trace=LINK))
        connector.force_flush()
    lost = connector.lost
    connector.close()

    assert lost == 4
    assert said == ["the collector takes no spans; 2 are lost by now", "the collector takes spans again"]
    assert len(collector.spans) == 4


def test_a_collector_that_hangs_does_not_hold_the_end_up(entry: Entry) -> None:
    """Closing gives up after a while."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        connector = OpenTelemetryObservability(OpenTelemetryConfig(endpoint=url, timeout=30.0))
        connector.log(entry(trace=LINK))

        started = time.monotonic()
        connector.close()

    assert time.monotonic() - started < 4.0


def test_records_after_the_end_are_ignored(entry: Entry, collector: Any) -> None:
    """A worker that was abandoned may still come."""
    connector = OpenTelemetryObservability(OpenTelemetryConfig(endpoint=collector.url))
    connector.close()

    connector.log(entry(trace=LINK))

    assert connector.lost == 0
    assert collector.bodies == []


@pytest.mark.parametrize(
    "settings",
    [
        {"endpoint": "collector:4318"},
        {"endpoint": "grpc://collector"},
        {"endpoint": f"http://user:{CANARY}@collector"},
        {"timeout": 0},
        {"queue_size": 0},
        {"metrics_interval": -1},
    ],
    ids=["no scheme", "another protocol", "a password", "no time", "no queue", "negative"],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any]) -> None:
    """When the configuration is loaded, and without saying a password."""
    with pytest.raises(ValidationError) as caught:
        OpenTelemetryConfig(**settings)

    assert CANARY not in str(caught.value)


def test_header_values_are_secrets() -> None:
    """They do not show."""
    assert CANARY not in repr(OpenTelemetryConfig(headers={"key": SecretStr(CANARY)}))
