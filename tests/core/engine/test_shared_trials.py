"""Half-open over all processes: a model that came back is tried by one of them, and the others wait for the news."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from modelmesh import ModelMesh, PluginHost
from modelmesh.errors import DeadlineExceededError, ProviderServerError, StateStoreError
from modelmesh.interfaces.provider import ProviderRequest, ProviderResponse
from modelmesh.interfaces.strategy import RecoveryTrigger
from modelmesh.router import CompletionRequest
from modelmesh_cdk.testing import ScriptedProvider, until
from modelmesh_cdk.testing.scripted import fail

POOL = "chat-completion"
Process = Callable[..., ModelMesh]


class Gated(ScriptedProvider):
    """Answers once it is let; counts who waits."""

    def __init__(self, script: Any = ()) -> None:
        super().__init__(script)
        self.gate = threading.Event()
        self.calls = 0

    async def complete(self, request: ProviderRequest) -> ProviderResponse:
        self.calls += 1
        await until(self.gate.is_set)
        return await super().complete(request)


class Meddling(ScriptedProvider):
    """Fails so many times, and during the last of them does something."""

    def __init__(self, fails: int) -> None:
        super().__init__([fail(ProviderServerError("no", status_code=500))] * fails)
        self.act: Callable[[], None] = bool

    async def complete(self, request: ProviderRequest) -> ProviderResponse:
        if self.steps_left == 1:
            self.act()
        return await super().complete(request)


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    """Start meshes that share one database, over providers that are the same for all."""
    built: list[ModelMesh] = []

    def make(*, retries: int = 0, **providers: ScriptedProvider) -> ModelMesh:
        mesh = ModelMesh(plugins=PluginHost(), environ={})
        built.append(mesh)
        mesh.initialize(
            {
                "providers": {name: {"instance": each} for name, each in providers.items()},
                "models": {name: {"provider": name, "capabilities": [POOL]} for name in providers},
                "pools": {
                    POOL: {
                        "retry": {"max_attempts": retries, "initial_delay": 0.01},
                        "deactivation": {"retry_limit": 1},
                    }
                },
                "storage": {
                    "connector": "modelmesh.sqlite.v1",
                    "path": str(tmp_path / "state.db"),
                    "sync_policy": "in-memory",
                    "call_timeout": 5.0,  # a busy disk is no store that is down
                },
            }
        )
        return mesh

    yield make
    for mesh in built:
        mesh.shutdown()


def member(mesh: ModelMesh) -> Any:
    """Return the place of the model that comes back."""
    return mesh.get_router().get_pool(POOL).members["a"]


def put_on_probation(*meshes: ModelMesh) -> None:
    """Have its rest end in every process at once."""
    for mesh in meshes:
        place = member(mesh)
        now = place.pool.clock.monotonic()
        place.pool.deactivate_member(place, "error_threshold", rest=60.0, now=now, told=False)
        place.pool.recover_member(place, RecoveryTrigger.COOLDOWN_EXPIRED, now=now, told=False)
        assert place.probation


async def ask(mesh: ModelMesh) -> str:
    """Ask; return the ID of the model that answered."""
    request = CompletionRequest([{"role": "user", "content": "hi"}])
    return (await mesh.get_router().acomplete(POOL, request)).model


async def astream(mesh: ModelMesh) -> str:
    """Ask for a stream; return the ID of the model that answered."""
    request = CompletionRequest([{"role": "user", "content": "hi"}])
    return [chunk.model async for chunk in mesh.get_router().stream(POOL, request)][-1]


@pytest.mark.parametrize("other", [ask, astream], ids=["whole", "streamed"])
def test_one_process_tries_and_the_others_ask_somebody_else(process: Process, other: Any) -> None:
    """While the trial runs; when it was answered, nobody needs one of their own."""

    async def scenario() -> None:
        back, healthy = Gated(), ScriptedProvider()
        meshes = [process(a=back, b=healthy) for _ in range(3)]
        put_on_probation(*meshes)
        trial = asyncio.ensure_future(ask(meshes[0]))
        await until(lambda: back.calls == 1)

        assert [await other(mesh) for mesh in meshes[1:] for _ in range(3)] == ["b"] * 6
        assert back.calls == 1
        back.gate.set()
        assert await trial == "a"
        await until(lambda: not any(member(mesh).probation for mesh in meshes))
        assert await ask(meshes[1]) == "a"

    asyncio.run(scenario())


def test_a_trial_that_was_given_up_proves_nothing(process: Process) -> None:
    """Another process makes one of its own, and the others go on waiting for the news."""

    async def scenario() -> None:
        back, healthy = Gated(), ScriptedProvider()
        meshes = [process(a=back, b=healthy) for _ in range(3)]
        put_on_probation(*meshes)
        given_up = asyncio.ensure_future(ask(meshes[0]))
        await until(lambda: back.calls == 1)
        given_up.cancel()

        async def ask_until_it_is_tried() -> None:
            for _ in range(500):
                if await ask(meshes[1]) == "a":
                    return
                await asyncio.sleep(0.01)

        trial = asyncio.ensure_future(ask_until_it_is_tried())
        await until(lambda: back.calls == 2)
        assert all(member(mesh).probation for mesh in meshes[1:])
        back.gate.set()
        await trial
        await until(lambda: not member(meshes[2]).probation)

    asyncio.run(scenario())


def test_a_trial_that_fails_sends_it_off_everywhere(process: Process) -> None:
    """Before the lock is free again, so that the trial that failed is the only one."""

    async def scenario() -> None:
        back, healthy = Gated([fail(ProviderServerError("no", status_code=500))]), ScriptedProvider()
        meshes = [process(a=back, b=healthy) for _ in range(3)]
        put_on_probation(*meshes)
        back.gate.set()

        assert await ask(meshes[0]) == "b"
        for _ in range(30):
            assert [await ask(mesh) for mesh in meshes[1:]] == ["b", "b"]
            await asyncio.sleep(0.01)
        await until(lambda: not any(member(mesh).active for mesh in meshes))
        assert back.calls == 1

    asyncio.run(scenario())


def test_with_nobody_else_to_ask_a_request_is_not_turned_away(process: Process) -> None:
    """It makes a call of its own, as it would if the trial were of its own process."""

    async def scenario() -> None:
        back = Gated()
        meshes = [process(a=back), process(a=back)]
        put_on_probation(*meshes)
        asked = [asyncio.ensure_future(ask(mesh)) for mesh in meshes]
        await until(lambda: back.calls == 2)
        back.gate.set()
        assert await asyncio.gather(*asked) == ["a", "a"]

    asyncio.run(scenario())


def test_a_model_that_returns_during_the_retries_is_called_whoever_tries_it(process: Process) -> None:
    """With nobody else left, a trial in another process is no reason to fail."""

    async def scenario() -> None:
        back, failing = Gated(), Meddling(2)
        first, second = process(a=back), process(a=ScriptedProvider(), b=failing, retries=1)
        put_on_probation(first)
        trial = asyncio.ensure_future(ask(first))
        await until(lambda: back.calls == 1)
        place = member(second)
        now = place.pool.clock.monotonic()
        place.pool.deactivate_member(place, "quota_exhausted", rest=60.0, now=now, told=False)
        failing.act = lambda: put_on_probation(second)

        assert await ask(second) == "a"
        back.gate.set()
        await trial

    asyncio.run(scenario())


def test_the_retry_of_a_lonely_model_is_made_whoever_tries_it(process: Process) -> None:
    """It came back during the wait: another process's trial uses no retry up."""

    async def scenario() -> None:
        back, failing = Gated(), Meddling(1)
        first, second = process(a=back), process(a=failing, retries=1)
        put_on_probation(first)
        trial = asyncio.ensure_future(ask(first))
        await until(lambda: back.calls == 1)
        failing.act = lambda: put_on_probation(second)

        assert await ask(second) == "a"
        back.gate.set()
        await trial

    asyncio.run(scenario())


def test_while_the_lock_is_asked_for_the_others_of_the_process_take_it_for_tried(process: Process) -> None:
    """They ask somebody else at once, rather than wait for the store as well."""

    async def scenario() -> None:
        mesh = process(a=ScriptedProvider(), b=ScriptedProvider())
        put_on_probation(mesh)
        store: Any = mesh._built().state_store
        lock, asked, gate = store.lock, list[str](), threading.Event()

        async def slow(name: str, *, expires_in: float) -> Any:
            asked.append(name)
            await until(gate.is_set)
            return await lock(name, expires_in=expires_in)

        store.lock = slow
        first = asyncio.ensure_future(ask(mesh))
        await until(lambda: bool(asked))

        assert member(mesh).is_on_trial()
        assert [await ask(mesh), await ask(mesh)] == ["b", "b"]
        assert asked == ["trial/a"]
        gate.set()
        assert await first == "a"
        assert not member(mesh).is_on_trial()

    asyncio.run(scenario())


def test_while_the_store_is_down_each_process_tries_for_itself(process: Process) -> None:
    """And nobody waits longer than for one call to the store."""

    async def scenario() -> None:
        mesh = process(a=ScriptedProvider(), b=ScriptedProvider())
        put_on_probation(mesh)
        store: Any = mesh._built().state_store

        async def down(*_: Any, **__: Any) -> None:
            raise StateStoreError("down")

        store.lock = down
        assert await ask(mesh) == "a"
        assert not member(mesh).probation

    asyncio.run(scenario())


def test_a_slow_store_makes_no_request_later_than_its_deadline(process: Process) -> None:
    """Whoever has a moment left does not spend a longer one on finding out who tries a model."""

    async def scenario() -> float:
        mesh = process(a=ScriptedProvider())
        put_on_probation(mesh)
        store: Any = mesh._built().state_store
        store.lock = lambda *_, **__: asyncio.Event().wait()
        request = CompletionRequest([{"role": "user", "content": "hi"}], metadata={"deadline": 0.02})
        started = time.monotonic()
        with pytest.raises(DeadlineExceededError):
            await mesh.get_router().acomplete(POOL, request)
        return time.monotonic() - started

    assert asyncio.run(scenario()) < 0.15  # the store's own limit is 0.2 s


def test_models_that_did_not_rest_pay_nothing(process: Process) -> None:
    """The store is asked for a lock only by who has just come back."""

    async def scenario() -> list[str]:
        mesh = process(a=ScriptedProvider(), b=ScriptedProvider())
        store: Any = mesh._built().state_store
        asked: list[str] = []
        lock = store.lock

        async def counted(name: str, *, expires_in: float) -> Any:
            asked.append(name)
            return await lock(name, expires_in=expires_in)

        store.lock = counted
        await ask(mesh)
        put_on_probation(mesh)
        await ask(mesh)
        await ask(mesh)
        return asked

    assert asyncio.run(scenario()) == ["trial/a"]
