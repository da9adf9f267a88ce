"""The mesh's own event loop: the synchronous door to the asynchronous engine."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from modelmesh._engine.loop_thread import LoopThread
from modelmesh.errors import UsageError


@pytest.fixture
def loop() -> Iterator[LoopThread]:
    """A loop thread, closed when the test is over."""
    loop = LoopThread("test-loop")
    yield loop
    loop.close()


async def forever() -> None:
    """Wait for what never comes."""
    await asyncio.get_running_loop().create_future()


async def where() -> str:
    """Name of the thread this runs on."""
    return threading.current_thread().name


class Counting:
    """A stream of numbers that knows whether it was closed."""

    def __init__(self, end: BaseException | None = None) -> None:
        self.end = end
        self.is_closed = False
        self.closed: Callable[[], None] = lambda: None

    async def stream(self) -> AsyncGenerator[int, None]:
        try:
            for number in range(3):
                await asyncio.sleep(0)
                yield number
            if self.end is not None:
                raise self.end
        finally:
            self.is_closed = True
            self.closed()


def test_a_coroutine_runs_on_the_loops_thread_and_its_result_comes_back(loop: LoopThread) -> None:
    """The caller blocks meanwhile."""
    assert loop.run(where()) == "test-loop"


def test_nothing_is_started_before_the_first_use() -> None:
    """A mesh that is only awaited has no thread."""
    loop = LoopThread("never-started")

    assert not loop.is_running
    assert "never-started" not in {thread.name for thread in threading.enumerate()}
    loop.close()


def test_what_a_coroutine_raises_comes_back(loop: LoopThread) -> None:
    """As if it had been called directly."""

    async def fail() -> None:
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        loop.run(fail())


def test_many_threads_share_the_one_loop(loop: LoopThread) -> None:
    """All run on it at once."""
    loops: set[int] = set()
    all_here = asyncio.Barrier(8)

    async def meet() -> None:
        loops.add(id(asyncio.get_running_loop()))
        async with asyncio.timeout(5):
            await all_here.wait()

    threads = [threading.Thread(target=lambda: loop.run(meet())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)

    assert (len(loops), all_here.broken) == (1, False)


def test_blocking_inside_the_loop_is_refused(loop: LoopThread) -> None:
    """It would wait for itself: the error says what to call instead."""

    async def inside() -> None:
        loop.run(where())

    with pytest.raises(UsageError, match="acomplete"):
        loop.run(inside())


def test_interrupting_the_wait_cancels_the_work(loop: LoopThread, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who presses Ctrl-C leaves nothing running."""
    cancelled = threading.Event()

    async def work() -> None:
        try:
            await forever()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    real = asyncio.run_coroutine_threadsafe

    def interrupted(coroutine: Any, on: asyncio.AbstractEventLoop) -> Any:
        future = real(coroutine, on)

        def result(timeout: float | None = None) -> None:
            real(asyncio.sleep(0), on).result(5)  # the work has begun
            raise KeyboardInterrupt

        future.result = result  # type: ignore[method-assign]  # where a signal would strike
        return future

    monkeypatch.setattr(asyncio, "run_coroutine_threadsafe", interrupted)

    with pytest.raises(KeyboardInterrupt):
        loop.run(work())

    assert cancelled.wait(5)
    monkeypatch.undo()


# --- streams ------------------------------------------------------------------------


def test_a_stream_is_iterated_item_by_item(loop: LoopThread) -> None:
    """To its end, after which it is closed."""
    numbers = Counting()

    assert list(loop.iterate(numbers.stream())) == [0, 1, 2]
    assert numbers.is_closed


def test_leaving_a_stream_early_closes_it(loop: LoopThread) -> None:
    """Before the next statement runs."""
    numbers = Counting()
    iterator = loop.iterate(numbers.stream())
    next(iterator)

    iterator.close()

    assert numbers.is_closed


def test_dropping_a_stream_waits_for_nobody(loop: LoopThread) -> None:
    """Its owner may hold a lock that the loop waits for; the stream is closed all the same."""
    numbers = Counting()
    closed = threading.Event()
    numbers.closed = closed.set
    lock = threading.Lock()
    iterators = [loop.iterate(numbers.stream())]
    next(iterators[0])

    async def take_lock() -> None:
        with lock:
            pass

    def drop() -> None:
        with lock:
            loop.start(take_lock())
            iterators.clear()

    dropping = threading.Thread(target=drop, daemon=True)
    dropping.start()
    dropping.join(5)

    assert not dropping.is_alive()
    assert closed.wait(5)


def test_a_stream_may_be_dropped_on_the_loops_own_thread(loop: LoopThread) -> None:
    """The garbage collector comes by there, too."""
    numbers = Counting()
    closed = threading.Event()
    numbers.closed = closed.set
    iterators = [loop.iterate(numbers.stream())]
    next(iterators[0])

    async def drop() -> None:
        iterators.clear()

    loop.run(drop())
    assert closed.wait(5)


def test_what_a_stream_raises_comes_back_after_its_items(loop: LoopThread) -> None:
    """Nothing that came before is lost."""
    seen: list[int] = []

    with pytest.raises(ValueError, match="mine"):
        seen.extend(loop.iterate(Counting(ValueError("mine")).stream()))
    with suppress(ValueError):
        for number in loop.iterate(Counting(ValueError("mine")).stream()):
            seen.append(number)  # noqa: PERF402 (what came before the error must be kept)

    assert seen[-3:] == [0, 1, 2]


# --- the end --------------------------------------------------------------------------


def test_closing_ends_the_thread_and_what_runs(loop: LoopThread) -> None:
    """Waiting callers are released, and told why."""
    outcome: list[BaseException] = []

    def wait() -> None:
        try:
            loop.run(forever())
        except BaseException as error:
            outcome.append(error)

    loop.run(where())
    waiting = threading.Thread(target=wait)
    waiting.start()
    while loop.run(tasks()) < 2:
        time.sleep(0)
    loop.close()
    waiting.join(5)

    assert [(type(error), str(error)) for error in outcome] == [
        (UsageError, "the mesh was shut down while this call ran")
    ]
    assert not loop.is_running
    assert "test-loop" not in {thread.name for thread in threading.enumerate()}


async def tasks() -> int:
    """How many tasks the loop has."""
    return len(asyncio.all_tasks())


def test_closing_twice_is_closing_once(loop: LoopThread) -> None:
    """And closing one that never ran is nothing."""
    loop.run(where())

    loop.close()
    loop.close()
    LoopThread().close()


def test_after_the_end_nothing_runs(loop: LoopThread) -> None:
    """The error says to build a new mesh; the coroutine is not left unawaited."""
    loop.close()

    with pytest.raises(UsageError, match="shut down"):
        loop.run(where())


def test_a_loop_cannot_close_itself(loop: LoopThread) -> None:
    """The error says to call it from elsewhere."""

    async def inside() -> None:
        loop.close()

    with pytest.raises(UsageError, match="from elsewhere"):
        loop.run(inside())


def test_a_task_that_will_not_be_cancelled_does_not_hold_the_end_up(loop: LoopThread) -> None:
    """After its time the loop is stopped all the same, and nobody raises."""
    stubborn = threading.Event()

    async def work() -> None:
        while not stubborn.is_set():
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0.005)

    async def begin() -> None:
        loop.kept = asyncio.create_task(work())  # type: ignore[attr-defined]

    loop.run(begin())

    loop.close(timeout=0.05)

    assert not loop.is_running
    stubborn.set()


# --- a loop of somebody else's ------------------------------------------------------


@pytest.fixture
def borrowed() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop that the test runs itself."""
    own = asyncio.new_event_loop()
    yield own
    own.close()


def test_a_borrowed_loop_is_used_and_no_thread_started(borrowed: asyncio.AbstractEventLoop) -> None:
    """While nobody runs it, a blocking call does."""
    loop = LoopThread(borrowed=borrowed)
    threads = threading.active_count()

    async def which() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    assert loop.run(which()) is borrowed
    assert threading.active_count() == threads


def test_blocking_on_a_borrowed_loop_that_runs_is_refused(borrowed: asyncio.AbstractEventLoop) -> None:
    """It would wait for itself."""
    loop = LoopThread(borrowed=borrowed)

    async def block() -> None:
        with pytest.raises(UsageError, match="await the asynchronous method"):
            loop.run(forever())

    borrowed.run_until_complete(block())


def test_closing_cancels_what_it_started_and_leaves_the_borrowed_loop(borrowed: asyncio.AbstractEventLoop) -> None:
    """The loop is its owner's to close."""
    loop = LoopThread(borrowed=borrowed)
    ended: list[str] = []

    async def work() -> None:
        try:
            await forever()
        finally:
            ended.append("work")

    async def begin_and_close() -> None:
        loop.start(work())
        await asyncio.sleep(0.01)
        loop.close()
        await asyncio.sleep(0.01)

    borrowed.run_until_complete(begin_and_close())

    assert ended == ["work"]
    assert not borrowed.is_closed()
    assert not loop.is_running


OPEN_STREAM = """
import modelmesh
mesh = modelmesh.ModelMesh()
mesh.initialize({
    "providers": {"simulator": {}},
    "models": {"m": {"provider": "simulator", "capabilities": ["chat-completion"], "delivery": "streaming"}},
    "pools": {"chat-completion": {}},
})
hello = [{"role": "user", "content": "hello"}]
stream = mesh.get_client().chat.completions.create(model="m", messages=hello, stream=True)
next(stream)
"""

IN_A_CHILD = """
import os
child = os.fork()
if child == 0:
    try:
        mesh.get_client().chat.completions.create(model="m", messages=hello)
    except modelmesh.UsageError as error:
        print(error, flush=True)
    mesh.shutdown()
    os._exit(0)
os.waitpid(child, 0)
mesh.shutdown()
"""


def run_program(text: str) -> subprocess.CompletedProcess[str]:
    """Run a program of its own; one that hangs fails the test."""
    program = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", text]
    return subprocess.run(program, capture_output=True, text=True, timeout=20, check=False)


def test_a_program_that_leaves_a_stream_open_ends() -> None:
    """At its end the loop's thread stands still, and nobody waits for it."""
    ended = run_program(OPEN_STREAM)

    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_process_is_told_to_build_a_mesh_of_its_own() -> None:
    """The loop's thread stays behind in the parent; waiting for it would never end."""
    ended = run_program(OPEN_STREAM + IN_A_CHILD)

    assert "this process was forked" in ended.stdout
    assert (ended.returncode, ended.stderr) == (0, "")
