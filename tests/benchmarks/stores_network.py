"""What a reservation costs over Redis and PostgreSQL on loopback (R28), and what it adds to a request's CPU over HTTP.

    python tests/benchmarks/stores_network.py [--rounds 2000]

Beside each figure stands its goal, and what the least costs that can be asked of the server over such a connection: a
reservation cannot be faster, and what the machine does besides shows there, too. Both are measured in turns.

Servers are started from the wheels of the dev extra, their files in memory if there is room; ``--disk FOLDER`` puts
them there instead, which is what PostgreSQL's commits wait for.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from modelmesh.interfaces.ledger import Claim, RateClaim, WindowClaim
from modelmesh_plugins.state_stores.memory import MemoryStateStore
from modelmesh_plugins.state_stores.postgres import PostgresConfig, PostgresStateStore
from modelmesh_plugins.state_stores.redis import RedisConfig, RedisStateStore
from modelmesh_plugins.state_stores.redis.commands import command

CLAIMS: list[Claim] = [
    WindowClaim("budget/openai/day/2026-11-21", 1_000, 10**15, 86_400.0),
    RateClaim("rpm/gpt", 1, 10**6, 60.0, 10**6),
]
GOALS = {"memory": "5 / 20", "Redis": "300 / 1,500", "PostgreSQL": "400 / 2,500"}


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


def patient(kind: str, url: str, **more: Any) -> Any:
    """Build a store, ``Redis`` or ``PostgreSQL``, that waits rather than give up on a busy machine."""
    if kind == "Redis":
        return RedisStateStore(RedisConfig(url=url, timeout=30, **more))
    return PostgresStateStore(PostgresConfig(url=url, timeout=30, **more))


async def measure(name: str, store: Any, rounds: int) -> str:
    """One after the other, then all at once."""
    await store.load("warm")
    await store.reserve("warm", CLAIMS, lease=600.0)
    bare = await _bare(store)
    taken: dict[str, list[float]] = {}

    async def timed(what: str, call: Awaitable[Any]) -> None:
        begin = time.perf_counter()
        await call
        taken.setdefault(what, []).append((time.perf_counter() - begin) * 1e6)

    for number in range(rounds + rounds // 10):
        await timed("bare", bare())
        await timed("one claim", store.reserve(f"one-{number}", CLAIMS[:1], lease=600.0))
        await timed("two claims", store.reserve(f"two-{number}", CLAIMS, lease=600.0))
        await timed("settle", store.settle(f"two-{number}", {CLAIMS[0].account: 900}))
    cells = [shown(taken["bare"][-rounds:]), GOALS.get(name, "")]
    cells += [shown(taken[what][-rounds:]) for what in ("one claim", "two claims", "settle")]
    begin = time.perf_counter()
    await asyncio.gather(*(store.reserve(f"many-{number}", CLAIMS, lease=600.0) for number in range(rounds)))
    cells.append(f"{rounds / (time.perf_counter() - begin):,.0f}/s")
    await store.close()
    return " | ".join(cells)


async def _bare(store: Any) -> Callable[[], Awaitable[Any]]:
    """What asks the least of a store's server, over the connection of its books."""
    if isinstance(store, RedisStateStore):
        return lambda: store._run(command("PING"))
    if isinstance(store, PostgresStateStore):
        lane = store._database._books
        await lane.run(lambda connection: connection.execute("PREPARE bare AS SELECT 1"), within=30.0, repeatable=False)
        return lambda: lane.call(b"bare", (), within=30.0, repeatable=True)
    return lambda: asyncio.sleep(0)


def shown(times: list[float]) -> str:
    """Return p50 / p99."""
    times = sorted(times)
    return f"{times[len(times) // 2]:,.0f} / {times[len(times) * 99 // 100]:,.0f}"


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
            "Redis": lambda: patient("Redis", redis.url),
            "PostgreSQL": lambda: patient("PostgreSQL", postgres.url),
            "PostgreSQL, synchronous_commit: false": lambda: patient(
                "PostgreSQL", postgres.url, schema="fast", synchronous_commit=False
            ),
        }
        print("p50 / p99 in µs, one after the other; reservations a second at once, of two claims, by one process")
        print("| store | bare round trip | goal | reserve, 1 claim | 2 claims | settle | at once |")
        print("| --- | --- | --- | --- | --- | --- | --- |")
        for name, make in stores.items():
            print(f"| {name} | {asyncio.run(measure(name, make(), chosen.rounds))} |", flush=True)


if __name__ == "__main__":
    main()
