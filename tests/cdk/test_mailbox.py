"""Mailbox: what a thread puts in is received on the loop, in order, whatever kind of loop it is."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from modelmesh_cdk.mailbox import Mailbox

DESCRIPTORS = Path("/dev/fd")


class LoopWithoutPipes(asyncio.SelectorEventLoop):
    """Watches no pipes, as the default loop of Windows."""

    def add_reader(self, fd: Any, callback: Callable[..., Any], *args: Any) -> None:  # type: ignore[override]
        """Refuse."""
        raise NotImplementedError


@pytest.fixture(params=[asyncio.SelectorEventLoop, LoopWithoutPipes])
def runner(request: pytest.FixtureRequest) -> Any:
    """Run on a loop of each kind."""
    runner = asyncio.Runner(loop_factory=request.param)
    yield runner
    runner.close()


def put_from_a_thread(mailbox: Mailbox[int], numbers: Iterable[int]) -> threading.Thread:
    """Begin to put numbers in."""

    def put() -> None:
        for number in numbers:
            mailbox.put(number)

    thread = threading.Thread(target=put)
    thread.start()
    return thread


def test_items_are_received_on_the_loop_in_the_order_they_were_put_in(runner: asyncio.Runner) -> None:
    """However many lie there when the loop comes to look, and however often it is idle between them."""

    async def scenario() -> list[tuple[int, str]]:
        received: asyncio.Queue[tuple[int, str]] = asyncio.Queue()
        mailbox: Mailbox[int] = Mailbox(
            asyncio.get_running_loop(), lambda number: received.put_nowait((number, threading.current_thread().name))
        )
        async with asyncio.timeout(5.0):
            came = []
            for number in range(10):
                put_from_a_thread(mailbox, [number]).join()
                came.append(await received.get())
            thread = put_from_a_thread(mailbox, range(10, 1000))
            came += [await received.get() for _ in range(10, 1000)]
        thread.join()
        mailbox.close()
        return came

    assert runner.run(scenario()) == [(number, threading.current_thread().name) for number in range(1000)]


def test_closing_hands_over_what_lies_there_and_may_be_repeated(runner: asyncio.Runner) -> None:
    """The loop has not looked yet."""

    async def scenario() -> list[int]:
        received: list[int] = []
        mailbox = Mailbox(asyncio.get_running_loop(), received.append)
        mailbox.put(1)
        mailbox.put(2)
        mailbox.close()
        mailbox.close()
        await asyncio.sleep(0)
        return received

    assert runner.run(scenario()) == [1, 2]


def test_what_is_put_in_after_the_loop_was_closed_troubles_nobody(runner: asyncio.Runner) -> None:
    """The thread that puts it in cannot know."""

    async def scenario() -> Mailbox[int]:
        return Mailbox(asyncio.get_running_loop(), received.append)

    received: list[int] = []
    loop = runner.get_loop()
    mailbox = runner.run(scenario())
    runner.close()
    assert loop.is_closed()

    for number in range(100_000):  # more than a pipe holds
        mailbox.put(number)

    assert received == []


@pytest.mark.skipif(not DESCRIPTORS.is_dir(), reason="open file descriptors cannot be counted here")
@pytest.mark.parametrize("way", ["closed", "left"])
def test_its_pipe_is_given_back_when_it_is_closed_or_goes_with_its_loop(runner: asyncio.Runner, way: str) -> None:
    """A loop that ends without anybody closing the mailbox leaves nothing open either."""

    async def scenario() -> None:
        mailbox: Mailbox[int] = Mailbox(asyncio.get_running_loop(), lambda item: None)
        mailbox.put(1)
        if way == "closed":
            mailbox.close()
            assert len(os.listdir(DESCRIPTORS)) == with_loop

    gc.collect()
    without_loop = len(os.listdir(DESCRIPTORS))
    runner.get_loop()
    with_loop = len(os.listdir(DESCRIPTORS))
    runner.run(scenario())
    runner.close()
    gc.collect()
    assert len(os.listdir(DESCRIPTORS)) == without_loop
