"""Memory that requests leave behind (R12), and how long anything of ours holds the event loop (R16).

Run: ``python tests/benchmarks/memory.py`` for 100,000 requests, ``--requests 1000000`` for the long one, ``--observed``
to write all four kinds of records to a file meanwhile; requests then come no faster than records are written, or the
queue filling up to its cap would look like a slope. Every tenth request is a stream, every twentieth call fails and
is rotated, sessions and request IDs are new each time. The slope is the least-squares line through samples of resident
memory taken after a tenth of the requests, when caches are warm. Then 1,000 requests run at once while every callback
of the loop is timed.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from modelmesh.mesh import ModelMesh
from modelmesh_cdk.testing import timed_callbacks

SAMPLES = 40
CONCURRENCY = 50
WAITING = 1_000
"""Records that may wait for their sink before requests pause: filled to its cap, a queue alone holds 5 MB."""
AT_ONCE = 1_000
MESSAGES = [{"role": "user", "content": "What is the capital of France?"}]


def resident() -> int:
    """Return the process's resident memory in bytes."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * 4096


def mesh_of(folder: str, *, observed: bool, latency: str = "0s") -> ModelMesh:
    """Build a mesh of ten models at two providers, one of which fails now and then."""
    config: dict[str, object] = {
        "providers": {
            "good": {"connector": "modelmesh.simulator.v1", "latency": latency},
            "bad": {"connector": "modelmesh.simulator.v1", "latency": latency, "failures": [{"every": 20}]},
        },
        "models": {
            f"m{n}": {
                "provider": "bad" if n % 2 else "good",
                "capabilities": ["chat-completion"],
                "pricing": {"input_per_1k_tokens": 0.1, "output_per_1k_tokens": 0.2},
            }
            for n in range(10)
        },
        "pools": {"chat": {"capability": "chat-completion", "strategy": "round-robin"}},
        "observability": {"connector": "modelmesh.null.v1"},
    }
    if observed:
        path = str(Path(folder, "log.jsonl"))
        config["observability"] = {"connector": "modelmesh.file.v1", "path": path, "max_size": "5MB"}
    mesh = ModelMesh(environ={})
    mesh.initialize(config)
    return mesh


async def one(mesh: ModelMesh, number: int) -> None:
    """Send one request."""
    router = mesh.get_router()
    metadata = {"session_id": f"session-{number}", "request_id": f"own-{number}"}
    if number % 10:
        await router.execute("chat", "chat", {"messages": MESSAGES}, metadata=metadata)
        return
    async for _ in router.execute_stream("chat", {"messages": MESSAGES}, metadata=metadata):
        pass


def waiting(mesh: ModelMesh) -> int:
    """Return how many records wait for their sink."""
    return sum(counts.waiting for counts in mesh.delivery_counts().values())


async def send(mesh: ModelMesh, numbers: Iterator[int]) -> None:
    """Send these requests, some at a time, until every record of them is written."""

    async def worker() -> None:
        for number in numbers:
            await one(mesh, number)
            await asyncio.sleep(0)  # a simulator without latency never lets the loop come round, unlike a network
            while waiting(mesh) > WAITING:  # noqa: ASYNC110 (the sink works in a thread and tells nobody)
                await asyncio.sleep(0.001)

    await asyncio.gather(*(worker() for _ in range(CONCURRENCY)))
    while waiting(mesh):  # noqa: ASYNC110 (as above)
        await asyncio.sleep(0.001)


async def measure_memory(requests: int, *, observed: bool) -> dict[str, float]:
    """Send so many requests, print what stayed, and return it."""
    with tempfile.TemporaryDirectory() as folder:
        mesh = mesh_of(folder, observed=observed)
        samples: list[tuple[int, int, int]] = []
        every = max(1, requests // SAMPLES)
        for done in range(every, requests + 1, every):
            await send(mesh, iter(range(done - every, done)))
            gc.collect()
            samples.append((done, resident(), sys.getallocatedblocks()))
        await mesh.ashutdown()
    warm = [sample for sample in samples if sample[0] >= requests // 10]
    found = {
        "slope": slope([(done, memory) for done, memory, _ in warm]),
        "more": (warm[-1][1] - warm[0][1]) / 1e6,
        "kept": slope([(done, blocks) for done, _, blocks in warm]),
    }
    print(f"requests                     {done:12,}   {'all four kinds of records to a file' if observed else ''}")
    print(f"slope after warm-up          {found['slope']:12.3f} B a request   (goal: ≤ 1)")
    print(f"end over warm start          {found['more']:12.2f} MB   (goal: ≤ 20)")
    print(f"pieces of memory kept        {found['kept']:12.4f} a request   (goal: ≤ 0.01)")
    print(f"resident at the end          {warm[-1][1] / 1e6:12.1f} MB")
    return found


def slope(samples: list[tuple[int, int]]) -> float:
    """Return the slope of the least-squares line, in bytes a request."""
    count = len(samples)
    mean_x, mean_y = sum(x for x, _ in samples) / count, sum(y for _, y in samples) / count
    across = sum((x - mean_x) ** 2 for x, _ in samples)
    return sum((x - mean_x) * (y - mean_y) for x, y in samples) / across


async def all_at_once(mesh: ModelMesh) -> None:
    """Begin requests as a server does, a few each time the loop comes round, until so many run."""
    tasks = []
    for number in range(AT_ONCE):
        tasks.append(asyncio.create_task(one(mesh, number)))
        if number % 10 == 0:
            await asyncio.sleep(0)
    await asyncio.gather(*tasks)


async def measure_callbacks(*, observed: bool) -> None:
    """Run 1,000 requests at once, ask for statistics meanwhile, and print the longest callbacks."""
    with tempfile.TemporaryDirectory() as folder:
        mesh = mesh_of(folder, observed=observed, latency="20ms")
        await asyncio.gather(*(one(mesh, number) for number in range(100)))
        gc.collect()
        gc.freeze()  # as `modelmesh serve` does
        with timed_callbacks() as spans:
            for _ in range(5):
                await all_at_once(mesh)
                mesh.get_statistics().flush()
                mesh.pool_status()
        print(f"callbacks timed              {len(spans):12,}   ({AT_ONCE:,} requests at once, five times)")
        # On a machine that does other things as well, the wall's clock counts their time, too.
        for place, name in enumerate(("CPU", "wall")):
            ordered = sorted(span[place] * 1000 for span in spans)
            print(f"longest callback, {name:4}       {ordered[-1]:12.2f} ms   (goal: ≤ 20)")
            print(f"p99.9, {name:4}                  {ordered[int(0.999 * len(ordered))]:12.2f} ms   (goal: ≤ 5)")
        await mesh.ashutdown()


def main() -> None:
    """Measure both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=100_000, help="how many (100,000)")
    parser.add_argument("--observed", action="store_true", help="write all four kinds of records to a file")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what stayed there, and time no callbacks")
    asked = parser.parse_args()
    found = asyncio.run(measure_memory(asked.requests, observed=asked.observed))
    if asked.json is not None:
        asked.json.write_text(json.dumps(found), encoding="utf-8")
        return
    asyncio.run(measure_callbacks(observed=asked.observed))


if __name__ == "__main__":
    main()
