"""Meshes over scripted providers that report to one connector, and what they reported."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from modelmesh import ModelMesh
from modelmesh.interfaces.observability import RequestLogEntry
from modelmesh.router import CompletionRequest
from modelmesh_cdk.testing import ScriptedProvider


class World:
    """A mesh with one pool ``chat``; each model has a scripted provider of its name."""

    def __init__(self, mesh: ModelMesh, providers: dict[str, ScriptedProvider]) -> None:
        self.mesh = mesh
        self.providers = providers

    @property
    def connector(self) -> Any:
        """The first observability connector."""
        return self.mesh.observers()[0]

    def ask(self, **metadata: Any) -> str:
        """Ask for a whole answer."""
        request = CompletionRequest([{"role": "user", "content": "What is it?"}], metadata=metadata)
        return self.mesh.get_router().complete("chat", request).content

    def stream(self) -> str:
        """Read a stream to its end."""
        body = {"messages": [{"role": "user", "content": "What is it?"}]}
        chunks = self.mesh.get_router().execute_stream("chat", body)
        return "".join(chunk.text for chunk in self.mesh.run_stream(chunks.__aiter__()))


Build = Callable[..., World]


@pytest.fixture
def build() -> Iterator[Build]:
    """Build worlds from scripts by model and an ``observability`` section; they are shut down after the test."""
    meshes: list[ModelMesh] = []

    def make(observability: dict[str, Any], **scripts: Any) -> World:
        providers = {name: ScriptedProvider(script) for name, script in (scripts or {"a": []}).items()}
        mesh = ModelMesh(environ={})
        meshes.append(mesh)
        mesh.initialize(
            {
                "providers": {name: {"instance": provider} for name, provider in providers.items()},
                "models": {
                    name: {
                        "provider": name,
                        "model": f"{name}-upstream",
                        "capabilities": ["chat-completion"],
                        "pricing": {"input_per_1k_tokens": 1.0, "output_per_1k_tokens": 2.0},
                    }
                    for name in providers
                },
                "pools": {
                    "chat": {
                        "capability": "chat-completion",
                        "retry": {"max_attempts": 1, "initial_delay": "1ms", "max_delay": "1ms"},
                    }
                },
                "observability": observability,
            }
        )
        return World(mesh, providers)

    yield make
    for mesh in meshes:
        mesh.shutdown()


@pytest.fixture
def entry() -> Callable[..., RequestLogEntry]:
    """Build the record of a successful attempt; any field may be given."""

    def make(**fields: Any) -> RequestLogEntry:
        given: dict[str, Any] = {
            "timestamp": datetime(2026, 11, 21, 12, 0, tzinfo=UTC),
            "model_id": "gpt",
            "provider_id": "acme",
            "capability": "chat-completion",
            "delivery_mode": "sync",
            "latency_ms": 120.0,
            "status_code": 200,
            "tokens_in": 3,
            "tokens_out": 5,
            "pool_id": "chat",
            "outcome": "success",
            "is_last": True,
            **fields,
        }
        return RequestLogEntry(**given)

    return make


class Collector:
    """An OTLP/HTTP receiver on loopback that decodes what it is sent.

    Attributes:
        status: What it answers.
        headers: Of the requests so far.
        bodies: Of the requests so far, as they came.
    """

    def __init__(self) -> None:
        self.status = 200
        self.headers: list[dict[str, str]] = []
        self.bodies: list[bytes] = []
        self._traces: list[ExportTraceServiceRequest] = []
        self._metrics: list[ExportMetricsServiceRequest] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                collector.headers.append({name.lower(): value for name, value in self.headers.items()})
                collector.bodies.append(body)
                if collector.status == 200:
                    collector.take(self.path, body)
                self.send_response(collector.status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def take(self, path: str, body: bytes) -> None:
        """Decode a request."""
        if path == "/v1/traces":
            self._traces.append(ExportTraceServiceRequest.FromString(body))
        elif path == "/v1/metrics":
            self._metrics.append(ExportMetricsServiceRequest.FromString(body))

    @property
    def resources(self) -> list[dict[str, Any]]:
        """Attributes of the services that sent spans."""
        return [attributes(each.resource) for request in self._traces for each in request.resource_spans]

    @property
    def spans(self) -> list[Any]:
        """Spans so far, as they came."""
        return [
            span
            for request in self._traces
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def points(self, name: str) -> list[Any]:
        """Data points of a histogram or sum in the newest export that has it."""
        found: list[Any] = []
        for request in self._metrics:
            for resource in request.resource_metrics:
                for scope in resource.scope_metrics:
                    for metric in scope.metrics:
                        if metric.name == name:
                            found = [*metric.histogram.data_points, *metric.sum.data_points]
        return found

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()


def attributes(of: Any) -> dict[str, Any]:
    """Return the attributes of a span, resource or data point as plain values."""
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in of.attributes}


@pytest.fixture
def collector() -> Iterator[Collector]:
    """An OTLP receiver."""
    running = Collector()
    yield running
    running.close()


@pytest.fixture
def facts() -> Callable[[Any], dict[str, Any]]:
    """Read the attributes of what a collector was sent."""
    return attributes
