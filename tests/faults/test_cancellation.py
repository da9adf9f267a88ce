"""A caller that goes away at any moment: the provider is hung up on, and nothing is left behind."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import suppress
from typing import Any

import pytest

from modelmesh.errors import ModelMeshError, ProviderConnectionError, UsageError
from modelmesh.router import CompletionRequest, CompletionResponse
from modelmesh_cdk.testing import faults, until

HELLO = CompletionRequest([{"role": "user", "content": "hello"}])


async def read(stream: AsyncIterator[CompletionResponse]) -> str:
    """Read a stream to its end."""
    return "".join([part.content async for part in stream])


def others() -> set[asyncio.Task[Any]]:
    """Return the tasks of this loop but for the running one."""
    return asyncio.all_tasks() - {asyncio.current_task()}  # type: ignore[arg-type]  # there is a running one


HANGING = {
    "before headers": faults.hang("before_headers"),
    "after headers": faults.hang("after_headers"),
    "mid body": faults.hang("mid_body"),
    "in a stream": faults.stream("Hel", "lo", end="stall"),
    "among comments": faults.stream("Hel", end="comments"),
}


@pytest.mark.parametrize("times", [1, 2], ids=["once", "twice"])
@pytest.mark.parametrize("is_streamed", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("step", list(HANGING.values()), ids=list(HANGING))
def test_a_cancelled_request_hangs_up_on_its_provider(world: Any, step: Any, is_streamed: bool, times: int) -> None:
    """F22, R7: wherever it stands, and though it is cancelled again while it closes, nothing stays open."""
    server = world.provider(step)
    world.provider("second")

    async def main() -> None:
        async with world.mesh as mesh:
            router = mesh.get_router()
            work = read(router.stream("chat", HELLO)) if is_streamed else router.acomplete("chat", HELLO)
            task = asyncio.create_task(work)
            await asyncio.to_thread(server.wait_for_requests)
            await asyncio.sleep(0.005)
            for _ in range(times):
                task.cancel()
                await asyncio.sleep(0)
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(server.wait_for_disconnect, 1.0)
            await until(lambda: not others())
            assert [member.model.in_flight for member in router.get_pool("chat").members.values()] == [0, 0]

    asyncio.run(main())

    assert world.servers[1].requests == []
    assert world.states() == {"m0": None, "m1": None}


@pytest.mark.parametrize("turns", range(0, 24, 3))
@pytest.mark.parametrize("is_streamed", [False, True], ids=["plain", "streamed"])
def test_a_request_may_be_cancelled_at_any_await(world: Any, is_streamed: bool, turns: int) -> None:
    """F22: after so many turns of the loop; the mesh answers the next request as if nothing had been."""
    server = world.provider(default=faults.stream("Hel", "lo") if is_streamed else "Hello")

    async def main() -> str:
        async with world.mesh as mesh:
            router = mesh.get_router()

            def ask() -> Coroutine[Any, Any, Any]:
                return read(router.stream("chat", HELLO)) if is_streamed else router.acomplete("chat", HELLO)

            await ask()
            task = asyncio.create_task(ask())
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            await until(lambda: not others())
            assert router.get_pool("chat").active_requests == 0
            answer = await ask()
            return answer if isinstance(answer, str) else answer.content

    assert asyncio.run(main()) == "Hello"
    assert server.connects <= 3


@pytest.mark.parametrize("chunks", [0, 1, 2, 3])
def test_a_stream_that_is_closed_early_hangs_up(world: Any, chunks: int) -> None:
    """R7: leaving the iteration is enough."""
    server = world.provider(faults.stream("Hel", "lo", end="stall"))

    async def main() -> None:
        async with world.mesh as mesh:
            stream = mesh.get_router().stream("chat", HELLO)
            for _ in range(chunks):
                await anext(stream)
            await stream.aclose()
            if chunks:
                assert await asyncio.to_thread(server.wait_for_disconnect, 1.0)
            await until(lambda: not others())

    asyncio.run(main())


def test_a_blocking_stream_that_is_left_early_hangs_up(world: Any) -> None:
    """R7: the same through the blocking client."""
    server = world.provider(faults.stream("Hel", "lo", end="stall"))
    client = world.mesh.get_client()

    with client.chat.completions.create(model="chat", messages=HELLO.messages, stream=True) as stream:
        next(stream)

    assert server.wait_for_disconnect(1.0)


def test_a_finished_stream_keeps_its_connection_for_the_next(world: Any, texts: Any) -> None:
    """R12: reading to the end is not hanging up."""
    server = world.provider(default=faults.chat("one two three"))

    for _ in range(5):
        assert texts(world.stream()) == "one two three"

    assert server.connects == 1


def test_a_late_answer_is_not_mistaken_for_the_next_ones(world: Any) -> None:
    """F22: a connection with an answer that nobody waits for any more is never used again."""
    server = world.provider(faults.delay(faults.chat("stale"), 0.03), default="fresh")

    async def main() -> list[str]:
        async with world.mesh as mesh:
            router = mesh.get_router()
            task = asyncio.create_task(router.acomplete("chat", HELLO))
            await asyncio.to_thread(server.wait_for_requests)
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            answers = []
            for _ in range(5):
                answers.append((await router.acomplete("chat", HELLO)).content)
                await asyncio.sleep(0.01)
            return answers

    assert asyncio.run(main()) == ["fresh"] * 5


def test_a_timeout_of_the_callers_own_is_the_callers(world: Any) -> None:
    """F22: ``asyncio.timeout`` around a request raises TimeoutError, and blames no provider."""
    server = world.provider(faults.hang(), faults.hang(), faults.hang(), default="fine")

    async def main() -> None:
        async with world.mesh as mesh:
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.02):
                        await mesh.get_router().acomplete("chat", HELLO)
            assert await asyncio.to_thread(server.wait_for_disconnect, 1.0, count=3)
            assert (await mesh.get_router().acomplete("chat", HELLO)).content == "fine"

    asyncio.run(main())

    assert world.states() == {"m0": None}


@pytest.mark.parametrize("is_streamed", [False, True], ids=["plain", "streamed"])
def test_shutting_down_ends_requests_that_run(world: Any, is_streamed: bool) -> None:
    """F20: a blocking caller is not left waiting for a mesh that is gone."""
    server = world.provider(default=faults.hang())
    world.build(timeouts={"total": 30, "first_token": 30}, deadline=30)
    raised: list[BaseException] = []

    def ask() -> None:
        try:
            list(world.stream()) if is_streamed else world.ask()
        except BaseException as error:
            raised.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    assert server.wait_for_requests()
    started = time.monotonic()
    world.mesh.shutdown()
    asking.join(2.0)

    assert not asking.is_alive()
    assert time.monotonic() - started < 1.5
    assert server.wait_until_unconnected(1.0)
    assert len(raised) == 1


def test_closing_the_mesh_on_its_loop_ends_requests_that_run(world: Any) -> None:
    """F20: an asynchronous caller gets a ModelMesh error, not one of the HTTP library's."""
    server = world.provider(default=faults.hang())

    async def main() -> Any:
        task = asyncio.create_task(world.mesh.get_router().acomplete("chat", HELLO))
        await asyncio.to_thread(server.wait_for_requests)
        await world.mesh.ashutdown()
        try:
            async with asyncio.timeout(1.0):
                return await task
        except (ModelMeshError, asyncio.CancelledError, TimeoutError) as error:
            return error

    outcome = asyncio.run(main())

    assert isinstance(outcome, (ModelMeshError, asyncio.CancelledError))
    assert server.wait_until_unconnected(1.0)


def test_nobody_is_served_after_the_shutdown(world: Any) -> None:
    """F20: a request to a mesh that is shut down says so, and opens no connection."""
    server = world.provider()
    world.ask()
    world.mesh.shutdown()

    with pytest.raises(UsageError):
        world.ask()
    with pytest.raises((UsageError, ProviderConnectionError, ModelMeshError)):
        asyncio.run(world.mesh.get_router().acomplete("chat", HELLO))

    assert len(server.requests) == 1
