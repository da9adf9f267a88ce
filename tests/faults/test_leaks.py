"""After hundreds of failures nothing is left over: no connection, file, task, thread, and no place in any count."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest

from modelmesh.errors import ModelMeshError
from modelmesh.router import CompletionRequest, CompletionResponse
from modelmesh_cdk.testing import faults, until
from modelmesh_cdk.testing.faults import STAY

HELLO = CompletionRequest([{"role": "user", "content": "hello"}])
FAULTS = [
    500,
    429,
    401,
    400,
    faults.reset("before_headers"),
    faults.reset("mid_body"),
    faults.close("before_headers"),
    faults.close("mid_body"),
    faults.too_short(),
    faults.hang("before_headers"),
    faults.hang("mid_body"),
    faults.body(b"<html>"),
    faults.body(b""),
    faults.redirect("http://elsewhere.invalid/"),
    faults.huge_header(200_000),
    faults.stream("Hel", "lo", end="silent"),
    faults.stream("Hel", "lo", end="cut"),
    faults.stream("Hel", "lo", end="reset"),
    faults.stream("Hel", "lo", end="error"),
    faults.stream("Hel", "lo", end="malformed"),
    faults.stream("Hel", "lo", end="stall"),
    faults.then_close(faults.chat("fine")),
    faults.chat("fine"),
]


def open_files() -> int:
    """Return how many file descriptors this process holds."""
    return len(os.listdir("/proc/self/fd"))


async def read(stream: AsyncIterator[CompletionResponse]) -> None:
    """Read a stream to its end."""
    async for _ in stream:
        pass


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts files as Linux lists them")
def test_two_hundred_faulty_requests_leave_nothing_open(world: Any) -> None:
    """R7, R12, F4, F13, F22: every fault, plain, streamed, cancelled half-way; then all counts are at zero."""
    server = world.provider(*FAULTS * 10)
    world.build(timeouts={"connect": 1, "first_token": 0.03, "idle": 0.03, "total": 0.03}, provider_deactivation=[])

    async def one(number: int) -> None:
        router = world.mesh.get_router()
        with suppress(ModelMeshError, TimeoutError):
            async with asyncio.timeout(0.01 if number % 5 == 0 else 5):
                await (read(router.stream("chat", HELLO)) if number % 2 else router.acomplete("chat", HELLO))

    async def main() -> None:
        async with world.mesh as mesh:
            with suppress(ModelMeshError):
                await mesh.get_router().acomplete("chat", HELLO)
            before = open_files()
            for start in range(0, 200, 20):
                await asyncio.gather(*(one(number) for number in range(start, start + 20)))
            await until(lambda: len(asyncio.all_tasks()) == 1)
            await until(lambda: server.open_connections <= 20)  # it looks at one that was given up when it next writes
            await until(lambda: open_files() - before <= 2 * server.open_connections + 2)
            pool = mesh.get_router().get_pool("chat")
            assert (pool.active_requests, pool.active_retries) == (0, 0)
            assert [member.model.in_flight for member in pool.members.values()] == [0]

    asyncio.run(main())
    assert server.wait_until_unconnected()


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts files as Linux lists them")
def test_a_mesh_that_is_shut_down_holds_no_file_and_no_thread(world: Any) -> None:
    """R12, R13: everything that a mesh opened goes with it."""
    world.provider(default="fine")
    gc.collect()
    files, threads = open_files(), threading.active_count()

    for _ in range(3):
        world._mesh = None
        world.ask()
        list(world.stream())
        world.mesh.shutdown()
        assert world.servers[0].wait_until_unconnected()

    assert open_files() <= files
    assert threading.active_count() == threads


def test_connections_do_not_grow_with_failures_that_keep_them_alive(world: Any) -> None:
    """R12: an answer that says no is read to its end, and its connection is used again."""
    server = world.provider(*[500, 429, faults.body(b"<html>"), 503] * 10)
    world.build(deactivation={"retry_limit": 1_000, "error_rate_threshold": 1.0})

    for _ in range(40):
        with pytest.raises(ModelMeshError):
            world.ask()

    assert len(server.requests) == 40
    assert server.connects == 1


def test_a_server_that_dawdles_after_the_end_of_a_stream_delays_nobody(world: Any, texts: Any) -> None:
    """F13: what comes after ``[DONE]`` is not waited for."""

    def dawdling(request: Any) -> Any:
        yield from list(faults.stream("Hel", "lo")(request))[:-1]
        yield STAY

    server = world.provider(dawdling, default=faults.chat("next"))
    world.build(timeouts={"total": 2, "first_token": 2, "idle": 2})

    assert texts(world.stream()) == "Hello"
    assert server.wait_for_disconnect(1.0)
    assert texts(world.stream()) == "next"


def test_closed_event_loops_are_let_go(world: Any) -> None:
    """F27, R12: a mesh that lives longer than many loops keeps nothing of them."""
    server = world.provider(default="fine")
    mesh = world.mesh
    connector = mesh.get_registry().list_models()[0].provider.connector

    async def main() -> None:
        await mesh.get_router().acomplete("chat", HELLO)
        # A loop that ends takes its connections along; without this, Python itself would warn of them.
        transport = connector.http._carriers[asyncio.get_running_loop()]
        await transport.aclose()

    for _ in range(20):
        asyncio.run(main())

    assert len(connector.http._carriers) <= 2
    assert len(server.requests) == 20
