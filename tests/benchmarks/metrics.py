"""What metrics and traces cost: CPU a request more than without, and memory with many label values.

Run: ``python tests/benchmarks/metrics.py``. CPU is that of the whole process, worker and export threads included, as a
median over rounds in which all sides are measured in turn; the collector runs in a process of its own.
"""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import time
import tracemalloc
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from statistics import median
from typing import Any

from modelmesh.interfaces.observability import RequestLogEntry
from modelmesh.mesh import ModelMesh
from modelmesh.router import CompletionRequest
from modelmesh_plugins.observability.prometheus import PrometheusConfig, PrometheusObservability

ROUNDS = 15
CALLS = 400
REQUEST = CompletionRequest([{"role": "user", "content": "What is the capital of France?"}])


class Sink(BaseHTTPRequestHandler):
    """Takes whatever it is sent."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Read and forget."""
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def serve(port: Any) -> None:
    """Run a collector; tell its port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Sink)
    port.send(server.server_port)
    server.serve_forever()


def mesh_with(observability: dict[str, Any]) -> ModelMesh:
    """Build a mesh of ten simulated models at zero latency."""
    mesh = ModelMesh()
    mesh.initialize(
        {
            "providers": {"sim": {"connector": "modelmesh.simulator.v1"}},
            "models": {f"m{n}": {"provider": "sim", "capabilities": ["chat-completion"]} for n in range(10)},
            "pools": {"chat-completion": {}},
            "observability": observability,
        }
    )
    return mesh


async def cpu_per_request(mesh: ModelMesh) -> float:
    """Return microseconds of CPU a request, delivery of its records included."""
    router = mesh.get_router()
    started = time.process_time_ns()
    for _ in range(CALLS):
        await router.acomplete("chat-completion", REQUEST)
    while any(counts.waiting for counts in mesh.delivery_counts().values()):  # noqa: ASYNC110 -- nobody sets an event
        await asyncio.sleep(0.005)
    for connector in mesh.observers():
        flush = getattr(connector, "force_flush", None)
        if flush is not None:
            flush()
    return (time.process_time_ns() - started) / CALLS / 1000.0


async def measure_cpu(collector: int) -> None:
    """Compare connectors with none."""
    url = f"http://127.0.0.1:{collector}"
    sides: dict[str, dict[str, Any]] = {
        "null": {"connector": "modelmesh.null.v1"},
        "prometheus": {"connector": "modelmesh.prometheus.v1"},
        "opentelemetry": {"connector": "modelmesh.opentelemetry.v1", "endpoint": url, "queue_size": 100_000},
    }
    meshes = {name: mesh_with(section) for name, section in sides.items()}
    figures: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(ROUNDS):
        for name, mesh in meshes.items():
            figures[name].append(await cpu_per_request(mesh))
    base = median(figures["null"])
    for name, measured in figures.items():
        print(f"{name:14} {median(measured):8.1f} µs a request   {median(measured) - base:+8.1f} µs more than null")
    for mesh in meshes.values():
        await mesh.ashutdown()


def measure_memory(limit: int, models: int) -> None:
    """Feed many models to the Prometheus connector; tell its memory and how long its page takes."""
    gc.collect()
    tracemalloc.start()
    connector = PrometheusObservability(PrometheusConfig(max_label_values=limit))
    for number in range(models):
        entry = RequestLogEntry(
            datetime.now(UTC), f"model-{number}", "acme", "chat", "streaming", 120.0, 200, 3, 5, 0.01, pool_id="chat"
        )
        entry.outcome, entry.is_last, entry.time_to_first_token_ms, entry.request_ms = "success", True, 30.0, 121.0
        connector.log(entry)
    gc.collect()
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    started = time.perf_counter()
    _, page = connector.metrics_page()
    seconds = time.perf_counter() - started
    print(
        f"{models:,} models, {limit:,} label values: {held / 1e6:6.2f} MB held; "
        f"page of {len(page) / 1e6:.2f} MB in {seconds * 1000:.0f} ms"
    )


def main() -> None:
    """Print all figures."""
    here, there = multiprocessing.Pipe()
    collector = multiprocessing.get_context("spawn").Process(target=serve, args=(there,), daemon=True)
    collector.start()
    asyncio.run(measure_cpu(here.recv()))
    collector.terminate()
    measure_memory(10_000, 10_000)
    measure_memory(500, 10_000)
    measure_memory(500, 100_000)


if __name__ == "__main__":
    main()
