"""CommitThread: one thread, batches, and whoever waits hears of the commit, not of the work."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Sequence

import pytest

from modelmesh.errors import StateStoreError
from modelmesh_cdk.commit_thread import BATCH, CommitThread, Job


class Numbers:
    """A state that notes its batches and whom they were committed by."""

    def __init__(self) -> None:
        self.kept: list[int] = []
        self.batches: list[int] = []
        self.gate = threading.Event()
        self.finished_by: list[str] = []
        self.thread: CommitThread[list[int]] = CommitThread("numbers", self.commit, self.finish)

    def commit(self, jobs: Sequence[Job[list[int]]]) -> None:
        """Carry out a batch once the gate is open."""
        assert self.gate.wait(5.0)
        self.batches.append(len(jobs))
        for job in jobs:
            job.carry_out(self.kept)

    def finish(self) -> None:
        """Note who finished."""
        self.finished_by.append(threading.current_thread().name)


def refuse(kept: list[int]) -> None:
    """Refuse, as a store does."""
    raise StateStoreError("no")


def test_what_comes_while_one_batch_is_written_shares_the_next() -> None:
    """In the order it came, and never more than a batch holds."""

    async def scenario() -> Numbers:
        numbers = Numbers()
        jobs = [numbers.thread.run(lambda kept, n=number: kept.append(n)) for number in range(BATCH * 2)]  # type: ignore[misc]
        tasks = [asyncio.ensure_future(job) for job in jobs]
        await asyncio.sleep(0)
        numbers.gate.set()
        await asyncio.gather(*tasks)
        await numbers.thread.close()
        return numbers

    numbers = asyncio.run(scenario())

    assert numbers.kept == list(range(BATCH * 2))
    assert max(numbers.batches) <= BATCH
    assert len(numbers.batches) <= 4
    assert numbers.finished_by == ["numbers"]


def test_a_refusal_is_its_own_jobs_alone() -> None:
    """The others of the batch go on."""

    async def scenario() -> list[object]:
        numbers = Numbers()
        numbers.gate.set()
        results = await asyncio.gather(
            numbers.thread.run(lambda kept: kept.append(1)),
            numbers.thread.run(refuse),
            numbers.thread.run(len),
            return_exceptions=True,
        )
        await numbers.thread.close()
        return list(results)

    first, second, third = asyncio.run(scenario())

    assert (first, third) == (None, 1)
    assert isinstance(second, StateStoreError)


def test_a_commit_that_fails_fails_all_of_its_batch_and_no_other() -> None:
    """The thread lives on."""

    async def scenario() -> None:
        def commit(jobs: Sequence[Job[None]]) -> None:
            if any(job.writes for job in jobs):
                raise OSError("disk")
            for job in jobs:
                job.carry_out(None)

        thread: CommitThread[None] = CommitThread("failing", commit)
        with pytest.raises(OSError, match="disk"):
            await thread.run(lambda state: 1)
        assert await thread.run(lambda state: 2, writes=False) == 2
        await thread.close()

    asyncio.run(scenario())


def test_closing_carries_out_what_waits() -> None:
    """After it nothing is taken any more; closing again does nothing."""

    async def scenario() -> list[int]:
        numbers = Numbers()
        waiting = asyncio.ensure_future(numbers.thread.run(lambda kept: kept.append(1)))
        await asyncio.sleep(0)
        numbers.gate.set()
        await numbers.thread.close()
        await numbers.thread.close()
        await waiting
        with pytest.raises(StateStoreError, match="the state store is closed"):
            await numbers.thread.run(lambda kept: kept.append(2))
        return numbers.kept

    assert asyncio.run(scenario()) == [1]


def test_a_wait_that_is_cancelled_disturbs_nobody() -> None:
    """The job is carried out all the same."""

    async def scenario() -> list[int]:
        numbers = Numbers()
        gone = asyncio.ensure_future(numbers.thread.run(lambda kept: kept.append(1)))
        stays = asyncio.ensure_future(numbers.thread.run(lambda kept: kept.append(2)))
        await asyncio.sleep(0)
        gone.cancel()
        numbers.gate.set()
        await stays
        await numbers.thread.close()
        return numbers.kept

    assert asyncio.run(scenario()) == [1, 2]


@pytest.mark.skipif(not os.path.isdir("/dev/fd"), reason="open file descriptors cannot be counted here")
def test_whoever_closes_it_ends_what_other_loops_watch_too() -> None:
    """Each loop that has waited for a job watches for answers; the loops go on without it."""

    def descriptors() -> int:
        return len(os.listdir("/dev/fd"))

    with asyncio.Runner() as one, asyncio.Runner() as other:
        one.run(asyncio.sleep(0))
        other.run(asyncio.sleep(0))
        before = descriptors()
        numbers = Numbers()
        numbers.gate.set()
        one.run(numbers.thread.run(lambda kept: kept.append(1)))
        assert other.run(numbers.thread.run(len)) == 1
        assert descriptors() > before

        other.run(numbers.thread.close())
        one.run(asyncio.sleep(0))

        assert descriptors() == before


def test_a_loop_that_closes_with_a_job_on_its_way_hinders_nobody_else() -> None:
    """Its task waits for ever, as all do whose loop is closed; others go on, and the thread can be ended."""
    numbers = Numbers()
    numbers.gate.set()
    with asyncio.Runner() as other:
        other.run(numbers.thread.run(len))
        numbers.gate.clear()
        left = asyncio.new_event_loop()
        waiting = left.create_task(numbers.thread.run(lambda kept: kept.append(1)))
        left.run_until_complete(asyncio.sleep(0))
        left.close()
        numbers.gate.set()

        assert other.run(numbers.thread.run(len)) == 1
        other.run(numbers.thread.close())

    assert not waiting.done()
    waiting._log_destroy_pending = False  # type: ignore[attr-defined]  # it says so when it goes, and is right


def test_a_thread_that_cannot_start_is_an_error_and_the_next_job_tries_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container may be out of threads for a moment."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def scenario() -> int:
        numbers = Numbers()
        numbers.gate.set()
        with monkeypatch.context() as full:
            full.setattr(threading.Thread, "start", refuse)
            with pytest.raises(StateStoreError, match="can't start new thread; raise the limits") as caught:
                await numbers.thread.run(len)
        assert caught.value.retryable
        answer = await numbers.thread.run(len)
        await numbers.thread.close()
        return answer

    assert asyncio.run(scenario()) == 0


LAST_WORDS = """
import asyncio, atexit, os, threading
from modelmesh_cdk.commit_thread import CommitThread

def commit(jobs):
    for job in jobs:
        job.carry_out(None)

async def ask():
    return await thread.run(lambda _: "saved")

def last():
    print(asyncio.run_coroutine_threadsafe(ask(), loop).result(5))

atexit.register(last)
thread, loop = CommitThread("last", commit), asyncio.new_event_loop()
threading.Thread(target=loop.run_forever, daemon=True).start()
print(asyncio.run_coroutine_threadsafe(ask(), loop).result(5))
"""


def test_jobs_are_carried_out_until_the_interpreter_has_ended() -> None:
    """A program may close its mesh by `atexit`, and that saves what there is."""
    ended = subprocess.run([sys.executable, "-c", LAST_WORDS], capture_output=True, text=True, timeout=30, check=False)

    assert (ended.stdout, ended.stderr) == ("saved\nsaved\n", "")


LONELY = """
import asyncio, os, resource
from modelmesh.errors import StateStoreError
from modelmesh_cdk.commit_thread import CommitThread

def commit(jobs):
    for job in jobs:
        job.carry_out(None)

async def whose(thread):
    return await thread.run(lambda _: os.getpid())

opened = len(os.listdir("/dev/fd"))
thread = CommitThread("lonely", commit)
assert asyncio.run(whose(thread)) == os.getpid()
child = os.fork()
assert asyncio.run(whose(thread)) == os.getpid()
asyncio.run(thread.close())
assert len(os.listdir("/dev/fd")) == opened, os.listdir("/dev/fd")
if not child:
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

async def without_descriptors():
    thread, most = CommitThread("poor", commit), resource.getrlimit(resource.RLIMIT_NOFILE)
    spare = os.dup(0)
    os.close(spare)
    resource.setrlimit(resource.RLIMIT_NOFILE, (spare, most[1]))
    try:
        await whose(thread)
    except StateStoreError as error:
        print(error.message, error.retryable)
    resource.setrlimit(resource.RLIMIT_NOFILE, most)
    assert await whose(thread) == os.getpid()
    await thread.close()

asyncio.run(without_descriptors())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_process_begins_a_thread_of_its_own_and_nothing_stays_open() -> None:
    """Each has its own; and where no file descriptor is left, the next job tries again."""
    ended = subprocess.run([sys.executable, "-c", LONELY], capture_output=True, text=True, timeout=30, check=False)

    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == (
        "the state store cannot begin to work: [Errno 24] Too many open files;"
        " raise the limits of open files and threads (ulimit -n, ulimit -u) True\n"
    )
