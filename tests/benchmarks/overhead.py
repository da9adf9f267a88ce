"""CPU that the router adds to a call, and what a routing decision costs.

Run: ``python tests/benchmarks/overhead.py``. Prints medians in microseconds of process CPU time; both sides of each
comparison are measured in turn within one run.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable
from statistics import median

from modelmesh.interfaces.observability import (
    AggregateStats,
    ObservabilityConnector,
    RequestLogEntry,
    RoutingEvent,
    TraceEntry,
)
from modelmesh.interfaces.provider import ProviderRequest
from modelmesh.mesh import ModelMesh
from modelmesh.router import CompletionRequest
from modelmesh_plugins.providers.simulator import SimulatorProvider

ROUNDS = 40
CALLS = 250
MESSAGES = [{"role": "user", "content": "What is the capital of France?"}]


class CountingObserver(ObservabilityConnector):
    """Takes events and statistics, so that the core builds and delivers them."""

    def __init__(self) -> None:
        self.taken = 0

    def emit(self, event: RoutingEvent) -> None:
        """Count."""
        self.taken += 1

    def log(self, entry: RequestLogEntry) -> None:
        """Count."""
        self.taken += 1

    def flush(self, stats: dict[str, AggregateStats]) -> None:
        """Count."""
        self.taken += len(stats)

    def trace(self, entry: TraceEntry) -> None:
        """Count."""
        self.taken += 1


def mesh_of(models: int, strategy: str = "stick-until-failure", *, observed: bool = False) -> ModelMesh:
    """Build a mesh of simulated models at zero latency."""
    config: dict[str, object] = {
        "providers": {"sim": {"connector": "modelmesh.simulator.v1"}},
        "models": {f"m{n}": {"provider": "sim", "capabilities": ["chat-completion"]} for n in range(models)},
        "pools": {"chat-completion": {"strategy": strategy}},
    }
    if observed:
        config["observability"] = {
            "connector": "modelmesh.null.v1",
            "routing": {"instance": (observer := CountingObserver())},
            "statistics": {"instance": observer},
            "tracing": {"instance": observer, "min_severity": "warning"},
        }
    mesh = ModelMesh()
    mesh.initialize(config)
    return mesh


async def cpu_per_call(call: Callable[[], object], calls: int) -> float:
    """Return microseconds of CPU time per awaited call."""
    started = time.process_time_ns()
    for _ in range(calls):
        await call()  # type: ignore[misc]
    return (time.process_time_ns() - started) / calls / 1000.0


async def measure_overhead() -> None:
    """Compare acomplete with awaiting the provider's own complete."""
    mesh = mesh_of(10, observed=True)
    router = mesh.get_router()
    provider = SimulatorProvider()
    direct = ProviderRequest("m0", {"messages": MESSAGES})
    routed = CompletionRequest(MESSAGES)
    bare: list[float] = []
    through: list[float] = []
    for _ in range(ROUNDS):
        bare.append(await cpu_per_call(lambda: provider.complete(direct), CALLS))
        through.append(await cpu_per_call(lambda: router.acomplete("chat-completion", routed), CALLS))
    print(f"provider.complete            {median(bare):8.2f} µs")
    print(f"Router.acomplete             {median(through):8.2f} µs")
    print(f"overhead                     {median(through) - median(bare):8.2f} µs   (goal: ≤ 60)")
    await mesh.ashutdown()


def measure_route() -> None:
    """Compare route() in a small and a large pool, for each strategy."""
    for strategy in ("stick-until-failure", "priority-selection", "round-robin"):
        meshes = {size: mesh_of(size, strategy) for size in (10, 1000)}
        figures: dict[int, list[float]] = {10: [], 1000: []}
        for _ in range(ROUNDS):
            for size, mesh in meshes.items():
                route = mesh.get_router().route
                started = time.process_time_ns()
                for _ in range(CALLS):
                    route("chat-completion")
                figures[size].append((time.process_time_ns() - started) / CALLS / 1000.0)
        small, large = median(figures[10]), median(figures[1000])
        print(
            f"route() {strategy:20} {small:8.2f} µs of 10, {large:8.2f} µs of 1,000: {large / small:.2f} ×"
            "   (goals: ≤ 15, ≤ 2 ×)"
        )
        for mesh in meshes.values():
            mesh.shutdown()


if __name__ == "__main__":
    gc.disable()
    asyncio.run(measure_overhead())
    measure_route()
