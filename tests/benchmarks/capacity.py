"""How many requests a second one Redis or PostgreSQL carries.

    python tests/benchmarks/capacity.py [--processes 1 2 4] [--seconds 5]

Processes reserve (a budget and a rate) and settle, as a mesh does for each request, 64 at once each. Either
all spend from one budget, or each process from a hundred of its own. Beside the rate stands what a request costs
the server in CPU: where the processes have machines of their own, that ends the growth. Redis computes on one
core; PostgreSQL on as many as it has, except for one account, whose changes wait for one another.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any

AT_ONCE = 64
ACCOUNTS = 100
TICKS = os.sysconf("SC_CLK_TCK")


async def spend(store: Any, name: str, seconds: float, is_shared: bool) -> int:
    """Reserve and settle for so long; return how many requests that were."""
    from modelmesh.interfaces.ledger import RateClaim, WindowClaim

    numbers = count()
    ends_at = time.monotonic() + seconds

    async def requests() -> None:
        while time.monotonic() < ends_at:
            number = next(numbers)
            place = "all" if is_shared else f"{name}/{number % ACCOUNTS}"
            claims = [
                WindowClaim(f"budget/{place}", 1_000, 2**50, 86_400.0),
                RateClaim(f"rpm/{place}", 1, 10**9, 60.0, 10**9),
            ]
            await store.reserve(f"{name}-{number}", claims, lease=600.0)
            await store.settle(f"{name}-{number}", {claims[0].account: 900})

    await asyncio.gather(*(requests() for _ in range(AT_ONCE)))
    return next(numbers)


async def work(kind: str, url: str, seconds: float, is_shared: bool) -> None:
    """Be one process: say when ready, spend after a line, say how many requests that were."""
    import stores_network  # beside this script

    store = stores_network.patient(kind, url)
    await store.load("warm")
    print("ready", flush=True)
    sys.stdin.readline()
    print(await spend(store, str(os.getpid()), seconds, is_shared), flush=True)
    await store.close()


def cpu_of(process: int) -> float:
    """CPU seconds of a process, its children and what children have ended so far."""
    total, families = 0, {process}
    for folder in sorted(
        (entry for entry in Path("/proc").iterdir() if entry.name.isdigit()), key=lambda e: int(e.name)
    ):
        try:
            facts = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended
        if int(folder.name) == process or int(facts[1]) in families:
            families.add(int(folder.name))
            total += sum(map(int, facts[11:13]))
            if int(folder.name) == process:
                total += sum(map(int, facts[13:15]))
    return total / TICKS


def measure(kind: str, server: Any, processes: int, seconds: float, *, is_shared: bool) -> str:
    """Return a row: requests a second of all, and the server's CPU for each."""
    words = [sys.executable, __file__, "--worker", json.dumps([kind, server.url, seconds, is_shared])]
    running = [
        subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(processes)
    ]
    for process in running:
        assert process.stdout is not None
        process.stdout.readline()
    before = cpu_of(server.process.pid)
    for process in running:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    requests = sum(int(process.stdout.readline()) for process in running if process.stdout is not None)
    cpu = cpu_of(server.process.pid) - before
    for process in running:
        process.communicate()
    each = cpu / max(1, requests)
    return f"{requests / seconds:,.0f} | {each * 1e6:.0f} µs | {1 / max(each, 1e-9):,.0f}"


def main() -> None:
    """Print a table, or be one of the processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--worker", type=json.loads, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.worker is not None:
        asyncio.run(work(*chosen.worker))
        return
    import stores_network  # beside this script

    home = stores_network.servers()
    print("| store | processes | accounts | requests/s | server's CPU each | a core of it alone |")
    print("| --- | --- | --- | --- | --- | --- |")
    with ExitStack() as stack:
        folder = stack.enter_context(home.servers_folder())
        for kind, running in (("Redis", home.running_redis), ("PostgreSQL", home.running_postgres)):
            server = stack.enter_context(running(folder))
            for is_shared in (True, False):
                for processes in chosen.processes:
                    row = measure(kind, server, processes, chosen.seconds, is_shared=is_shared)
                    accounts = "one" if is_shared else "many"
                    print(f"| {kind} | {processes} | {accounts} | {row} |", flush=True)


if __name__ == "__main__":
    main()
