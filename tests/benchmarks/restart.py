"""What survives a kill, and how soon a process is ready again with 100,000 accounts (reliability goal R11).

    python tests/benchmarks/restart.py [--keys 100000] [--kills 10] [--store redis]

For each store a process answers ten requests under a budget, has one model rest, books so many accounts, and is killed
with SIGKILL, and so is the store's server. Then another process starts: measured is the time from its start, with an
interpreter and all imports, to its first answer, the part of it from `initialize` on, and the CPU it took, which does
not depend on what else runs. What the killed process was told is booked is looked up one by one.

Servers are killed over and over besides, while a process settles as fast as it can: of what was confirmed, how much is
gone? A killed server leaves what it has written to the system; a machine without power does not.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from modelmesh import ModelMesh
from modelmesh.errors import ModelMeshError, StateStoreError
from modelmesh.interfaces.ledger import WindowClaim
from modelmesh.router import CompletionRequest

POOL = "chat-completion"
KEEP = 100_000.0
REST = 600.0
ASKED, AFFORDABLE = 10, 15
FILE_KEYS = 5_000
"""The file store writes all it holds each time; it is not for more."""
LOOK = 500


def mesh_over(storage: dict[str, Any]) -> ModelMesh:
    """Build a mesh of two models, under a budget for so many requests."""
    mesh = ModelMesh(environ={})
    mesh.initialize(
        {
            "providers": {
                "here": {"connector": "modelmesh.simulator.v1", "budget": {"daily_limit": AFFORDABLE / 100}},
            },
            "models": {
                name: {
                    "provider": "here",
                    "capabilities": [POOL],
                    "pricing": {"input_per_1k_tokens": 0, "output_per_1k_tokens": 0, "per_request": 0.01},
                }
                for name in ("small", "large")
            },
            "pools": {POOL: {"recovery": {"cooldown": REST}, "retry": {"max_attempts": 0}}},
            "storage": {**storage, "sync_policy": "immediate"},
        }
    )
    return mesh


def answered(mesh: ModelMesh, times: int) -> int:
    """Ask so often; return how often it was answered."""
    count = 0
    for _ in range(times):
        try:
            mesh.get_router().complete(POOL, CompletionRequest([{"role": "user", "content": "hi"}]))
        except ModelMeshError:
            continue
        count += 1
    return count


def booked(number: int) -> tuple[str, int]:
    """An account, and what is settled there."""
    return f"account/{number}", number % 1_000 + 1


async def fill(store: Any, keys: int, at_once: int) -> None:
    """Book the accounts."""

    async def book(number: int) -> None:
        account, amount = booked(number)
        await store.reserve(f"fill-{number}", [WindowClaim(account, 2_000, 10_000, KEEP)], lease=60.0)
        await store.settle(f"fill-{number}", {account: amount})

    for begin in range(0, keys, at_once):
        await asyncio.gather(*(book(number) for number in range(begin, min(begin + at_once, keys))))


async def missing(store: Any, keys: int) -> int:
    """Count accounts whose books are not what was settled."""
    count = 0
    for begin in range(0, keys, LOOK):
        wanted = dict(booked(number) for number in range(begin, min(begin + LOOK, keys)))
        balances = await store.balances(list(wanted))
        count += sum(balances[account].spent != amount for account, amount in wanted.items())
    return count


def first(storage: dict[str, Any], keys: int) -> None:
    """Be the process that is killed."""
    mesh = mesh_over(storage)
    answered(mesh, ASKED)
    place = mesh.get_router().get_pool(POOL).members["small"]
    place.pool.deactivate_member(place, "error_threshold", rest=REST, now=place.pool.clock.monotonic())
    graph = mesh._built()
    # The file is written as a whole each time: all at once is a few times.
    at_once = keys if "file" in storage["connector"] else 500
    graph.engine.loop.run(fill(graph.state_store, keys, at_once))
    time.sleep(1.0)  # written within a tenth of a second
    print("filled", flush=True)
    signal.pause()


def second(storage: dict[str, Any], keys: int) -> None:
    """Be the process that starts afterwards; say how long that took and what is there."""
    began = time.perf_counter()
    mesh = mesh_over(storage)
    count = answered(mesh, 1)
    took, cpu = time.perf_counter() - began, time.process_time()
    print("ready", flush=True)
    member = mesh.get_router().get_pool(POOL).members["small"]
    left = member.cooldown_remaining
    rests = member.reason == "error_threshold" and left is not None and left < REST
    count += answered(mesh, AFFORDABLE)
    graph = mesh._built()
    lost = graph.engine.loop.run(missing(graph.state_store, keys))
    print(json.dumps({"seconds": took, "cpu": cpu, "answered": count, "lost": lost, "rests": rests}), flush=True)
    mesh.shutdown()


def run(storage: dict[str, Any], keys: int, server: Any = None) -> str:
    """Kill the one, start the other; return a row."""
    words = [sys.executable, __file__, "--keys", str(keys), "--storage", json.dumps(storage)]
    process = subprocess.Popen([*words, "--first"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    told = process.stdout.readline()
    process.kill()
    process.wait()
    if told != "filled\n":
        raise SystemExit("the first process could not fill the store")
    came_back = "none"
    if server is not None:
        stop(server)
        began = time.perf_counter()
        server.start()
        came_back = f"{time.perf_counter() - began:.2f} s"
    began = time.perf_counter()
    process = subprocess.Popen([*words, "--second"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    whole = time.perf_counter() - began
    facts = json.loads(process.stdout.readline())
    process.wait()
    exact = facts["answered"] == AFFORDABLE - ASKED
    return (
        f"{came_back} | {whole:.2f} s | {facts['seconds']:.2f} s | {facts['cpu']:.2f} s | {facts['lost']} of {keys:,}"
        f" | {'yes' if exact else 'NO'} | {'yes' if facts['rests'] else 'NO'}"
    )


def stop(server: Any) -> None:
    """Kill it. PostgreSQL's children go down with SIGQUIT, which writes as little as SIGKILL."""
    server.stop(signal.SIGKILL if server.url.startswith("redis") else signal.SIGQUIT)


async def kills(name: str, server: Any, rounds: int) -> str:
    """Kill a server while a process settles; say how many settlements were confirmed, and how many are gone."""
    import stores_network  # beside this script; here, for the processes that are measured load no more than a mesh does

    confirmed: dict[str, int] = {}
    for number in range(rounds):
        store = stores_network.patient(name, server.url)

        async def settle(worker: int, number: int = number, store: Any = store) -> None:
            turn = 0
            while True:
                turn += 1
                account = f"kill/{number}/{worker}/{turn}"
                try:
                    await store.reserve(account, [WindowClaim(account, 10, 100, KEEP)], lease=600.0)
                    if await store.settle(account, {account: 7}):
                        confirmed[account] = 7
                except StateStoreError:
                    return

        working = [asyncio.ensure_future(settle(worker)) for worker in range(16)]
        await asyncio.sleep(0.5)
        await asyncio.to_thread(stop, server)
        await asyncio.gather(*working)
        await asyncio.to_thread(server.start)
        await store.close()
    store = stores_network.patient(name, server.url)
    accounts, gone = list(confirmed), 0
    for begin in range(0, len(accounts), LOOK):
        balances = await store.balances(accounts[begin : begin + LOOK])
        gone += sum(balances[account].spent != 7 for account in accounts[begin : begin + LOOK])
    await store.close()
    return f"{rounds} kills, {len(confirmed):,} settlements confirmed, {gone} gone"


def measure(keys: int, rounds: int, only: str | None) -> None:
    """Print what came of it."""
    import stores_network  # beside this script

    home = stores_network.servers()
    print(
        "| store | server back after | first answer after | of that, mesh | its CPU | lost | budget exact | rest kept |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    with ExitStack() as stack:
        folder = stack.enter_context(home.servers_folder())
        here = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        places: dict[str, dict[str, Any]] = {
            "SQLite": {"connector": "modelmesh.sqlite.v1", "path": str(here / "state.sqlite")},
            "file": {"connector": "modelmesh.file.v1", "path": str(here / "state.json")},
        }
        for name, storage in places.items():
            if only in (None, name.lower()):
                most = min(keys, FILE_KEYS) if name == "file" else keys
                print(f"| {name} | {run(storage, most)} |", flush=True)
        lines = []
        for name, running in (("Redis", home.running_redis), ("PostgreSQL", home.running_postgres)):
            short = name.lower().removesuffix("ql")
            if only not in (None, short):
                continue
            server = stack.enter_context(running(folder))
            storage = {"connector": f"modelmesh.{short}.v1", "url": server.url, "timeout": 30.0}
            print(f"| {name} | {run(storage, keys, server)} |", flush=True)
            lines.append(f"{name}: {asyncio.run(kills(name, server, rounds))}")
        print("", *lines, sep="\n")


def main() -> None:
    """Measure, or be one of the processes that are measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--store", choices=("sqlite", "file", "redis", "postgres"))
    parser.add_argument("--storage", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--first", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--second", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.first:
        first(chosen.storage, chosen.keys)
    elif chosen.second:
        second(chosen.storage, chosen.keys)
    else:
        measure(chosen.keys, chosen.kills, chosen.store)


if __name__ == "__main__":
    main()
