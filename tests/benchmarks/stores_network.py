"""What a reservation costs over Redis and PostgreSQL on loopback (R28), and what it adds to a request's CPU over HTTP.

    python tests/benchmarks/stores_network.py [--rounds 2000]

Servers are started from the wheels of the dev extra, their files in memory if there is room; ``--disk FOLDER`` puts
them there instead, which is what PostgreSQL's commits wait for.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import loopback  # beside this script

from modelmesh import ModelMesh
from modelmesh.interfaces.ledger import RateClaim, WindowClaim
from modelmesh.router import CompletionRequest
from modelmesh_plugins.state_stores.memory import MemoryStateStore
from modelmesh_plugins.state_stores.postgres import PostgresConfig, PostgresStateStore
from modelmesh_plugins.state_stores.redis import RedisConfig, RedisStateStore

CLAIMS = [
    WindowClaim("budget/openai/day/2026-11-21", 1_000, 10**15, 86_400.0),
    RateClaim("rpm/gpt", 1, 10**6, 60.0, 10**6),
]


def servers() -> Any:
    """The tests' way of starting servers: their conftest is no package, so it is loaded by its place."""
    place = Path(__file__).parents[1] / "stores" / "servers" / "conftest.py"
    spec = importlib.util.spec_from_file_location("store_servers", place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


async def measure(store: Any, rounds: int) -> str:
    """One after the other, then all at once."""
    await store.load("warm")
    await store.reserve("warm", CLAIMS, lease=600.0)
    cells = []
    for operation in ("reserve", "settle"):
        taken = []
        for number in range(rounds):
            begin = time.perf_counter()
            if operation == "reserve":
                await store.reserve(f"{number}", CLAIMS, lease=600.0)
            else:
                await store.settle(f"{number}", {CLAIMS[0].account: 900})
            taken.append((time.perf_counter() - begin) * 1e6)
        taken.sort()
        cells.append(f"{taken[rounds // 2]:.0f} / {taken[rounds * 99 // 100]:.0f} µs")
    begin = time.perf_counter()
    await asyncio.gather(*(store.reserve(f"many-{number}", CLAIMS, lease=600.0) for number in range(rounds)))
    cells.append(f"{rounds / (time.perf_counter() - begin):,.0f}/s")
    await store.close()
    return " | ".join(cells)


async def request_cpu(sections: dict[str, dict[str, Any]], url: str) -> dict[str, float]:
    """CPU time of this process for one request over HTTP, under a budget and a rate, 50 at once, in microseconds."""
    meshes = {name: ModelMesh() for name in sections}
    for name, mesh in meshes.items():
        provider = {
            "connector": "modelmesh.openai-compatible.v1",
            "base_url": f"{url}/fast/v1",
            "budget": {"daily_limit": 10**6},
            "rate_limit": {"rpm": 10**8},
        }
        model = {
            "provider": "p0",
            "capabilities": ["chat-completion"],
            "pricing": {"input_per_1k_tokens": 0, "output_per_1k_tokens": 0, "per_request": 0.01},
        }
        pools: dict[str, Any] = {"chat-completion": {}}
        mesh.initialize(
            {"providers": {"p0": provider}, "models": {"m0": model}, "pools": pools, "storage": sections[name]}
        )
    taken: dict[str, list[float]] = {name: [] for name in sections}
    request = CompletionRequest(loopback.MESSAGES)
    for turn in range(loopback.ROUNDS + 1):
        for name, mesh in meshes.items():
            router = mesh.get_router()
            # Bound at once: the loop goes on before the call is made.
            cost = await loopback.cpu(lambda router=router: router.acomplete("chat-completion", request))
            if turn:
                taken[name].append(cost)
    for mesh in meshes.values():
        await mesh.ashutdown()
    return {name: median(costs) for name, costs in taken.items()}


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2_000)
    parser.add_argument("--disk", type=Path)
    chosen = parser.parse_args()
    home = servers()
    with ExitStack() as stack:
        folder = chosen.disk or stack.enter_context(home.servers_folder())
        redis = stack.enter_context(home.running_redis(folder))
        postgres = stack.enter_context(home.running_postgres(folder))
        stores = {
            "memory": MemoryStateStore,
            "Redis": lambda: RedisStateStore(RedisConfig(url=redis.url, timeout=30)),
            "PostgreSQL": lambda: PostgresStateStore(PostgresConfig(url=postgres.url, timeout=30)),
            "PostgreSQL, synchronous_commit: false": lambda: PostgresStateStore(
                PostgresConfig(url=postgres.url, timeout=30, schema="fast", synchronous_commit=False)
            ),
        }
        print("| store | reserve p50 / p99 | settle p50 / p99 | at once, one process |\n| --- | --- | --- | --- |")
        for name, make in stores.items():
            print(f"| {name} | {asyncio.run(measure(make(), chosen.rounds))} |", flush=True)
        sections = {
            "memory": {"connector": "modelmesh.memory.v1"},
            "Redis": {"connector": "modelmesh.redis.v1", "url": redis.url, "timeout": 30, "call_timeout": 30},
            "PostgreSQL": {
                "connector": "modelmesh.postgres.v1",
                "url": postgres.url,
                "timeout": 30,
                "call_timeout": 30,
            },
        }
        with loopback.server() as url:
            costs = asyncio.run(request_cpu(sections, url))
        for name, cost in costs.items():
            print(f"CPU of a request, {name}: {cost:.0f} µs, {cost / costs['memory']:.2f} × memory")


if __name__ == "__main__":
    main()
