"""R14: who fails rests, who returns is tried by one request at a time, and somebody always takes traffic.

Beside the mesh runs a model of a breaker that fits on a page, with one request at a time: whatever fails, heals and
passes, both call the same providers in the same order and have the same models resting until the same moment. Then the
same over sockets, with many requests at once.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from modelmesh import ModelMesh
from modelmesh.errors import ModelMeshError, ProviderServerError, RateLimitError
from modelmesh.interfaces.provider import ProviderRequest, ProviderResponse
from modelmesh.router import CompletionRequest
from modelmesh_cdk.testing import FakeClock, ScriptedProvider, answer, fail, faults
from modelmesh_cdk.testing.faults import Pause, RecordedRequest

NAMES = "abc"
LIMIT = 3
"""Failures in a row after which a model rests."""
COOLDOWN, LONGEST = 10.0, 300.0
ASKED = 60.0
"""Seconds a provider at its limit wants to be left alone: longer than a request waits for anybody."""
ERRORS = {
    "down": ProviderServerError("down", status_code=500),
    "at its limit": RateLimitError("later", retry_after=ASKED),
}
REQUEST = CompletionRequest([{"role": "user", "content": "hi"}])


class Still:
    """Chance that never strikes: rests are as short as they may be."""

    def random(self) -> float:
        return 0.0

    def uniform(self, a: float, b: float) -> float:
        return a


class Noting(ScriptedProvider):
    """Writes its name into a list when it is called."""

    def __init__(self, name: str, called: list[str]) -> None:
        super().__init__()
        self.name = name
        self.called = called

    async def complete(self, request: ProviderRequest) -> ProviderResponse:
        self.called.append(self.name)
        return await super().complete(request)


@dataclass
class Paper:
    """A model as a person would keep its book."""

    active: bool = True
    failures: int = 0
    rests: int = 0
    due: float = 0.0
    since: float = 0.0
    on_trial: bool = False
    asked: bool = False

    def rest(self, now: float, seconds: float, *, asked: bool = False) -> None:
        """Go to rest, or rest on until the later of both times."""
        if self.active:
            self.active, self.on_trial = False, False
            self.rests += 1
            self.since, self.due, self.asked = now, now + seconds, asked
        elif now + seconds > self.due:
            self.due, self.asked = now + seconds, asked

    def return_(self, *, on_trial: bool) -> None:
        """Take traffic again."""
        self.active, self.failures, self.on_trial, self.due, self.asked = True, 0, on_trial, 0.0, False

    def answered(self, now: float) -> None:
        """Prove oneself."""
        self.failures = 0
        if self.on_trial:
            self.on_trial = False
        elif now - self.since > 2 * COOLDOWN:
            self.rests = 0
        if not self.active:
            self.return_(on_trial=False)

    def failed(self, now: float, *, is_limit: bool, is_last: bool) -> None:
        """Rest for what the provider asked for, or for errors; errors never leave a pool without anybody."""
        self.failures += 1
        if is_last:
            return
        if is_limit:
            self.rest(now, ASKED, asked=True)
        elif self.on_trial or self.failures >= LIMIT:
            self.rest(now, min(COOLDOWN * 2**self.rests, LONGEST))


class Breakers(RuleBasedStateMachine):
    """A mesh and the book beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.state = dict.fromkeys(NAMES, "well")
        self.called: list[str] = []
        self.providers = {name: Noting(name, self.called) for name in NAMES}
        self.papers = {name: Paper() for name in NAMES}
        self.mesh = ModelMesh(clock=self.clock, random=Still(), environ={})
        self.mesh.initialize(
            {
                "providers": {name: {"instance": each} for name, each in self.providers.items()},
                "models": {name: {"provider": name, "capabilities": ["chat-completion"]} for name in NAMES},
                "pools": {
                    "chat": {
                        "capability": "chat-completion",
                        "strategy": "priority-selection",
                        "model_priority": list(NAMES),
                        "retry": {"max_attempts": 0},
                        "deactivation": {
                            "retry_limit": LIMIT,
                            "error_rate_threshold": 1.0,
                            "error_rate_min_samples": 100,
                        },
                        "recovery": {"cooldown": COOLDOWN},
                    }
                },
            }
        )
        self.router = self.mesh.get_router()
        self.pool = self.router.get_pool("chat")
        self.loop = asyncio.new_event_loop()

    @rule(name=st.sampled_from(NAMES), state=st.sampled_from(["well", *ERRORS]))
    def becomes(self, name: str, state: str) -> None:
        """A provider breaks or heals."""
        self.state[name] = state
        self.providers[name].default = answer() if state == "well" else fail(ERRORS[state])

    @rule(seconds=st.sampled_from([0.5, 3.0, COOLDOWN, 2 * COOLDOWN + 1, ASKED, LONGEST, 2 * LONGEST]))
    def passes(self, seconds: float) -> None:
        """Time goes by."""
        self.clock.advance(seconds)

    @rule(times=st.integers(1, 4))
    def ask(self, times: int) -> None:
        """Requests come, one after the other."""
        for _ in range(times):
            self.called.clear()
            answered = ""
            with suppress(ModelMeshError):
                answered = self.loop.run_until_complete(self.router.acomplete("chat", REQUEST)).model
            assert (self.called, answered) == self.on_paper()

    def on_paper(self) -> tuple[list[str], str]:
        """Return who is called and who answers, by the book."""
        now = self.clock.monotonic()
        for paper in self.papers.values():
            if not paper.active and paper.due <= now:
                paper.return_(on_trial=True)
        called: list[str] = []
        first = [name for name in NAMES if self.papers[name].active]
        for name in [*first, "the resting"]:
            if name in NAMES and self.call(name, called, now):
                return called, name
        resting = [name for name in NAMES if not self.papers[name].active and name not in called]
        for name in sorted(resting, key=lambda each: self.papers[each].due):
            # Whoever named a time is left alone until then; whoever merely failed is the last resort.
            if not self.papers[name].asked and self.call(name, called, now):
                return called, name
        return called, ""

    def call(self, name: str, called: list[str], now: float) -> bool:
        """Write one call down."""
        called.append(name)
        paper = self.papers[name]
        if self.state[name] == "well":
            paper.answered(now)
            return True
        is_last = paper.active and sum(each.active for each in self.papers.values()) == 1
        paper.failed(now, is_limit=self.state[name] == "at its limit", is_last=is_last)
        return False

    @invariant()
    def they_agree(self) -> None:
        """The same models rest, until the same time; somebody takes traffic."""
        members = self.pool.members
        theirs = {
            name: (members[name].active, members[name].due, members[name].probation, members[name].ejections)
            for name in NAMES
        }
        ours = {name: (each.active, each.due, each.on_trial, each.rests) for name, each in self.papers.items()}
        assert theirs == ours
        assert any(each.active for each in members.values())

    def teardown(self) -> None:
        """End the mesh."""
        self.mesh.shutdown()
        self.loop.close()


def test_a_breaker_does_what_the_book_says(figures: Any) -> None:
    """Any order of failures, limits, recoveries, waits and requests: 0 differences."""
    count, steps = figures.scale(60, 600), 40

    run_state_machine_as_test(
        Breakers, settings=settings(max_examples=count, stateful_step_count=steps, deadline=None, database=None)
    )

    figures.add("R14", f"breaker against a model of it, {count:,} runs of up to {steps} steps", "0 differences")


class Sick:
    """A provider that fails until it is healed; notes when it was called, and how many calls ran at once."""

    def __init__(self, *, pause: float = 0.0) -> None:
        self.pause = pause
        self.is_well = False
        self.moments: list[float] = []
        self.at_once = 0
        self._running = 0
        self._lock = threading.Lock()

    def __call__(self, request: RecordedRequest) -> Iterator[Any]:
        with self._lock:
            self.moments.append(time.monotonic())
            self._running += 1
            self.at_once = max(self.at_once, self._running)
        try:
            yield Pause(self.pause)
            yield from (faults.chat("well") if self.is_well else faults.status(503))(request)
        finally:
            with self._lock:
                self._running -= 1


async def keep_asking(router: Any, sick: Sick, calls: int, clients: int, taken: list[str]) -> None:
    """Let clients ask one request after the other until the sick one was called so often; note who answered."""
    end = time.monotonic() + 20.0

    async def client() -> None:
        while len(sick.moments) < calls and time.monotonic() < end:
            taken.append((await router.acomplete("chat", REQUEST)).model)
            await asyncio.sleep(0.002)

    await asyncio.gather(*(client() for _ in range(clients)))


def test_under_load_a_sick_model_is_tried_once_a_rest(sockets: Any, transport: str, figures: Any) -> None:
    """Twenty clients: after it went to rest, one call each time the rest is over, and each rest twice as long."""
    cooldown = 0.1
    sick = Sick(pause=0.01)
    sockets.provider(sick)
    sockets.provider(faults.chat("fine"))
    mesh = sockets.mesh(
        strategy="priority-selection",
        model_priority=["m0", "m1"],
        retry={"max_attempts": 0},
        deactivation={"retry_limit": LIMIT},
        recovery={"cooldown": cooldown},
    )
    taken: list[str] = []

    async def main() -> tuple[int, int]:
        async with mesh:
            router = mesh.get_router()
            taken.extend([(await router.acomplete("chat", REQUEST)).model for _ in range(LIMIT)])
            before = len(sick.moments)
            sick.at_once = 0
            await keep_asking(router, sick, before + 3, 20, taken)
            return before, sick.at_once

    before, at_once = asyncio.run(main())

    trials = sick.moments[before - 1 :]
    rests = [after - first for first, after in pairwise(trials)]
    assert before == LIMIT
    assert set(taken) == {"m1"}
    assert at_once == 1
    assert len(rests) == 3
    assert all(rest >= cooldown * 2**number for number, rest in enumerate(rests))
    figures.add(
        "R14",
        f"a sick model under 20 clients, {transport}",
        f"rests after {before} failures; {len(rests)} trials, never two at once, after "
        + ", ".join(f"{rest:.2f}" for rest in rests)
        + " s of rest",
    )


def test_a_model_that_is_well_again_is_tried_by_one_and_then_used_by_all(
    sockets: Any, transport: str, figures: Any
) -> None:
    """While its first answer is on the way, everybody else asks another; then it has its place back."""
    sick = Sick(pause=0.15)
    sockets.provider(sick)
    sockets.provider(faults.chat("fine"))
    mesh = sockets.mesh(
        strategy="priority-selection",
        model_priority=["m0", "m1"],
        retry={"max_attempts": 0},
        deactivation={"retry_limit": 1},
        recovery={"cooldown": 0.1},
    )
    taken: list[str] = []

    async def main() -> None:
        async with mesh:
            router = mesh.get_router()
            await router.acomplete("chat", REQUEST)
            sick.is_well = True
            await asyncio.sleep(0.15)
            crowd = [asyncio.create_task(router.acomplete("chat", REQUEST)) for _ in range(30)]
            assert sorted([(await each).model for each in crowd]) == ["m0"] + ["m1"] * 29
            assert len(sick.moments) == 2
            taken.extend([(await router.acomplete("chat", REQUEST)).model for _ in range(3)])

    asyncio.run(main())

    assert taken == ["m0"] * 3
    figures.add("R14", f"return of a model that is well again, 30 requests at once, {transport}", "tried by 1 request")


def test_the_last_one_is_never_given_up(sockets: Any, transport: str, figures: Any) -> None:
    """Everybody fails for long; one of them goes on taking traffic, and answers the moment it can."""
    everybody = [Sick(), Sick(), Sick()]
    for sick in everybody:
        sockets.provider(sick)
    mesh = sockets.mesh(retry={"max_attempts": 0}, recovery={"cooldown": 60})

    async def main() -> int:
        async with mesh:
            router = mesh.get_router()
            pool = router.get_pool("chat")
            for _ in range(40):
                with suppress(ModelMeshError):
                    await router.acomplete("chat", REQUEST)
                assert pool.get_active_models()
            (last,) = pool.get_active_models()
            everybody[int(last.name[1:])].is_well = True
            answered = await router.acomplete("chat", REQUEST)
            assert answered.model == last.name
            return len(pool.get_standby_models())

    resting = asyncio.run(main())

    assert resting == 2
    figures.add("R14", f"three failing providers, 40 requests, {transport}", "two rest, the last one never does")
