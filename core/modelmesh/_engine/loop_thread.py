"""The mesh's own event loop on its own thread: the synchronous door to the asynchronous engine."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import AsyncGenerator, Coroutine, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from typing import Any, TypeVar

from modelmesh.errors import UsageError

Result = TypeVar("Result")
Item = TypeVar("Item")


class LoopThread:
    """An event loop that runs on a daemon thread from its first use until it is closed.

    Args:
        name: Of the thread.
        borrowed: A loop that somebody else runs and closes, to use instead: there is no thread then, and blocking calls
            work while it does not run.
    """

    def __init__(self, name: str = "modelmesh-loop", *, borrowed: asyncio.AbstractEventLoop | None = None) -> None:
        self._name = name
        self._borrowed = borrowed
        # One that may be taken twice: the garbage collector runs anybody's code in the middle of what it guards.
        self._lock = threading.RLock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closed = False
        self._background: dict[Future[None], None] = {}
        self._process = 0

    @property
    def is_running(self) -> bool:
        """Whether the loop was started and not closed, and its thread can still answer."""
        return not self.is_left_behind and self._has_loop

    @property
    def _has_loop(self) -> bool:
        return self._loop is not None or (self._borrowed is not None and not self._closed)

    @property
    def is_left_behind(self) -> bool:
        """Whether the thread stands still: a fork does not take it along, and an ending interpreter stops it."""
        return self._thread is not None and (sys.is_finalizing() or self._process != os.getpid())

    def run(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """Run a coroutine on the loop and wait for its result; interrupting the wait cancels it.

        Raises:
            UsageError: Called on the loop's own thread, which would wait for itself, or after `close`, or closed
                meanwhile, or in a process that was forked since, or while the interpreter ends.
        """
        try:
            loop = self._started()
        except UsageError:
            coroutine.close()
            raise
        if self._borrowed is not None:
            return loop.run_until_complete(coroutine)
        future = asyncio.run_coroutine_threadsafe(coroutine, loop)
        try:
            return future.result()
        except CancelledError:
            if self._closed:
                raise UsageError("the mesh was shut down while this call ran") from None
            raise
        except BaseException:
            future.cancel()
            raise

    def start(self, coroutine: Coroutine[Any, Any, None]) -> Future[None]:
        """Run a coroutine on the loop in the background; closing the loop, or cancelling what is returned, ends it."""
        try:
            running = asyncio.run_coroutine_threadsafe(coroutine, self._running())
        except UsageError:
            coroutine.close()
            raise
        # A loop holds its tasks weakly; one that waits for something only it knows would be collected.
        self._background[running] = None
        running.add_done_callback(self._background.pop)
        return running

    def iterate(self, stream: AsyncGenerator[Item, None]) -> BlockingStream[Item]:
        """Return a stream's items for a blocking caller; leaving the iteration early closes the stream."""
        return BlockingStream(self, stream)

    def let_go(self, stream: AsyncGenerator[Any, None]) -> None:
        """Close a stream that nobody holds any more, soon; called wherever the garbage collector comes by."""
        if self._loop is None or self.is_left_behind:
            return
        with suppress(UsageError, RuntimeError):  # the loop was closed meanwhile, and the stream with it
            self.start(_close_quietly(stream))

    def refuse_own_thread(self) -> None:
        """Raise when called on the loop's own thread.

        Raises:
            UsageError: It is, and whoever waits for the loop here waits for itself.
        """
        borrowed = self._borrowed is not None and self._borrowed.is_running()
        if borrowed or threading.current_thread() is self._thread:
            raise UsageError(
                "a blocking method was called on the mesh's own event loop, where it would wait for itself; "
                "await the asynchronous method instead (acomplete, AsyncOpenAIClient)"
            )

    def _started(self) -> asyncio.AbstractEventLoop:
        self.refuse_own_thread()
        return self._running()

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._closed:
                raise UsageError("the mesh is shut down; build a new one")
            if self._borrowed is not None:
                return self._borrowed
            if self.is_left_behind:
                where = "the interpreter is ending" if sys.is_finalizing() else "this process was forked"
                raise UsageError(
                    f"{where}, and the mesh's thread is not in it; build a mesh in each process, after forking"
                )
            if self._loop is None:
                self._process = os.getpid()
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._loop.run_forever, name=self._name, daemon=True)
                self._thread.start()
            return self._loop

    def close(self, timeout: float = 5.0) -> None:
        """Cancel what runs, stop the loop, end the thread; harmless when repeated or never started."""
        with self._lock:
            self._closed = True
            loop, thread = self._loop, self._thread
        if self._borrowed is not None:
            for running in list(self._background):
                running.cancel()
        if loop is None or thread is None or loop.is_closed() or self.is_left_behind:
            return
        if threading.current_thread() is thread:
            raise UsageError("the mesh's own event loop cannot shut itself down; call shutdown() from elsewhere")
        ending = asyncio.run_coroutine_threadsafe(_cancel_all(), loop)
        try:
            ending.result(timeout)
        except TimeoutError:
            ending.cancel()  # a task will not be cancelled; it ends with the loop
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout)
        if not thread.is_alive():
            loop.close()
        self._loop = None


class BlockingStream(Iterator[Item]):
    """A stream's items, one by one.

    `close` waits until the stream is closed. Whoever drops it open waits for nothing: a garbage collector comes by on
    any thread at any line, also where the loop's thread is waiting for a lock that this one holds.
    """

    def __init__(self, loop: LoopThread, stream: AsyncGenerator[Item, None]) -> None:
        self._loop = loop
        self._stream = stream
        self._is_over = False

    def __next__(self) -> Item:
        if self._is_over:
            raise StopIteration
        try:
            return self._loop.run(_next(self._stream))
        except StopAsyncIteration:
            self._is_over = True
            raise StopIteration from None
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the stream; harmless when repeated."""
        if self._is_over:
            return
        self._is_over = True
        if self._loop.is_running:
            self._loop.run(_close(self._stream))

    def __del__(self) -> None:
        if not self._is_over:
            self._is_over = True
            self._loop.let_go(self._stream)


async def _next(stream: AsyncGenerator[Item, None]) -> Item:
    return await anext(stream)


async def _close(stream: AsyncGenerator[Any, None]) -> None:
    await stream.aclose()


async def _close_quietly(stream: AsyncGenerator[Any, None]) -> None:
    with suppress(Exception):  # there is nobody left to tell
        await stream.aclose()


async def _cancel_all() -> None:
    own = asyncio.current_task()
    tasks = [task for task in asyncio.all_tasks() if task is not own]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.get_running_loop().shutdown_asyncgens()
