"""What processes tell one another over Redis and PostgreSQL arrives within a second, also after an interruption."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from modelmesh import ModelMesh
from modelmesh.interfaces.provider import RateLimitStatus
from modelmesh.router import CompletionRequest

POOL = "chat-completion"
BOUND = 1.0


def mesh_over(shared: Any, port: int | None = None, *, sticky: str = "") -> ModelMesh:
    """Build a process of two providers over the store; ``sticky`` sessions begin with this model."""
    mesh = ModelMesh(environ={})
    storage = {"connector": f"modelmesh.{shared.kind}.v1", **shared.settings(port=port), "sync_policy": "in-memory"}
    mesh.initialize(
        {
            "providers": {name: {"connector": "modelmesh.simulator.v1"} for name in "ab"},
            "models": {name: {"provider": name, "capabilities": [POOL]} for name in "ab"},
            "pools": {POOL: {"strategy": "session-stickiness", "model_priority": [sticky]} if sticky else {}},
            "storage": storage,
        }
    )
    return mesh


def provider(mesh: ModelMesh) -> Any:
    """Return the first provider's service."""
    return mesh._built().providers["a"]


def say(mesh: ModelMesh, remaining: int) -> None:
    """Have an answer say how many of a thousand requests remain."""
    provider(mesh).take_rate_limits(RateLimitStatus(remaining, requests_limit=1_000))


async def known(mesh: ModelMesh, remaining: int, within: float) -> bool:
    """Wait until a process knows what remains."""
    ends_at = time.monotonic() + within
    while time.monotonic() < ends_at:
        status = provider(mesh).rate_limits
        if status is not None and status.requests_remaining == remaining:
            return True
        await asyncio.sleep(0.01)
    return False


async def acquainted(here: ModelMesh, there: ModelMesh) -> None:
    """Wait until one hears the other: what is told before somebody listens is lost."""
    for remaining in range(950, 0, -50):
        say(here, remaining)
        if await known(there, remaining, 0.5):
            return
    raise AssertionError("nothing was heard")


def test_headroom_rests_and_recoveries_are_known_within_a_second(shared: Any) -> None:
    """Each kind of news, one after the other."""

    async def scenario() -> None:
        here, there = mesh_over(shared), mesh_over(shared)
        try:
            await acquainted(here, there)
            say(here, 13)
            assert await known(there, 13, BOUND)
            place = here.get_router().get_pool(POOL).members["a"]
            place.pool.deactivate(place.model)
            assert await _until(lambda: not _member(there).active, BOUND)
            place.pool.recover(place.model)
            assert await _until(lambda: _member(there).active, BOUND)
            provider(here).deactivate("api_outage", auth=False, rest=60.0, now=place.pool.clock.monotonic())
            assert await _until(lambda: provider(there).deactivated == "api_outage", BOUND)
            later = mesh_over(shared)
            try:
                assert await _until(lambda: provider(later).deactivated == "api_outage", BOUND)
            finally:
                await later.ashutdown()
        finally:
            await here.ashutdown()
            await there.ashutdown()

    asyncio.run(scenario())


def test_what_was_told_while_a_process_was_cut_off_it_learns_afterwards(shared: Any, cut: Callable[[int], Any]) -> None:
    """Messages are lost with the connection; the record of what holds is not."""

    async def scenario() -> None:
        async with cut(shared.server.port) as way:
            here, there = mesh_over(shared), mesh_over(shared, way.port)
            try:
                await acquainted(here, there)
                way.freeze()
                way.break_all()
                place = _member(here)
                place.pool.deactivate(place.model)
                assert not await _until(lambda: not _member(there).active, 0.6)
                way.thaw()
                assert await _until(lambda: not _member(there).active, 7.0)
            finally:
                await here.ashutdown()
                await there.ashutdown()

    asyncio.run(scenario())


def test_sessions_are_known_within_a_second_and_told_who_starts_later(shared: Any) -> None:
    """Each stays with its model, although the other process would choose another for a new one."""

    async def scenario() -> None:
        here, there = mesh_over(shared, sticky="b"), mesh_over(shared, sticky="a")
        try:
            await ask(here, "first")
            assert await _until(lambda: "first" in _sessions(there), 5.0)  # both have asked one another by then
            began = time.monotonic()
            assert await ask(here, "second") == "b"
            assert await _until(lambda: "second" in _sessions(there), BOUND - (time.monotonic() - began))
            assert await ask(there, "second") == "b"
            later = mesh_over(shared, sticky="a")
            try:
                assert await _until(lambda: len(_sessions(later)) == 2, BOUND)
                assert await ask(later, "first") == "b"
            finally:
                await later.ashutdown()
        finally:
            await here.ashutdown()
            await there.ashutdown()

    asyncio.run(scenario())


async def ask(mesh: ModelMesh, session: str) -> str:
    """Ask in a session; return the ID of the model that answered."""
    request = CompletionRequest([{"role": "user", "content": "hi"}], metadata={"session_id": session})
    return (await mesh.get_router().acomplete(POOL, request)).model


def _sessions(mesh: ModelMesh) -> Any:
    strategy: Any = mesh.get_router().get_pool(POOL).rotation.strategy
    return strategy.bound_sessions()


def _member(mesh: ModelMesh) -> Any:
    return mesh.get_router().get_pool(POOL).members["a"]


async def _until(holds: Callable[[], bool], within: float) -> bool:
    ends_at = time.monotonic() + within
    while time.monotonic() < ends_at:
        if holds():
            return True
        await asyncio.sleep(0.01)
    return False
