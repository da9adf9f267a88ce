"""What is attempted until nothing waits any more."""

from __future__ import annotations

import asyncio

from modelmesh._engine.attempts import Attempts
from modelmesh_cdk.testing import FakeClock


def test_a_last_attempt_waits_for_the_one_under_way() -> None:
    """Both take out what they saw: at once, each would take out the same."""

    async def scenario() -> list[str]:
        begun, go_on = asyncio.Event(), asyncio.Event()
        made: list[str] = []

        async def attempt(waiting: dict[str, int], _: float) -> float:
            for name in list(waiting):
                begun.set()
                await go_on.wait()
                made.append(name)
                del waiting[name]
            return 1.0

        clock = FakeClock()
        attempts = Attempts(clock, 1.0, attempt)
        attempts.put("a", 1)
        await clock.run(1.0)
        assert begun.is_set()
        finishing = asyncio.ensure_future(attempts.finish())
        await asyncio.sleep(0)
        go_on.set()
        await finishing
        assert len(attempts) == 0
        return made

    assert asyncio.run(scenario()) == ["a"]
