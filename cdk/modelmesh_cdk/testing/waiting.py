"""Waiting for what another thread, process or task does, without saying how long that takes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator

PAUSE = 0.001
"""Seconds between two looks."""


def wait_until(condition: Callable[[], bool], *, timeout: float = 5.0) -> None:
    """Block this thread until a condition holds.

    Args:
        condition: Looked at again and again; what it raises is passed on.
        timeout: Real seconds it has.

    Raises:
        AssertionError: It did not hold in time.
    """
    for _ in _looks(condition, timeout):
        time.sleep(PAUSE)


async def until(condition: Callable[[], bool], *, timeout: float = 5.0) -> None:  # noqa: ASYNC109 -- as `wait_until`
    """Let the running event loop go on until a condition holds; otherwise as `wait_until`.

    Raises:
        AssertionError: It did not hold in time.
    """
    for _ in _looks(condition, timeout):
        await asyncio.sleep(PAUSE)


def _looks(condition: Callable[[], bool], timeout: float) -> Iterator[None]:
    """Yield after each look at a condition that does not hold yet."""
    ends_at = time.monotonic() + timeout
    while not condition():
        if time.monotonic() >= ends_at:
            raise AssertionError(f"what was waited for did not happen within {timeout:g} s")
        yield
