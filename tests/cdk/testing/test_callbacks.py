"""Timed callbacks: whoever holds the loop up is seen."""

from __future__ import annotations

import asyncio
import time

from modelmesh_cdk.testing import timed_callbacks


def test_a_callback_that_keeps_the_loop_is_seen_with_its_time() -> None:
    """Both kinds of time, and no other callback takes as long."""

    async def main() -> None:
        asyncio.get_running_loop().call_soon(work)
        await asyncio.sleep(0)

    def work() -> None:
        ends_at = time.thread_time() + 0.02
        while time.thread_time() < ends_at:
            pass

    with timed_callbacks() as spans:
        asyncio.run(main())

    cpu, wall = max(spans)
    assert cpu >= 0.02
    assert wall >= 0.02
    assert sum(each >= 0.02 for each, _ in spans) == 1


def test_afterwards_nothing_is_timed_any_more() -> None:
    """The loop is as it was."""
    with timed_callbacks() as spans:
        pass

    asyncio.run(asyncio.sleep(0))

    assert spans == []
