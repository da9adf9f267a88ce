"""One thread that carries out a store's work in batches, so that many who wait share one commit."""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Generic, TypeVar, cast
from weakref import WeakKeyDictionary

from modelmesh.errors import StateStoreError
from modelmesh_cdk.mailbox import Mailbox

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

    __slots__ = ("done", "error", "mailbox", "value", "work", "writes")

    def __init__(
        self,
        work: Callable[[StateT], Any],
        writes: bool,
        done: asyncio.Future[Any],
        mailbox: Mailbox[Sequence[Job[StateT]]],
    ) -> None:
        self.work = work
        self.writes = writes
        self.value: Any = None
        self.error: Exception | None = None
        self.done = done
        self.mailbox = mailbox

    def carry_out(self, state: StateT) -> None:
        """Do the work and keep its result, or its refusal."""
        self.error = None
        try:
            self.value = self.work(state)
        except StateStoreError as error:
            self.error = error


class _Desk(Generic[StateT]):
    """Where jobs lie until the thread takes them.

    The thread is woken through a pipe: whoever writes there is taken to wait for the answer, and so Linux tends to wake
    the reader on the same core, where a lock would wake it on another that has fallen asleep. On a virtual machine
    that took longer than the work itself.

    Raises:
        OSError: No file descriptors are left.
    """

    def __init__(self) -> None:
        self._jobs: deque[Job[StateT] | None] = deque()
        self._is_asleep = False
        self._lock = threading.Lock()
        self._bell, self._push = os.pipe()

    def put(self, job: Job[StateT] | None) -> None:
        """Lay a job down; None says that no more will come."""
        with self._lock:
            self._jobs.append(job)
            ring, self._is_asleep = self._is_asleep, False
        if ring:
            os.write(self._push, b"!")

    def take(self) -> tuple[list[Job[StateT]], bool]:
        """Wait for jobs and take those that lie there, up to a batch; say whether more may come."""
        batch: list[Job[StateT]] = []
        while True:
            with self._lock:
                while self._jobs and len(batch) < BATCH:
                    job = self._jobs.popleft()
                    if job is None:
                        return batch, False
                    batch.append(job)
                self._is_asleep = not batch
            if batch:
                return batch, True
            os.read(self._bell, 1)

    def close(self) -> None:
        """Give the pipe back."""
        os.close(self._push)
        os.close(self._bell)


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
        self._desk: _Desk[StateT] | None = None
        self._thread: threading.Thread | None = None
        self._mailboxes: WeakKeyDictionary[asyncio.AbstractEventLoop, Mailbox[Sequence[Job[StateT]]]]
        self._mailboxes = WeakKeyDictionary()
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
        """Take a job that follows all submitted before; its future ends with its commit.

        Raises:
            StateStoreError: The store is closed, or the thread cannot begin.
        """
        loop = asyncio.get_running_loop()
        with self._guard:
            if self._closed:
                raise StateStoreError("the state store is closed")
            desk = self._desk
            try:
                if desk is None or self._process != os.getpid():  # threads do not come along through a fork
                    desk = self._begin(desk)
                mailbox = self._mailboxes.get(loop) or self._new_mailbox(loop)
            except (OSError, RuntimeError) as error:
                raise StateStoreError(
                    f"the state store cannot begin to work: {error};"
                    " raise the limits of open files and threads (ulimit -n, ulimit -u)",
                    retryable=True,
                ) from error
            job = Job(work, writes, loop.create_future(), mailbox)
            desk.put(job)
        return job.done

    def _begin(self, forked: _Desk[StateT] | None) -> _Desk[StateT]:
        if forked is not None:
            self._desk = None
            forked.close()  # here; the process it was forked from has its own
            for mailbox in self._mailboxes.values():
                mailbox.leave()
            self._mailboxes.clear()
        desk: _Desk[StateT] = _Desk()
        thread = threading.Thread(target=self._serve, args=(desk,), name=self._name, daemon=True)
        try:
            thread.start()
        except RuntimeError:
            desk.close()
            raise
        self._desk, self._thread, self._process = desk, thread, os.getpid()
        return desk

    def _new_mailbox(self, loop: asyncio.AbstractEventLoop) -> Mailbox[Sequence[Job[StateT]]]:
        for closed in [each for each in self._mailboxes if each.is_closed()]:
            del self._mailboxes[closed]  # its pipe goes with the last job that was asked for there
        mailbox = self._mailboxes[loop] = Mailbox(loop, _resolve)
        return mailbox

    async def close(self) -> None:
        """Carry out what waits, then end the thread; harmless when repeated or never started."""
        with self._guard:
            self._closed = True
            thread, self._thread = self._thread, None
            desk, self._desk = self._desk, None
            if thread is None or desk is None or self._process != os.getpid():
                return
            desk.put(None)
        try:
            await asyncio.to_thread(thread.join)
        except RuntimeError:  # the interpreter ends, and begins no threads any more
            thread.join()
        desk.close()
        for loop, mailbox in list(self._mailboxes.items()):
            if loop.is_closed():
                mailbox.leave()
            elif loop is asyncio.get_running_loop():
                mailbox.close()
            else:
                with suppress(RuntimeError):  # it is closed just now
                    loop.call_soon_threadsafe(mailbox.close)
        self._mailboxes.clear()

    def _serve(self, desk: _Desk[StateT]) -> None:
        going = True
        while going:
            batch, going = desk.take()
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
            batch[0].mailbox.put(batch)
            return
        by_loop: dict[Mailbox[Sequence[Job[StateT]]], list[Job[StateT]]] = {}
        for job in batch:
            by_loop.setdefault(job.mailbox, []).append(job)
        for mailbox, jobs in by_loop.items():
            mailbox.put(jobs)


def _resolve(jobs: Sequence[Job[Any]]) -> None:
    for job in jobs:
        if job.done.done():
            continue  # whoever waited was cancelled
        if job.error is not None:
            job.done.set_exception(job.error)
        else:
            job.done.set_result(job.value)
