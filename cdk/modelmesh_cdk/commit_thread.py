"""One thread that carries out a store's work in batches, so that many who wait share one commit."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any, Generic, TypeVar, cast

from modelmesh.errors import StateStoreError

BATCH = 256
"""Jobs that are committed together at most."""

StateT = TypeVar("StateT")
Result = TypeVar("Result")


class Job(Generic[StateT]):
    """Work that somebody awaits.

    Attributes:
        work: Called with the store's state; it may be called again when a commit has failed, so it looks before it
            writes and raises only `StateStoreError`, before it has changed anything.
        writes: Whether it may change something.
        value: What it returned.
        error: What it raised, or what became of its commit.
    """

    __slots__ = ("done", "error", "loop", "value", "work", "writes")

    def __init__(self, work: Callable[[StateT], Any], writes: bool) -> None:
        self.work = work
        self.writes = writes
        self.value: Any = None
        self.error: Exception | None = None
        self.loop = asyncio.get_running_loop()
        self.done: asyncio.Future[Any] = self.loop.create_future()

    def carry_out(self, state: StateT) -> None:
        """Do the work and keep its result, or its refusal."""
        self.error = None
        try:
            self.value = self.work(state)
        except StateStoreError as error:
            self.error = error


class CommitThread(Generic[StateT]):
    """Runs jobs in the order they come, on a thread that begins with the first.

    Whoever awaits a job goes on when its whole batch was committed. While one batch is written the next gathers.
    Cancelling the wait does not undo the job.

    Args:
        name: Of the thread.
        commit: Carries out a batch on the thread: fills in value or error of each job.
        finish: Called on the thread at its end.
    """

    def __init__(
        self, name: str, commit: Callable[[Sequence[Job[StateT]]], None], finish: Callable[[], None] = lambda: None
    ) -> None:
        self._name = name
        self._commit = commit
        self._finish = finish
        self._queue: SimpleQueue[Job[StateT] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._process = 0
        self._closed = False
        self._guard = threading.Lock()

    async def run(self, work: Callable[[StateT], Result], *, writes: bool = True) -> Result:
        """Carry out a job and wait until it is committed.

        Raises:
            StateStoreError: It was refused, could not be committed, or the store is closed.
        """
        return cast("Result", await self.submit(work, writes=writes))

    def submit(self, work: Callable[[StateT], Any], *, writes: bool = True) -> asyncio.Future[Any]:
        """Take a job that follows all submitted before; its future ends with its commit."""
        job = Job(work, writes)
        with self._guard:
            if self._closed:
                raise StateStoreError("the state store is closed")
            if self._thread is None or self._process != os.getpid():  # threads do not come along through a fork
                self._process = os.getpid()
                self._queue = SimpleQueue()
                self._thread = threading.Thread(target=self._serve, args=(self._queue,), name=self._name, daemon=True)
                self._thread.start()
            self._queue.put(job)
        return job.done

    async def close(self) -> None:
        """Carry out what waits, then end the thread; harmless when repeated or never started."""
        with self._guard:
            self._closed = True
            thread, self._thread = self._thread, None
            if thread is None or self._process != os.getpid():
                return
            self._queue.put(None)
        await asyncio.to_thread(thread.join)

    def _serve(self, queue: SimpleQueue[Job[StateT] | None]) -> None:
        going = True
        while going:
            batch: list[Job[StateT]] = []
            job = queue.get()
            while job is not None:
                batch.append(job)
                if len(batch) == BATCH or queue.empty():  # nobody else takes from it
                    break
                job = queue.get()
            going = job is not None
            if batch:
                self._carry_out(batch)
        self._finish()

    def _carry_out(self, batch: Sequence[Job[StateT]]) -> None:
        try:
            self._commit(batch)
        except Exception as error:
            for job in batch:
                job.error = error
        if len(batch) == 1:
            _tell(batch[0].loop, batch)
            return
        by_loop: dict[asyncio.AbstractEventLoop, list[Job[StateT]]] = {}
        for job in batch:
            by_loop.setdefault(job.loop, []).append(job)
        for loop, jobs in by_loop.items():
            _tell(loop, jobs)


def _tell(loop: asyncio.AbstractEventLoop, jobs: Sequence[Job[Any]]) -> None:
    try:
        loop.call_soon_threadsafe(_resolve, jobs)
    except RuntimeError:
        return  # the loop is closed: nobody waits there any more


def _resolve(jobs: Sequence[Job[Any]]) -> None:
    for job in jobs:
        if job.done.done():
            continue  # whoever waited was cancelled
        if job.error is not None:
            job.done.set_exception(job.error)
        else:
            job.done.set_result(job.value)
