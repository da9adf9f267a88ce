"""R5: an outage of everybody is not made worse, deadlines hold through it, and it is over when it is over.

Requests come at a fixed rate, whatever becomes of them, as from users. Three providers fail all at once for a while.
Walking over candidates that still take traffic is rotation and costs nothing of the retry budget, so what one provider
sees and what all see together are measured apart.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest

from modelmesh.errors import ModelMeshError
from modelmesh.router import CompletionRequest
from modelmesh_cdk.testing import faults
from modelmesh_cdk.testing.faults import RecordedRequest

RATE = 100
"""Requests a second."""
FLOOR = 10
"""Attempts a second that are granted beyond the share."""
PROVIDERS = 3
DEADLINE = 3.0
COOLDOWN = 0.7


class Outage:
    """What all providers do: fail in one way while it lasts, answer otherwise."""

    def __init__(self, failing: Any) -> None:
        self.failing = failing
        self.is_on = False
        self.attempts = [0] * PROVIDERS

    def provider(self, place: int) -> Any:
        """Return a provider's step; attempts are counted while it is on."""

        def step(request: RecordedRequest) -> Iterator[Any]:
            self.attempts[place] += self.is_on
            yield from (self.failing if self.is_on else faults.chat("fine"))(request)

        return step


FAILING = {
    "503": faults.status(503),
    "reset": faults.reset(),
    "429 for a second": faults.status(429, retry_after=1),
}


@pytest.mark.parametrize("transport", ["aiohttp"], indirect=True)  # who is called is not the transport's to decide
@pytest.mark.parametrize("how", FAILING)
def test_an_outage_of_everybody_is_not_amplified(
    sockets: Any, transport: str, lateness: Any, figures: Any, spread: Any, how: str
) -> None:
    """Under the default retry settings; before it, all is well, and after it all is well soon."""
    seconds = figures.scale(2, 60)
    outage = Outage(FAILING[how])
    for place in range(PROVIDERS):
        sockets.provider(outage.provider(place))
    mesh = sockets.mesh(deadline=DEADLINE, recovery={"cooldown": COOLDOWN})
    asked = 0
    beyond: list[float] = []
    after: list[tuple[float, bool]] = []
    over_at = 0.0

    async def ask(router: Any) -> None:
        started = time.monotonic()
        try:
            await router.acomplete("chat", CompletionRequest([{"role": "user", "content": "hi"}]))
            is_answered = True
        except ModelMeshError:
            is_answered = False
        beyond.append(time.monotonic() - started - DEADLINE)
        if over_at and started >= over_at:
            after.append((started - over_at, is_answered))

    async def main() -> float:
        nonlocal asked, over_at
        async with mesh:
            router = mesh.get_router()
            pool = router.get_pool("chat")
            tasks = [asyncio.create_task(ask(router)) for _ in range(20)]
            await asyncio.gather(*tasks)
            tasks.clear()
            async with lateness() as late:
                outage.is_on = True
                begun = time.monotonic()
                for number in range(int(RATE * (seconds + 2 * COOLDOWN + 1))):
                    if outage.is_on and number >= RATE * seconds:
                        outage.is_on = False
                        over_at = time.monotonic()
                    asked += outage.is_on
                    tasks.append(asyncio.create_task(ask(router)))
                    await asyncio.sleep(max(0.0, begun + number / RATE - time.monotonic()))
                await asyncio.gather(*tasks)
            assert (pool.active_requests, pool.active_retries) == (0, 0)
            return late.worst

    late = asyncio.run(main())

    total = sum(outage.attempts)
    late_answers = [is_answered for moment, is_answered in after if moment > 2 * COOLDOWN]
    assert max(outage.attempts) <= asked * 1.2 + FLOOR * seconds
    assert total <= asked * 1.2 + FLOOR * seconds
    assert max(beyond) <= 0.05 + late
    assert len(late_answers) > RATE / 2
    assert late_answers.count(False) <= len(late_answers) / 100
    failed = [moment for moment, is_answered in after if not is_answered]
    figures.add(
        "R5",
        f"all three providers down ({how}) for {seconds} s at {RATE} requests/s, {transport}",
        f"{asked:,} requests, {total:,} attempts: amplification {total / asked:.3f} in total,"
        f" {max(outage.attempts) / asked:.3f} at the busiest provider; deadline passed by"
        f" {max(0.0, *beyond) * 1000:.1f} ms at most; last failure {max(failed, default=0.0):.2f} s after the end",
    )


async def read(stream: Any) -> None:
    """Read a stream to its end."""
    async for _ in stream:
        pass


@pytest.mark.parametrize("is_streamed", [False, True], ids=["plain", "streamed"])
def test_a_deadline_holds_whatever_hangs(
    sockets: Any, transport: str, lateness: Any, figures: Any, spread: Any, is_streamed: bool
) -> None:
    """Three silent providers, fifty requests at once, no time-out of an attempt in sight."""
    for _ in range(PROVIDERS):
        sockets.provider(faults.hang())
    mesh = sockets.mesh(deadline=0.4, timeouts={"connect": 9, "first_token": 9, "idle": 9, "total": 9})

    async def ask(router: Any) -> float:
        started = time.monotonic()
        request = CompletionRequest([{"role": "user", "content": "hi"}])
        asked = read(router.stream("chat", request)) if is_streamed else router.acomplete("chat", request)
        with pytest.raises(ModelMeshError):
            await asked
        return time.monotonic() - started - 0.4

    async def main() -> tuple[list[float], float]:
        async with mesh:
            async with lateness() as late:
                beyond = await asyncio.gather(*(ask(mesh.get_router()) for _ in range(50)))
            return beyond, late.worst

    beyond, late = asyncio.run(main())

    assert max(beyond) <= 0.05 + late
    figures.add("R5", f"deadline, {'streamed' if is_streamed else 'plain'}, {transport}", f"passed by {spread(beyond)}")
