"""What one reservation costs on each state store (reliability goal R28).

    python tests/benchmarks/stores.py

Prints p50 and p99 in microseconds of one reserve and one settle, one after the other, and how many reservations a
second many concurrent requests get. Every store is on a local disk. Beside the figures stand their goal and, for stores
that have a thread, what it costs to hand a job that does nothing to such a thread and back: no claim can be quicker,
and what the machine does besides shows there, too. They are measured in turns of some hundred each: were each claim
followed by such a job, both would find the machine as the other left it.

Where nothing else runs, the cores of a virtual machine fall asleep between two hand-overs, and waking one takes longer
than the claim. "On one core" shows the claim without that: loop and thread share a core, as they do on a busy machine.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import Awaitable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from modelmesh.interfaces.ledger import Claim, RateClaim, WindowClaim
from modelmesh_cdk.commit_thread import CommitThread, Job
from modelmesh_cdk.testing import context
from modelmesh_cdk.testing.store_worker import RealClock
from modelmesh_plugins.state_stores.file import FileConfig, FileStateStore
from modelmesh_plugins.state_stores.memory import MemoryStateStore
from modelmesh_plugins.state_stores.sqlite import SQLiteConfig, SQLiteStateStore

ONE: list[Claim] = [WindowClaim("budget/openai/day/2026-11-21", 1_000, 2**50, 90_000.0)]
TWO: list[Claim] = [RateClaim("rpm/gpt-4o-mini", 1, 10**9, 60.0, 10**9), *ONE]
THREE: list[Claim] = [RateClaim("tpm/gpt-4o-mini", 500, 10**12, 60.0, 10**12), *TWO]
TURNS = 10
ONE_CORE = "sqlite, on one core"
GOALS = {
    "memory": "5 / 20",
    "sqlite": "150 / 1,000",
    ONE_CORE: "150 / 1,000",
    "sqlite, full": "150 / 1,000",
    "file": "none",
}


def stores(folder: Path) -> dict[str, Any]:
    """Make the stores."""
    return {
        "memory": MemoryStateStore(),
        "sqlite": SQLiteStateStore(SQLiteConfig(path=str(folder / "normal.sqlite"))),
        ONE_CORE: SQLiteStateStore(SQLiteConfig(path=str(folder / "one.sqlite"))),
        "sqlite, full": SQLiteStateStore(SQLiteConfig(path=str(folder / "full.sqlite"), synchronous="full")),
        "file": FileStateStore(FileConfig(path=str(folder / "state.json"))),
    }


async def one_by_one(store: Any, count: int, *, has_thread: bool) -> dict[str, list[int]]:
    """Reserve and settle in turns; return what each call took, in nanoseconds."""
    thread: CommitThread[None] = CommitThread("nothing", nothing)
    times: dict[str, list[int]] = {}

    async def timed(what: str, call: Awaitable[Any]) -> None:
        begin = time.perf_counter_ns()
        await call
        times.setdefault(what, []).append(time.perf_counter_ns() - begin)

    for turn in range(TURNS + 1):
        if turn == 1:
            times.clear()  # the first has warmed everything up
        for number in range(count // TURNS):
            for what, claims in {"one": ONE, "two": TWO, "three": THREE}.items():
                await timed(what, store.reserve(f"{what}-{turn}-{number}", claims, lease=60.0))
                await timed(f"settle {what}", store.settle(f"{what}-{turn}-{number}", {}))
        for _ in range(count // TURNS if has_thread else 0):
            await timed("thread", thread.run(lambda _: None))
    await thread.close()
    return times


def nothing(jobs: Sequence[Job[None]]) -> None:
    """Commit what changes nothing."""
    for job in jobs:
        job.carry_out(None)


async def together(store: Any, count: int) -> float:
    """Reserve and settle for many requests at once; return requests a second."""

    async def request(number: int) -> None:
        await store.reserve(f"together-{number}", THREE, lease=60.0)
        await store.settle(f"together-{number}", {})

    begin = time.perf_counter()
    for start in range(0, count, 200):
        await asyncio.gather(*(request(start + number) for number in range(200)))
    return count / (time.perf_counter() - begin)


@contextmanager
def on_one_core() -> Iterator[None]:
    """Keep this thread, and those it starts, on one core; where the system knows no such thing, on any."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    every = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(every)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, every)


def shown(times: list[int]) -> str:
    """Return p50 / p99 in microseconds."""
    if not times:
        return "none"
    times.sort()
    return f"{times[len(times) // 2] / 1e3:,.1f} / {times[len(times) * 99 // 100] / 1e3:,.1f}"


async def measure(name: str, store: Any, count: int) -> None:
    """Print one line of the table."""
    store.bind(context("storage", clock=RealClock()))
    if name == "file":
        count //= 20  # each change writes the whole file
    times = await one_by_one(store, count, has_thread=name != "memory")
    cells = [
        shown(times.get("thread", [])),
        GOALS[name],
        *(shown(times[what]) for what in ("one", "two", "three", "settle one")),
    ]
    rate = await together(store, 4_000)
    print(f"| {name} | {' | '.join(cells)} | {rate:,.0f} |", flush=True)
    await store.close()


def main() -> None:
    """Measure all stores."""
    parser = argparse.ArgumentParser(description="Measure what a reservation costs on each state store.")
    parser.add_argument("--count", type=int, default=5_000, help="Reservations a figure is made of.")
    options = parser.parse_args()
    print("p50 / p99 in µs, one after the other; requests a second, 200 at once")
    print("| store | bare thread | goal | reserve, 1 claim | 2 claims | 3 claims | settle | at once |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for name, store in stores(Path(folder)).items():
            with on_one_core() if name == ONE_CORE else nullcontext():
                asyncio.run(measure(name, store, options.count))


if __name__ == "__main__":
    main()
