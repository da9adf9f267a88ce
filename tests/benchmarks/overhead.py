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

from modelmesh._engine.model import RequestResult
from modelmesh.interfaces.observability import (
    AggregateStats,
    ObservabilityConnector,
    RequestLogEntry,
    RoutingEvent,
    TraceEntry,
)
from modelmesh.interfaces.provider import ProviderRequest, RateLimitStatus
from modelmesh.mesh import ModelMesh
from modelmesh.router import CompletionRequest, RoutingOptions
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


STRATEGIES: dict[str, dict[str, object]] = {
    "stick-until-failure": {},
    "priority-selection": {"model_priority": ["m7", "m3"]},
    "round-robin": {},
    "cost-first": {},
    "latency-first": {},
    "session-stickiness": {},
    "rate-limit-aware": {"rate_limit": {"max_rpm": 1_000_000_000}},
    "load-balanced": {},
    "composed": {
        "filter": [{"headroom": {"over": "10%"}}],
        "score": [{"cost": {"within": "5%"}}],
        "pick": {"power_of_two": "latency"},
    },
}


def mesh_of(
    models: int,
    strategy: str = "stick-until-failure",
    settings: dict[str, object] | None = None,
    *,
    observed: bool = False,
) -> ModelMesh:
    """Build a mesh of simulated models at zero latency, with prices, latencies and limits that differ."""
    config: dict[str, object] = {
        "providers": {f"sim{n}": {"connector": "modelmesh.simulator.v1"} for n in range(10)},
        "models": {
            f"m{n}": {
                "provider": f"sim{n % 10}",
                "capabilities": ["chat-completion"],
                "pricing": {"input_per_1k_tokens": n % 7 / 10.0, "output_per_1k_tokens": n % 5 / 10.0},
            }
            for n in range(models)
        },
        "pools": {"chat-completion": {"strategy": strategy, **(settings or {})}},
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
    for number, member in enumerate(mesh.get_router().get_pool("chat-completion").members.values()):
        member.model.state.latency_history.append(number % 13 / 10.0)
        member.model.provider.take_rate_limits(RateLimitStatus(100 - number % 10 * 9, requests_limit=100))
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
    """Compare route() in a small and a large pool for each strategy, and say what it costs when a figure has moved."""
    for strategy, settings in STRATEGIES.items():
        meshes = {size: mesh_of(size, strategy, settings) for size in (10, 1000)}
        options = RoutingOptions(session_id="s") if strategy == "session-stickiness" else None
        figures: dict[int, list[float]] = {10: [], 1000: []}
        moved: dict[int, list[float]] = {10: [], 1000: []}
        for _ in range(ROUNDS):
            for size, mesh in meshes.items():
                route = mesh.get_router().route
                started = time.process_time_ns()
                for _ in range(CALLS):
                    route("chat-completion", options)
                figures[size].append((time.process_time_ns() - started) / CALLS / 1000.0)
                moved[size].append(cpu_after_a_move(mesh))
        small, large = median(figures[10]), median(figures[1000])
        print(
            f"route() {strategy:20} {small:8.2f} µs of 10, {large:8.2f} µs of 1,000: {large / small:.2f} ×"
            f"   (goals: ≤ 15, ≤ 2 ×); after an answer {median(moved[10]):8.2f} and {median(moved[1000]):8.2f} µs"
        )
        for mesh in meshes.values():
            mesh.shutdown()


def cpu_after_a_move(mesh: ModelMesh, calls: int = 10) -> float:
    """Return microseconds of CPU time of route() when a model has answered since the one before."""
    router = mesh.get_router()
    members = list(router.get_pool("chat-completion").members.values())
    spent = 0
    for number in range(calls):
        model = members[number * 7 % len(members)].model
        model.update_state(RequestResult(success=True, latency=number / 10.0, cost=0.1))
        started = time.process_time_ns()
        router.route("chat-completion")
        spent += time.process_time_ns() - started
    return spent / calls / 1000.0


if __name__ == "__main__":
    gc.disable()
    asyncio.run(measure_overhead())
    measure_route()
