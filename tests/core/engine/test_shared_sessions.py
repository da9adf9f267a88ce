"""A session stays with its model whichever process is asked."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from modelmesh import ModelMesh, PluginHost
from modelmesh._engine.guarded_ledger import GuardedLedger
from modelmesh._engine.shared_facts import SharedFacts
from modelmesh._engine.shared_sessions import LONGEST_SESSION, MOST_UNTOLD, PORTION, SharedSessions
from modelmesh.errors import StateStoreError
from modelmesh.interfaces.strategy import SelectionRequest
from modelmesh.router import CompletionRequest
from modelmesh_cdk.testing import FakeClock, ScriptedProvider, context
from modelmesh_plugins.state_stores.memory import MemoryStateStore
from modelmesh_plugins.strategies.session_stickiness import SessionConfig, SessionStickiness

POOL = "chat-completion"


class Store(MemoryStateStore):
    """Counts messages and locks asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[bytes] = []
        self.locks = 0
        self.is_down = False
        self.is_unheard = False

    async def _publish(self, channel: str, message: bytes) -> None:
        if self.is_down:
            raise StateStoreError("down")
        self.messages.append(message)
        if not self.is_unheard:
            await super()._publish(channel, message)

    async def lock(self, name: str, *, expires_in: float) -> Any:
        self.locks += 1
        return await super().lock(name, expires_in=expires_in)


class Process:
    """One that keeps sessions over the world's store."""

    def __init__(self, world: World, number: int) -> None:
        clock, loop = world.clock, world.loop
        telemetry: Any = SimpleNamespace(trace=lambda *_, **__: None)
        guard = GuardedLedger(world.store, clock, timeout=1.0, told=lambda *_: None)
        facts = SharedFacts(world.store, clock, random.Random(number), telemetry, loop)
        self.strategy = SessionStickiness(SessionConfig(max_sessions=world.max_sessions))
        self.strategy.bind(context(clock=clock))
        self.strategy.pool_changed("ab")
        pools: Any = {POOL: SimpleNamespace(rotation=SimpleNamespace(strategy=self.strategy))}
        self.sessions = SharedSessions(
            world.store,
            guard,
            facts,
            pools,
            threading.RLock(),
            clock,
            random.Random(number),
            loop,
        )
        self.sessions.attach()
        loop.start(facts.run())
        loop.start(self.sessions.run())

    def serve(self, session: str, model: str) -> None:
        """Answer a request of a session by a model."""
        candidate: Any = SimpleNamespace(model_id=model)
        self.strategy.commit(candidate, SelectionRequest("chat", session_id=session))

    def knows(self, session: str) -> str | None:
        """Return the session's model."""
        return self.bound.get(session)

    @property
    def bound(self) -> dict[str, str]:
        """Each session's model."""
        return {session: model for session, (model, _) in self.strategy.bound_sessions().items()}


class World:
    """Processes over one store, on one clock."""

    max_sessions = 10_000

    def __init__(self, loop: Any) -> None:
        self.clock = FakeClock()
        self.store = Store()
        self.store.bind(context(clock=self.clock))
        self.loop = loop
        self.started = 0

    async def process(self, *, settled: bool = True) -> Process:
        """Start one; ``settled`` once it has asked the others."""
        self.started += 1
        process = Process(self, self.started)
        await self.let_pass(4.0 if settled else 0.0)
        return process

    async def let_pass(self, seconds: float) -> None:
        """Let time pass, a tenth of a second at once."""
        for tenth in range(round(seconds * 10) + 1):
            self.clock.advance(0.1 if tenth else 0.0)
            for _ in range(20):
                await asyncio.sleep(0)


Within = Callable[[Callable[[World], Awaitable[None]]], None]


@pytest.fixture
def within(run_in: Any) -> Within:
    """Run a scenario in a world of its own."""
    return partial(run_in, World)


def test_a_binding_is_known_elsewhere_within_half_a_second(within: Within) -> None:
    """Whatever was told a moment before."""

    async def scenario(world: World) -> None:
        here, there = await world.process(), await world.process()
        here.serve("first", "b")
        await world.let_pass(0.1)
        here.serve("second", "b")
        await world.let_pass(0.4)
        assert there.bound == {"first": "b", "second": "b"}

    within(scenario)


def test_two_that_bind_one_session_at_once_end_with_one_model(within: Within) -> None:
    """The one the store passed on last, for both."""

    async def scenario(world: World) -> None:
        here, there = await world.process(), await world.process()
        here.serve("s", "a")
        there.serve("s", "b")
        await world.let_pass(0.5)
        assert here.knows("s") == there.knows("s") is not None

    within(scenario)


def test_a_session_in_use_is_told_four_times_in_its_timeout(within: Within) -> None:
    """And not with every request; elsewhere it lives on meanwhile."""

    async def scenario(world: World) -> None:
        here, there = await world.process(), await world.process()
        before = len(world.store.messages)
        for _ in range(60):
            here.serve("s", "b")
            world.clock.advance(60.0)
            await world.let_pass(0.0)
        assert 7 <= len(world.store.messages) - before <= 8
        assert there.knows("s") == "b"

    within(scenario)


def test_a_process_that_starts_later_is_told_the_sessions_with_their_age(within: Within) -> None:
    """By one of those that know them, the last used first; they end there when they end elsewhere."""

    async def scenario(world: World) -> None:
        first, _ = await world.process(), await world.process()
        first.serve("old", "b")
        await world.let_pass(0.5)
        world.clock.advance(1_700.0)
        first.serve("new", "a")
        later = await world.process()
        assert list(later.bound.items()) == [("new", "a"), ("old", "b")]
        world.clock.advance(100.0)
        assert list(later.bound) == list(first.bound) == ["new"]

    within(scenario)


def test_one_process_answers_a_newcomer(within: Within) -> None:
    """Of ten that could, most hear the answer before they would ask for the lock."""

    async def scenario(world: World) -> None:
        others = [await world.process() for _ in range(10)]
        others[0].serve("s", "b")
        await world.let_pass(0.5)
        world.store.locks, before = 0, len(world.store.messages)
        later = await world.process()
        assert later.knows("s") == "b"
        assert len(world.store.messages) - before == 2, "a question and an answer"
        assert world.store.locks <= 5

    within(scenario)


def test_what_a_newcomer_binds_before_it_is_answered_leads_nobody_astray(within: Within) -> None:
    """The others' word counts; what they do not know it tells them afterwards."""

    async def scenario(world: World) -> None:
        first = await world.process()
        first.serve("s", "b")
        await world.let_pass(0.5)
        later = await world.process(settled=False)
        later.serve("s", "a")
        later.serve("own", "a")
        await world.let_pass(2.0)
        assert first.bound == later.bound == {"s": "b", "own": "a"}

    within(scenario)


def test_what_was_bound_while_the_store_was_down_is_told_when_it_is_back(within: Within) -> None:
    """Of a session that was bound anew meanwhile, the model it has now."""

    async def scenario(world: World) -> None:
        here, there = await world.process(), await world.process()
        world.store.is_down = True
        here.serve("s", "a")
        await world.let_pass(0.5)
        here.serve("moved", "a")
        await world.let_pass(2.0)
        here.serve("moved", "b")
        assert not there.bound
        world.store.is_down = False
        await world.let_pass(1.5)
        assert there.bound == {"s": "a", "moved": "b"}

    within(scenario)


def test_what_was_told_before_others_listened_again_is_told_once_more(within: Within) -> None:
    """They may have needed a moment longer to hear again; after that it is told no more."""

    async def scenario(world: World) -> None:
        here, there = await world.process(), await world.process()
        world.store.is_down = True
        here.serve("s", "b")
        await world.let_pass(0.5)
        world.store.is_down, world.store.is_unheard = False, True
        await world.let_pass(1.5)
        world.store.is_unheard = False
        assert there.knows("s") is None
        await world.let_pass(2.0)
        assert there.knows("s") == "b"
        told = len(world.store.messages)
        await world.let_pass(5.0)
        assert len(world.store.messages) == told

    within(scenario)


def test_ten_thousand_sessions_are_handed_over_in_portions(within: Within) -> None:
    """No message is so large that it holds a process or its store up; several newcomers share an answer."""

    async def scenario(world: World) -> None:
        first = await world.process()
        first.sessions.detach_strategies()
        for number in range(10_000):
            first.serve(f"session-{number}", "b")
        first.strategy.share_sessions(lambda *_: None)
        world.store.messages.clear()
        newcomers = [await world.process(settled=False) for _ in range(3)]
        await world.let_pass(1.0)
        newcomers.append(await world.process(settled=False))
        await world.let_pass(8.0)
        assert [len(each.bound) for each in newcomers] == [10_000] * 4
        assert not any(each.sessions._asking for each in newcomers)
        answers = [message for message in world.store.messages if b'"part"' in message]
        assert max(map(len, answers)) < 30 * PORTION
        assert len(answers) == 20, "one for three, and one for who came in the middle of it"

    within(scenario)


def test_many_new_sessions_are_told_in_portions_and_those_beyond_the_cap_not(within: Within) -> None:
    """What waits is bounded, however fast sessions come."""

    async def scenario(world: World) -> None:
        world.max_sessions = 2 * MOST_UNTOLD
        here, there = await world.process(), await world.process()
        for number in range(MOST_UNTOLD + 500):
            here.serve(f"{number}", "b")
        assert len(here.sessions._untold[POOL]) == MOST_UNTOLD
        await world.let_pass(4.0)
        assert len(there.bound) == MOST_UNTOLD
        assert not here.sessions._untold[POOL]

    within(scenario)


@pytest.mark.parametrize(
    ("letters", "known"), [(LONGEST_SESSION, 1), (LONGEST_SESSION + 1, 0)], ids=["longest", "one letter more"]
)
def test_sessions_of_endless_names_stay_where_they_are(within: Within, letters: int, known: int) -> None:
    """They are kept here, and told nobody: neither when they are bound nor when a newcomer asks."""

    async def scenario(world: World) -> None:
        here, there = await world.process(), await world.process()
        here.serve("s" * letters, "b")
        await world.let_pass(0.5)
        later = await world.process()
        assert [len(each.bound) for each in (here, there, later)] == [1, known, known]

    within(scenario)


def test_a_model_that_is_not_in_the_pool_here_takes_no_session_over(within: Within) -> None:
    """Processes with different configurations, as while one is rolled out, do not take sessions from one another."""

    async def scenario(world: World) -> None:
        here, there = await world.process(), await world.process()
        there.serve("s", "a")
        await world.let_pass(0.5)
        here.strategy.pool_changed("abc")
        here.serve("s", "c")
        await world.let_pass(0.5)
        assert (here.knows("s"), there.knows("s")) == ("c", "a")

    within(scenario)


def test_a_strategy_that_fails_at_news_keeps_nobody_from_hearing(within: Within) -> None:
    """What comes next is still taken over."""

    async def scenario(world: World) -> None:
        here, there = await world.process(), await world.process()
        take = there.strategy.take_session

        def broken(*_: Any) -> None:
            there.strategy.take_session = take  # type: ignore[method-assign]
            raise RuntimeError("broken")

        there.strategy.take_session = broken  # type: ignore[method-assign]
        here.serve("first", "b")
        await world.let_pass(0.5)
        here.serve("second", "b")
        await world.let_pass(0.5)
        assert there.bound == {"second": "b"}

    within(scenario)


# --- whole meshes -----------------------------------------------------------------------


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Callable[..., ModelMesh]]:
    """Start meshes that share one database, as processes of one host do."""
    built: list[ModelMesh] = []

    def make(*preferred: str) -> ModelMesh:
        mesh = ModelMesh(plugins=PluginHost(), environ={})
        built.append(mesh)
        mesh.initialize(configuration(tmp_path, *preferred))
        return mesh

    yield make
    for each in built:
        each.shutdown()


def configuration(folder: Path, *preferred: str) -> dict[str, Any]:
    """Two models, of which new sessions get the preferred one."""
    return {
        "providers": {name: {"instance": ScriptedProvider()} for name in "ab"},
        "models": {name: {"provider": name, "capabilities": [POOL]} for name in "ab"},
        "pools": {POOL: {"strategy": "session-stickiness", "model_priority": list(preferred)}},
        "storage": {
            "connector": "modelmesh.sqlite.v1",
            "path": str(folder / "state.db"),
            "sync_policy": "in-memory",
        },
    }


async def ask(mesh: ModelMesh, session: str) -> str:
    """Ask in a session; return the ID of the model that answered."""
    request = CompletionRequest([{"role": "user", "content": "hi"}], metadata={"session_id": session})
    return (await mesh.get_router().acomplete(POOL, request)).model


def strategy(mesh: ModelMesh) -> Any:
    """Return what keeps the sessions."""
    return mesh.get_router().get_pool(POOL).rotation.strategy


async def known(mesh: ModelMesh, session: str) -> None:
    """Wait until a session is known there, five seconds at most."""
    for _ in range(500):
        if session in strategy(mesh).bound_sessions():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never came to be")


def test_a_session_goes_on_with_its_model_at_another_process(mesh: Any) -> None:
    """Although that one would have chosen another for a new session; also at one that starts later."""

    async def scenario() -> None:
        here, there = mesh("b"), mesh("a")
        assert await ask(here, "s") == "b"
        await known(there, "s")
        assert await ask(there, "s") == "b"
        assert await ask(there, "new") == "a"
        later = mesh("a")
        await known(later, "s")
        assert await ask(later, "s") == "b"

    asyncio.run(scenario())


def test_sessions_are_shared_on_after_a_reload(mesh: Any, tmp_path: Path) -> None:
    """By the strategy that was carried over, and by one that took its place."""

    async def scenario() -> None:
        here, there = mesh("b"), mesh("a")
        await ask(here, "before")
        await known(there, "before")
        for name, preferred in (("carried over", "b"), ("replaced", "a")):
            here.reload_config(configuration(tmp_path, preferred))
            await ask(here, name)
            await known(there, name)
            assert strategy(here)._tell.func.__self__ is here._built().shared_routing._sessions
        assert await ask(here, "before") == "b"

    asyncio.run(scenario())


def test_a_reload_without_sharing_tells_nobody_any_more(mesh: Any, tmp_path: Path) -> None:
    """The strategy, which goes on with its sessions, lets go of the earlier store."""

    async def scenario() -> None:
        here = mesh("b")
        await ask(here, "s")
        alone = {key: value for key, value in configuration(tmp_path, "b").items() if key != "storage"}
        here.reload_config(alone)
        assert strategy(here)._tell is None
        assert await ask(here, "s") == "b"

    asyncio.run(scenario())
