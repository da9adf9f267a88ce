"""A mesh whose store fails (R10): at once decided, never waited for, back without a restart, bounded meanwhile."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from modelmesh import ModelMesh
from modelmesh.errors import ModelMeshError
from modelmesh.router import CompletionRequest

WAIT = 0.2
"""What a request may wait for the store (``call_timeout``)."""
SLACK = 0.15
"""Seconds by which a busy machine may be late."""
LOCAL = 4
"""Requests that the rate grants one of two processes at once while the store is down: half of a burst of eight."""

CONFIGURATION: dict[str, Any] = {
    "providers": {
        "paid": {"connector": "modelmesh.simulator.v1", "budget": {"daily_limit": 50.0}},
        "free": {"connector": "modelmesh.simulator.v1", "rate_limit": {"rpm": 80, "burst": 0.1}},
    },
    "models": {
        "large": {
            "provider": "paid",
            "capabilities": ["chat-completion"],
            "pricing": {"input_per_1k_tokens": 0, "output_per_1k_tokens": 0, "per_request": 0.01},
        },
        "small": {"provider": "free", "capabilities": ["chat-completion"]},
    },
    "pools": {
        name: {"capability": "chat-completion", "models": [model], "retry": {"max_attempts": 0}}
        for name, model in (("dear", "large"), ("cheap", "small"))
    },
}


@asynccontextmanager
async def mesh_over(shared: Any, port: int) -> Any:
    """Run a mesh over the store, reached by a port."""
    settings = {**shared.settings(port=port), **({} if shared.kind == "sqlite" else {"timeout": WAIT})}
    storage = {"connector": f"modelmesh.{shared.kind}.v1", **settings, "processes": 2, "sync_policy": "in-memory"}
    mesh = ModelMesh(environ={})
    mesh.initialize({**CONFIGURATION, "storage": storage})
    try:
        yield mesh
    finally:
        await mesh.ashutdown()


async def asked(mesh: ModelMesh, pool: str) -> tuple[bool, float]:
    """Ask; return whether it was answered, and after how many seconds."""
    began = time.monotonic()
    try:
        await mesh.get_router().acomplete(pool, CompletionRequest([{"role": "user", "content": "hi"}]))
    except ModelMeshError:
        return False, time.monotonic() - began
    return True, time.monotonic() - began


async def many(mesh: ModelMesh, pool: str, count: int) -> list[tuple[bool, float]]:
    """Ask for many at once."""
    return await asyncio.gather(*(asked(mesh, pool) for _ in range(count)))


async def switched(mesh: ModelMesh) -> tuple[float, float, int]:
    """See money refused and rates kept here, in time and within their bounds.

    Returns:
        Seconds until all knew, the longest wait of a request, and how many the rate granted here.
    """
    began = time.monotonic()
    dear = await many(mesh, "dear", 20)
    switch = time.monotonic() - began
    cheap = await many(mesh, "cheap", 20)
    again = await many(mesh, "dear", 20)

    assert not any(answered for answered, _ in dear + again), "money was spent unseen"
    assert switch < 1.0
    assert max(seconds for _, seconds in dear + cheap + again) < WAIT + SLACK
    assert max(seconds for _, seconds in again) < SLACK, "known to be down, it was waited for"
    granted = sum(answered for answered, _ in cheap)
    assert 1 <= granted <= LOCAL
    return switch, max(seconds for _, seconds in dear + cheap + again), granted


async def back(mesh: ModelMesh) -> float:
    """Ask until the budget's pool answers; return the seconds that took."""
    began = time.monotonic()
    while not (await asked(mesh, "dear"))[0]:
        assert time.monotonic() - began < 10.0, "it did not come back"
        await asyncio.sleep(0.05)
    return time.monotonic() - began


def settling(mesh: ModelMesh) -> int:
    """Count requests that are still being settled."""
    return len(mesh._built().engine.driver.limits._settling)


@pytest.mark.parametrize("how", ["silent", "broken"])
def test_cut_off_it_decides_by_itself_and_is_back_in_time(shared: Any, cut: Callable[[int], Any], how: str) -> None:
    """Half-open (nothing passes, nothing is closed), or every connection reset and none that comes through."""

    async def scenario() -> None:
        async with cut(shared.server.port) as way, mesh_over(shared, way.port) as mesh:
            await back(mesh)  # on a busy machine the first connection may take longer than a request waits
            way.freeze()
            if how == "broken":
                way.break_all()
            await switched(mesh)
            way.thaw()
            assert await back(mesh) < 5.0
            await asyncio.sleep(2 * WAIT)
            assert settling(mesh) == 0

    asyncio.run(scenario())


def test_stopped_and_restarted_it_goes_on_without_a_restart(shared: Any) -> None:
    """The budget's books are there again, and what ran when it stopped is not left settling."""

    async def scenario() -> None:
        async with mesh_over(shared, shared.server.port) as mesh:
            await back(mesh)  # on a busy machine the first connection may take longer than a request waits
            running = asyncio.ensure_future(many(mesh, "dear", 50))
            await asyncio.sleep(0)
            await asyncio.to_thread(shared.server.stop)
            try:
                await running
                await switched(mesh)
            finally:
                await asyncio.to_thread(shared.server.start)
            assert await back(mesh) < 5.0
            await asyncio.sleep(2 * WAIT)
            assert settling(mesh) == 0

    asyncio.run(scenario())


def test_a_database_that_another_process_holds_is_not_waited_for(tmp_path: Path) -> None:
    """SQLite, in which one writes at a time: a backup, say, or a process that was stopped at the wrong moment."""
    path = tmp_path / "state.db"
    shared = SimpleNamespace(kind="sqlite", settings=lambda port: {"path": str(path)})

    async def scenario() -> None:
        async with mesh_over(shared, 0) as mesh:
            await back(mesh)  # on a busy machine the first connection may take longer than a request waits
            holder = sqlite3.connect(path, isolation_level=None)
            try:
                holder.execute("BEGIN EXCLUSIVE")
                await switched(mesh)
            finally:
                holder.close()
            assert await back(mesh) < 5.0
            await asyncio.sleep(2 * WAIT)
            assert settling(mesh) == 0

    asyncio.run(scenario())
