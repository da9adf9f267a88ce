"""R12: requests leave no memory behind, and open streams take little."""

from __future__ import annotations

import asyncio
import gc
import json
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from modelmesh.router import CompletionRequest
from modelmesh_cdk.testing import faults

COMMAND = Path(__file__).resolve().parents[1] / "benchmarks" / "memory.py"
STREAMS, EACH = 1_000, 64 * 1024
REQUEST = CompletionRequest([{"role": "user", "content": "hi"}])


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads resident memory as Linux shows it")
@pytest.mark.parametrize("observed", [False, True], ids=["unseen", "observed"])
def test_requests_leave_nothing_behind(tmp_path: Path, figures: Any, observed: bool) -> None:
    """In a process of its own: whole, streamed and failing ones, each with its own session and its own records."""
    count = figures.scale(20_000 if observed else 100_000, 1_000_000)
    result = tmp_path / "found.json"
    command = [sys.executable, str(COMMAND), "--requests", str(count), "--json", str(result)]

    subprocess.run([*command, *(["--observed"] if observed else [])], check=True, capture_output=True)

    found = json.loads(result.read_text(encoding="utf-8"))
    assert found["more"] <= 20
    # One small thing kept of every twentieth request is seen at once; caches that still fill up keep less.
    assert found["kept"] <= (0.05 if count < 100_000 else 0.01)
    # Whoever writes records has caches that fill up to their caps within 200,000 requests: this is no slope.
    if count >= 1_000_000 or not observed:
        assert found["slope"] <= 1.0
    figures.add(
        "R12",
        f"{count:,} requests in process" + (", all four kinds of records to a file" if observed else ""),
        f"slope after warm-up {found['slope']:.3f} B a request, {found['kept']:.4f} pieces of memory a request;"
        f" end over warm start {found['more']:.2f} MB",
    )


@pytest.mark.parametrize("transport", ["aiohttp"], indirect=True)
def test_a_thousand_open_streams_take_little(sockets: Any, transport: str, figures: Any) -> None:
    """All of them have sent some text and are waited for; what Python allocated for both ends is shared among them."""
    sockets.provider(faults.stream("some ", "text ", end="stall"))
    mesh = sockets.mesh(timeouts={"idle": 60, "total": 120}, deadline=120)
    reading = 0
    everybody = asyncio.Event()

    async def read(router: Any) -> None:
        nonlocal reading
        async for part in router.stream("chat", REQUEST):
            if part.content == "text ":
                reading += 1
                if reading == STREAMS:
                    everybody.set()

    async def main() -> int:
        async with mesh:
            gc.collect()
            tracemalloc.start(1)
            try:
                before = tracemalloc.get_traced_memory()[0]
                tasks = []
                for number in range(STREAMS):
                    tasks.append(asyncio.create_task(read(mesh.get_router())))
                    if number % 50 == 49:
                        await asyncio.sleep(0.02)
                await asyncio.wait_for(everybody.wait(), 30)
                gc.collect()
                taken = tracemalloc.get_traced_memory()[0] - before
            finally:
                tracemalloc.stop()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            return taken

    taken = asyncio.run(main())

    assert taken <= STREAMS * EACH
    figures.add("R12", f"{STREAMS:,} open streams, {transport}, both ends", f"{taken / STREAMS / 1024:.1f} KB each")
