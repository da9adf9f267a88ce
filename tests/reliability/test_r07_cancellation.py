"""R7: whoever goes away, at whatever moment, is hung up for at the provider, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Iterator
from contextlib import suppress
from typing import Any

import pytest

from modelmesh import ModelMesh
from modelmesh.router import CompletionRequest, Router
from modelmesh_cdk.testing import FaultServer, faults, until
from modelmesh_cdk.testing.faults import Pause, RecordedRequest

MESSAGES = [{"role": "user", "content": "hello"}]
REQUEST = CompletionRequest(MESSAGES)
BUDGET = {"daily_limit": 1_000.0}
SWEEP_LIMIT = 400
"""Suspensions no call comes near."""


class CancelledAt:
    """Awaits something, and cancels its own task while that is suspended for the n-th time, and perhaps once more.

    Args:
        inner: What is awaited.
        first: Suspension, 1-based, at which the task is cancelled.
        second: Suspension after that one at which it is cancelled again; None for once.

    Attributes:
        suspensions: How often it was suspended.
        cancelled: How often the task was cancelled.
    """

    def __init__(self, inner: Coroutine[Any, Any, Any], first: int, second: int | None = None) -> None:
        self._inner = inner
        self._at = {first} if second is None else {first, first + second}
        self.suspensions = 0
        self.cancelled = 0

    def __await__(self) -> Generator[Any, Any, Any]:
        steps = self._inner.__await__()
        resume: Callable[[], Any] = lambda: next(steps)  # noqa: E731 (it is replaced by what was thrown in)
        while True:
            try:
                waited = resume()
            except StopIteration as done:
                return done.value
            self.suspensions += 1
            if self.suspensions in self._at:
                self.cancelled += 1
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
            try:
                yield waited
            except BaseException as raised:
                thrown = raised
                resume = lambda: steps.throw(thrown)  # noqa: E731, B023 (called before the next turn)
            else:
                resume = lambda: next(steps)  # noqa: E731


async def read(stream: AsyncIterator[Any]) -> None:
    """Read a stream to its end."""
    async for _ in stream:
        pass


async def read_created(created: Awaitable[Any]) -> None:
    """Read a stream that has to be asked for first."""
    stream = await created
    async with stream:
        async for _ in stream:
            pass


PAYLOAD: dict[str, Any] = {"messages": MESSAGES}
CALLS: dict[str, Callable[[ModelMesh, Router], Coroutine[Any, Any, Any]]] = {
    "Router.acomplete": lambda _, router: router.acomplete("chat", REQUEST),
    "Router.execute": lambda _, router: router.execute("chat", "chat", PAYLOAD),
    "Router.stream": lambda _, router: read(router.stream("chat", REQUEST)),
    "Router.execute_stream": lambda _, router: read(router.execute_stream("chat", PAYLOAD)),
    "client, plain": lambda mesh, _: mesh.get_async_client().chat.completions.create(model="chat", messages=MESSAGES),
    "client, streamed": lambda mesh, _: read_created(
        mesh.get_async_client().chat.completions.create(model="chat", messages=MESSAGES, stream=True)
    ),
}


def others() -> set[asyncio.Task[Any]]:
    """Return the tasks of this loop but for the running one."""
    return {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}


async def nothing_is_left(mesh: ModelMesh, router: Router, standing: set[asyncio.Task[Any]]) -> None:
    """Assert that no task, call, place in a budget or reservation is left; closing ones may take a moment."""
    await until(lambda: others() <= standing)
    pool = router.get_pool("chat")
    assert (pool.active_requests, pool.active_retries) == (0, 0)
    process: Any = pool.retries._above
    assert (process.requests, process.retries) == (0, 0)
    assert [member.model.in_flight for member in pool.members.values()] == [0] * len(pool.members)
    assert [row.reserved for row in mesh.get_quota()] == [0.0] * len(pool.members)


@pytest.mark.parametrize("second", [None, 1, 3], ids=["once", "again at once", "again later"])
@pytest.mark.parametrize("name", CALLS)
def test_a_call_may_be_cancelled_at_every_await(
    sockets: Any, transport: str, figures: Any, name: str, second: int | None
) -> None:
    """At the first suspension, the second, and so on until the call ends by itself; both providers fail at first."""
    seen = {"later": 0}

    def later(request: RecordedRequest) -> Any:
        """Fail once for each request, so that it rotates, waits and is retried before it is answered."""
        seen["later"] += 1
        if seen["later"] == 1:
            return faults.status(503)(request)
        return (faults.stream("Hel", "lo") if request.wants_stream else faults.chat())(request)

    servers: list[FaultServer] = [sockets.provider(503), sockets.provider(later)]
    mesh = sockets.mesh(
        provider={"budget": BUDGET},
        strategy="priority-selection",
        model_priority=["m0", "m1"],
        retry={"max_attempts": 2, "initial_delay": "1ms"},
        deactivation={"retry_limit": 100_000, "error_rate_threshold": 1.0, "error_codes": [500]},
    )

    async def main() -> int:
        async with mesh:
            router = mesh.get_router()
            await CALLS[name](mesh, router)
            standing = others()
            for place in range(1, SWEEP_LIMIT):
                seen["later"] = 0
                call = CancelledAt(CALLS[name](mesh, router), place, second)
                task = asyncio.ensure_future(_awaited(call))
                with suppress(asyncio.CancelledError):
                    await task
                assert task.cancelled() == bool(call.cancelled)  # nobody swallowed it
                await nothing_is_left(mesh, router, standing)
                if not call.cancelled:
                    return place - 1
            raise AssertionError("the sweep never came to the end of the call")

    places = asyncio.run(main())

    assert places >= 4
    assert all(server.wait_until_unconnected(5.0) for server in servers)
    again = "" if second is None else f", again {second} later"
    figures.add("R7", f"{name} over {transport}, cancelled{again}", f"at {places} awaits, nothing left behind")


async def _awaited(call: CancelledAt) -> Any:
    return await call


def test_disconnects_at_random_close_the_provider_s_connection(
    sockets: Any, transport: str, lateness: Any, figures: Any, spread: Any, p99: Any
) -> None:
    """Plain and streamed, before, within and after the answer: the provider's socket is closed at once."""
    count = 5_000
    lot = random.Random(7)
    left: dict[int, float] = {}
    closed: dict[int, float] = {}

    def step(request: RecordedRequest) -> Iterator[Any]:
        number = int(request.json["messages"][0]["content"])
        whole = False
        try:
            yield Pause(0.002)
            if request.wants_stream:
                yield from faults.stream(*["word "] * 12, pause=0.002)(request)
            else:
                yield from faults.drip(faults.chat("some words to go on with"), size=80, pause=0.003)(request)
            whole = True
        finally:
            if not whole:
                closed[number] = time.monotonic()

    server = sockets.provider(step)
    mesh = sockets.mesh(provider={"budget": BUDGET}, retry={"max_attempts": 0})

    async def ask(router: Router, number: int) -> None:
        request = CompletionRequest([{"role": "user", "content": str(number)}])
        if number % 2:
            await read(router.stream("chat", request))
        else:
            await router.acomplete("chat", request)

    async def client(mesh: ModelMesh, router: Router, numbers: Iterator[int]) -> None:
        for number in numbers:
            task = asyncio.create_task(ask(router, number))
            _, running = await asyncio.wait({task}, timeout=lot.uniform(0.0, 0.04))
            if running:
                left[number] = time.monotonic()
                task.cancel()
                if number % 3 == 0:  # and once more while it closes
                    await asyncio.sleep(0)
                    task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def main() -> float:
        async with mesh:
            router = mesh.get_router()
            await ask(router, 10**9)
            standing = others()
            numbers = iter(range(count))
            async with lateness() as late:
                await asyncio.gather(*(client(mesh, router, numbers) for _ in range(8)))
            await nothing_is_left(mesh, router, standing)
            return late.worst

    late = asyncio.run(main())

    assert server.wait_until_unconnected(5.0)
    # Who left before the request was out, or just as the answer became whole, was not noticed and need not be.
    taken = [closed[number] - moment for number, moment in left.items() if number in closed]
    assert len(left) > count / 3
    assert len(taken) > count / 20
    assert p99(taken) <= 0.1 + late
    figures.add(
        "R7",
        f"{count:,} requests left at random, {transport}",
        f"{len(left):,} left while running; the provider's socket closed after {spread(taken)}; nothing left behind",
    )
