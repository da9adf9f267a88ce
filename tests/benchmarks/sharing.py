"""What sharing costs a request: CPU with Redis and PostgreSQL against memory, and round trips to the store.

    python tests/benchmarks/sharing.py

The CPU is this process's, of requests over HTTP under a budget and a rate, 50 at once; each store takes turns with
memory, and medians are compared. Round trips are counted at the store, those before the answer apart from those after
it. Servers are started from the wheels of the dev extra.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import pstats
from contextlib import ExitStack
from statistics import median
from typing import Any

import loopback  # beside this script
import stores_network

from modelmesh import ModelMesh
from modelmesh.router import CompletionRequest

REQUESTS = 200
TURNS = 20
PATIENT = {"timeout": 30, "call_timeout": 30}
"""What is measured is no outage, however busy the machine."""


def mesh_over(url: str, storage: dict[str, Any]) -> ModelMesh:
    """Build a mesh of one model under a budget and a rate."""
    mesh = ModelMesh()
    mesh.initialize(
        {
            "providers": {
                "p0": {
                    "connector": "modelmesh.openai-compatible.v1",
                    "base_url": f"{url}/fast/v1",
                    "budget": {"daily_limit": 10**6},
                    "rate_limit": {"rpm": 10**8},
                }
            },
            "models": {
                "m0": {
                    "provider": "p0",
                    "capabilities": ["chat-completion"],
                    "pricing": {"input_per_1k_tokens": 0, "output_per_1k_tokens": 0, "per_request": 0.01},
                }
            },
            "pools": {"chat-completion": {}},
            "storage": storage,
        }
    )
    return mesh


async def against_memory(url: str, storage: dict[str, Any]) -> tuple[float, float, float]:
    """Return the CPU of a request with a store, that with memory, in microseconds, and how many times that is.

    They take turns, and the ratio is the median of each turn's: of figures taken minutes apart it says little.
    """
    meshes = [mesh_over(url, section) for section in (storage, {"connector": "modelmesh.memory.v1"})]
    request = CompletionRequest(loopback.MESSAGES)
    turns: list[list[float]] = []
    for _ in range(TURNS + 1):
        turns.append([])
        for mesh in meshes:
            router = mesh.get_router()
            # Bound at once: the loop goes on before the call is made.
            cost = await loopback.cpu(lambda router=router: router.acomplete("chat-completion", request))
            turns[-1].append(cost)
    for mesh in meshes:
        await mesh.ashutdown()
    ours, memory = zip(*turns[1:], strict=True)
    return median(ours), median(memory), median(one / other for one, other in turns[1:])


async def round_trips(url: str, storage: dict[str, Any]) -> tuple[float, float]:
    """Count calls to the store a request: before its answer, and after it."""
    mesh = mesh_over(url, storage)
    store: Any = mesh._built().state_store
    calls = 0

    def counted(name: str) -> None:
        call = getattr(store, name)

        async def count(*args: Any, **facts: Any) -> Any:
            nonlocal calls
            calls += 1
            return await call(*args, **facts)

        setattr(store, name, count)

    for name in ("reserve", "settle", "settle_all", "release", "balances", "load", "save", "stat", "lock", "unlock"):
        counted(name)
    router, request = mesh.get_router(), CompletionRequest(loopback.MESSAGES)
    ahead = after = 0
    for _ in range(REQUESTS):
        calls = 0
        await router.acomplete("chat-completion", request)
        ahead += calls
        await asyncio.sleep(0.005)
        after += calls
    await mesh.ashutdown()
    return ahead / REQUESTS, (after - ahead) / REQUESTS


async def profile(url: str, storage: dict[str, Any]) -> None:
    """Print where a request's CPU goes."""
    mesh = mesh_over(url, storage)
    router, request = mesh.get_router(), CompletionRequest(loopback.MESSAGES)
    await loopback.cpu(lambda: router.acomplete("chat-completion", request))
    profiler = cProfile.Profile()
    profiler.enable()
    for _ in range(3):
        await loopback.cpu(lambda: router.acomplete("chat-completion", request))
    profiler.disable()
    pstats.Stats(profiler).sort_stats("tottime").print_stats(40)
    await mesh.ashutdown()


def main() -> None:
    """Print both."""
    parser = argparse.ArgumentParser(description="Measure what sharing a store costs a request.")
    parser.add_argument("--profile", action="store_true", help="Say instead where the CPU goes with Redis.")
    chosen = parser.parse_args()
    home = stores_network.servers()
    with ExitStack() as stack:
        folder = stack.enter_context(home.servers_folder())
        url = stack.enter_context(loopback.server())
        redis = stack.enter_context(home.running_redis(folder))
        one = {"connector": "modelmesh.redis.v1", "url": redis.url, **PATIENT}
        if chosen.profile:
            asyncio.run(profile(url, one))
            return
        print("| store | CPU of a request | of one with memory | the ratio | calls before the answer | after it |")
        print("| --- | --- | --- | --- | --- | --- |")
        show(url, "Redis", one)
        show(url, "Redis, lease_share: 0.01", {**one, "key_prefix": "blocks", "lease_share": 0.01})
        # After the others: what its processes do beside is in nobody else's figures.
        postgres = stack.enter_context(home.running_postgres(folder))
        show(url, "PostgreSQL", {"connector": "modelmesh.postgres.v1", "url": postgres.url, **PATIENT})


def show(url: str, name: str, storage: dict[str, Any]) -> None:
    """Measure one store and print its row."""
    ours, memory, ratio = asyncio.run(against_memory(url, storage))
    ahead, after = asyncio.run(round_trips(url, storage))
    print(f"| {name} | {ours:.0f} µs | {memory:.0f} µs | {ratio:.2f} × | {ahead:.2f} | {after:.2f} |", flush=True)


if __name__ == "__main__":
    main()
