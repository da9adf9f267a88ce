"""Callers who hang up: what runs for them is cancelled, and with it the provider's call."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.types import Receive

Result = TypeVar("Result")


class CallerGoneError(Exception):
    """The caller hung up before the answer was there."""


async def disconnected(receive: Receive) -> None:
    """Return once the caller has hung up; the body must have been read before."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def unless_disconnected(receive: Receive, work: Coroutine[Any, Any, Result]) -> Result:
    """Await work for as long as the caller is there.

    Raises:
        CallerGoneError: The caller hung up; the work was cancelled and has ended.
    """
    working = asyncio.create_task(work)
    watching = asyncio.create_task(disconnected(receive))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await end_tasks(watching, *(() if working.done() else (working,)))
    if working.cancelled():
        raise CallerGoneError
    return working.result()


async def end_tasks(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks and wait until they have ended; how they ended concerns nobody any more."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
