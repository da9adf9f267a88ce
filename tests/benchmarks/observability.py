"""CPU that observability adds to a request, the worker threads' share included.

Run: ``python tests/benchmarks/observability.py``. Each round measures a mesh that reports nothing and one that writes
events, request logs, statistics and traces to a file, in turn within one run; the figures are medians over the rounds
of process CPU time, which all threads add to.
"""

from __future__ import annotations

import asyncio
import gc
import tempfile
import time
from pathlib import Path
from statistics import median

from modelmesh.mesh import ModelMesh
from modelmesh.router import CompletionRequest, Router

ROUNDS = 41
CALLS = 500
GOAL_US = 25.0
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


async def round_of(router: Router, mesh: ModelMesh) -> float:
    """Return microseconds of process CPU a request, until every record is written."""
    request = CompletionRequest(MESSAGES)
    started = time.process_time_ns()
    for _ in range(CALLS):
        await router.acomplete("chat-completion", request)
    mesh.get_statistics().flush()
    while any(counts.waiting for counts in mesh.delivery_counts().values()):
        time.sleep(0.002)
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


async def main() -> None:
    """Measure each way to write."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "log.jsonl"))
        file: dict[str, object] = {"connector": "modelmesh.file.v1", "path": path}
        await measure("all four to a file", file, goal=GOAL_US)
        await measure("all four, whole payloads", {**file, "logging": {"level": "full"}})
        await measure("all four, debug traces", {**file, "tracing": {"min_severity": "debug"}})


if __name__ == "__main__":
    gc.disable()
    asyncio.run(main())
