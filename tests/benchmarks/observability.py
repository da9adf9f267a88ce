"""CPU that observability adds to a request, the worker threads' share included.

Run: ``python tests/benchmarks/observability.py``. Each round measures a mesh that reports nothing and one that writes
events, request logs, statistics and traces to a file, in turn within one run; the figures are medians over the rounds
of process CPU time, which all threads add to. Before that, latencies at 1,000 requests a second show that a sink that
raises, blocks or is dead harms no request (goal: p99 within 1 ms of nobody listening).
"""

from __future__ import annotations

import asyncio
import gc
import tempfile
import threading
import time
from pathlib import Path
from statistics import median, quantiles

from modelmesh.interfaces.observability import ObservabilityConnector
from modelmesh.mesh import ModelMesh
from modelmesh.router import CompletionRequest, Router

ROUNDS = 41
CALLS = 500
GOAL_US = 25.0
RATE = 1_000
SECONDS = 1
MESSAGES = [{"role": "user", "content": "What is the capital of France?"}]


def mesh_of(observability: dict[str, object]) -> ModelMesh:
    """Build a mesh of ten simulated models at zero latency, with a secret to look for."""
    mesh = ModelMesh(environ={"OPENAI_API_KEY": "sk-benchmark-0123456789abcdef0123456789"})
    mesh.initialize(
        {
            "providers": {
                "sim": {"connector": "modelmesh.simulator.v1"},
                "openai.llm.v1": {"api_key": "${secrets:OPENAI_API_KEY}"},
            },
            "models": {f"m{n}": {"provider": "sim", "capabilities": ["chat-completion"]} for n in range(10)},
            "pools": {"chat-completion": {"strategy": "stick-until-failure"}},
            "observability": observability,
        }
    )
    return mesh


def wait_for_end(mesh: ModelMesh) -> None:
    """Return when no record is on its way any more."""
    while any(counts.waiting for counts in mesh.delivery_counts().values()):
        time.sleep(0.002)


async def round_of(router: Router, mesh: ModelMesh) -> float:
    """Return microseconds of process CPU a request, until every record is written."""
    request = CompletionRequest(MESSAGES)
    started = time.process_time_ns()
    for _ in range(CALLS):
        await router.acomplete("chat-completion", request)
    mesh.get_statistics().flush()
    await asyncio.to_thread(wait_for_end, mesh)
    return (time.process_time_ns() - started) / CALLS / 1000.0


async def measure(name: str, observability: dict[str, object], *, goal: float | None = None) -> None:
    """Compare one configuration with none, and print the difference."""
    null, observed = mesh_of({"connector": "modelmesh.null.v1"}), mesh_of(observability)
    figures: dict[str, list[float]] = {"null": [], "observed": []}
    for number in range(ROUNDS + 2):
        for label, mesh in (("null", null), ("observed", observed)):
            spent = await round_of(mesh.get_router(), mesh)
            if number >= 2:  # the first rounds warm up
                figures[label].append(spent)
    more = median(one - other for one, other in zip(figures["observed"], figures["null"], strict=True))
    wanted = "" if goal is None else f"   (goal: ≤ {goal:g})"
    print(f"{name:34} {median(figures['null']):7.2f} µs without, {more:7.2f} µs more{wanted}")
    for counts in observed.delivery_counts().values():
        assert counts.delivered == counts.emitted > CALLS * ROUNDS, counts
    await null.ashutdown()
    await observed.ashutdown()


class Misbehaving(ObservabilityConnector):
    """Raises, blocks, or does neither."""

    def __init__(self, how: str) -> None:
        self.how = how
        self.gate = threading.Event()

    def take(self, record: object) -> None:
        """Do what it is there for."""
        if self.how == "raises":
            raise ValueError("no")
        if self.how == "blocks 10 s":
            self.gate.wait(10)

    emit = log = flush = trace = take


async def latencies(mesh: ModelMesh) -> list[float]:
    """Return milliseconds of requests that come at an even pace."""
    router, request, taken = mesh.get_router(), CompletionRequest(MESSAGES), []
    start = time.perf_counter()
    for number in range(RATE * SECONDS):
        await asyncio.sleep(max(0.0, start + number / RATE - time.perf_counter()))
        began = time.perf_counter()
        await router.acomplete("chat-completion", request)
        taken.append((time.perf_counter() - began) * 1000.0)
    return taken


async def measure_harm() -> None:
    """Compare latencies at a thousand requests a second with good and bad sinks, a round of each in turn."""
    sinks = {how: Misbehaving(how) for how in ("works", "raises", "blocks 10 s")}
    meshes = {"nobody listens": mesh_of({"connector": "modelmesh.null.v1"})}
    meshes |= {how: mesh_of({"instance": sink}) for how, sink in sinks.items()}
    dead = {"connector": "modelmesh.webhook.v1", "url": "http://127.0.0.1:1/", "batch_size": 100}
    meshes["dead webhook"] = mesh_of(dead)
    taken: dict[str, list[float]] = {name: [] for name in meshes}
    for _ in range(3):
        for name, mesh in meshes.items():
            taken[name] += await latencies(mesh)
    for name, figures in taken.items():
        p50, p99 = (quantiles(figures, n=100)[at - 1] for at in (50, 99))
        counts = next(iter(meshes[name].delivery_counts().values()), None)
        print(f"sink: {name:16} p50 {p50:6.3f} ms, p99 {p99:6.3f} ms   {counts or ''}")
    for sink in sinks.values():
        sink.gate.set()
    for mesh in meshes.values():
        await mesh.ashutdown()


async def main() -> None:
    """Measure each way to write, and what bad sinks do to requests."""
    await measure_harm()
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "log.jsonl"))
        file: dict[str, object] = {"connector": "modelmesh.file.v1", "path": path}
        await measure("all four to a file", file, goal=GOAL_US)
        await measure("all four, traces from warning on", {**file, "tracing": {"min_severity": "warning"}})
        await measure("all four, whole payloads", {**file, "logging": {"level": "full"}})
        await measure("all four, debug traces", {**file, "tracing": {"min_severity": "debug"}})


if __name__ == "__main__":
    gc.disable()
    asyncio.run(main())
