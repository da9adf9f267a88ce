"""Waiting for others: it ends when the condition holds, and says so when it never does."""

from __future__ import annotations

import asyncio
import threading

import pytest

from modelmesh_cdk.testing import until, wait_until


def test_a_thread_waits_for_what_another_one_does() -> None:
    """However long that takes to begin."""
    done = threading.Event()
    other = threading.Timer(0.005, done.set)
    other.start()

    wait_until(done.is_set)

    assert done.is_set()
    other.join()


def test_a_loop_goes_on_while_it_is_waited() -> None:
    """What is waited for may be one of its own tasks."""
    done: list[str] = []

    async def main() -> None:
        asyncio.get_running_loop().call_later(0.005, done.append, "done")
        await until(lambda: bool(done))

    asyncio.run(main())
    assert done == ["done"]


def test_what_never_happens_fails_the_test() -> None:
    """In both ways of waiting."""
    with pytest.raises(AssertionError, match=r"did not happen within 0\.002 s"):
        wait_until(lambda: False, timeout=0.002)
    with pytest.raises(AssertionError, match=r"did not happen within 0\.002 s"):
        asyncio.run(until(lambda: False, timeout=0.002))
