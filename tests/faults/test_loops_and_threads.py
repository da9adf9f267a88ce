"""One mesh, called from many event loops and threads at once, over providers that fail."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from modelmesh.errors import UsageError
from modelmesh.router import CompletionRequest
from modelmesh_cdk.testing import faults

HELLO = CompletionRequest([{"role": "user", "content": "hello"}])
MIXED = [500, faults.reset(), "fine", faults.close("mid_body"), "fine", 503, "fine", faults.body(b"<html>"), "fine"]


def test_many_threads_are_all_answered(world: Any, texts: Any) -> None:
    """F15, F27: eight threads, plain and streamed; with one healthy provider no request fails."""
    world.provider(*MIXED * 20)
    world.provider(default="fine")
    world.build()

    def ask(number: int) -> str:
        return texts(world.stream()) if number % 2 else world.ask().content

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(ask, range(120)))

    assert set(answers) == {"fine"}
    assert world.mesh.get_router().get_pool("chat").active_requests == 0


def test_many_loops_at_once_are_all_answered(world: Any) -> None:
    """F27: each loop has connections of its own, and all share one state."""
    world.provider(*MIXED * 20)
    world.provider(default="fine")
    mesh = world.mesh
    connectors = [model.provider.connector for model in mesh.get_registry().list_models()]

    async def many() -> list[str]:
        answers = await asyncio.gather(*(mesh.get_router().acomplete("chat", HELLO) for _ in range(20)))
        for connector in connectors:
            carrier = connector.http._carriers.get(asyncio.get_running_loop())
            if carrier is not None:
                await carrier.aclose()
        return [answer.content for answer in answers]

    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda _: asyncio.run(many()), range(4)))

    assert answers == [["fine"] * 20] * 4
    assert mesh.get_router().get_pool("chat").total_requests == 80


def test_blocking_and_awaited_calls_may_be_mixed(world: Any) -> None:
    """F27: the mesh's own loop, and the caller's."""
    server = world.provider(default="fine")

    async def main() -> list[str]:
        async with world.mesh as mesh:
            blocking = asyncio.to_thread(world.ask)
            awaited = mesh.get_router().acomplete("chat", HELLO)
            return [answer.content for answer in await asyncio.gather(blocking, awaited)]

    assert asyncio.run(main()) == ["fine", "fine"]
    assert len(server.requests) == 2


def test_a_blocking_call_on_the_meshs_own_loop_is_refused(lone_world: Any) -> None:
    """F23: it would wait for itself."""
    lone_world.provider(default="fine")

    async def main() -> None:
        lone_world.ask()

    with pytest.raises(UsageError, match="acomplete"):
        lone_world.mesh.run(main())


def test_fifty_slow_requests_run_at_once(world: Any) -> None:
    """F7, F8: nobody queues behind anybody."""
    server = world.provider(default=faults.delay(faults.chat("slow"), 0.1))

    async def main() -> float:
        async with world.mesh as mesh:
            started = time.monotonic()
            await asyncio.gather(*(mesh.get_router().acomplete("chat", HELLO) for _ in range(50)))
            return time.monotonic() - started

    assert asyncio.run(main()) < 2.0
    assert server.connects == 50


def test_a_blocked_event_loop_blames_no_provider_for_what_it_did_itself(world: Any) -> None:
    """F23: answers that arrived while the caller's loop stood still are taken."""
    server = world.provider("fine", faults.delay(faults.chat("fine"), 0.02))
    world.build(timeouts={"total": 0.15})

    async def main() -> str:
        async with world.mesh as mesh:
            await mesh.get_router().acomplete("chat", HELLO)
            task = asyncio.create_task(mesh.get_router().acomplete("chat", HELLO))
            await asyncio.to_thread(server.wait_for_requests, 2)
            time.sleep(0.2)  # noqa: ASYNC251 (a caller that blocks the loop is the point)
            return (await task).content

    assert asyncio.run(main()) == "fine"


def test_an_interrupted_blocking_call_cancels_its_request(world: Any) -> None:
    """F22: Ctrl-C at a blocking caller hangs up on the provider."""
    server = world.provider(faults.hang())
    world.build(timeouts={"total": 30}, deadline=30)

    def interrupt() -> None:
        server.wait_for_requests()
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    interrupting = threading.Thread(target=interrupt)
    interrupting.start()
    with pytest.raises(KeyboardInterrupt):
        world.ask()
    interrupting.join()

    assert server.wait_for_disconnect(1.0)


def test_nothing_is_forked_and_no_thread_runs_before_the_first_request(lone_world: Any) -> None:
    """F27: a mesh that is only loaded has opened nothing, so that its process may still fork."""
    lone_world.provider()
    before = threading.active_count()

    lone_world.build()

    assert threading.active_count() == before


def test_a_process_that_ends_without_shutdown_does_not_hang() -> None:
    """F20: forgetting ``shutdown`` costs nothing but a warning at most."""
    script = """
from modelmesh.mesh import ModelMesh
from modelmesh_cdk.testing import FaultServer
from modelmesh.router import CompletionRequest
server = FaultServer().start()
mesh = ModelMesh()
mesh.initialize({
    "providers": {"p": {"connector": "modelmesh.openai-compatible.v1", "base_url": server.url}},
    "models": {"m": {"provider": "p", "capabilities": ["chat-completion"]}},
    "pools": {"chat": {"capability": "chat-completion"}},
})
print(mesh.get_router().complete("chat", CompletionRequest([{"role": "user", "content": "hi"}])).content)
"""

    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=20, check=False)

    assert (ended.returncode, ended.stdout.strip()) == (0, "Hello from afar.")
    assert "Traceback" not in ended.stderr
