"""Limits while their store is down: money stops, rates go on in this process, and nobody waits for the store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from modelmesh import ModelMesh, PluginHost
from modelmesh._engine.guarded_ledger import GuardedLedger
from modelmesh.errors import AllProvidersExhaustedError, QuotaExhaustedError, StateStoreError
from modelmesh.interfaces.ledger import WindowClaim
from modelmesh.interfaces.state_store import StoreGuarantees
from modelmesh.router import CompletionRequest
from modelmesh_cdk.testing import FakeClock, ScriptedProvider
from modelmesh_plugins.state_stores.memory import MemoryStateStore

DOWN = "redis at 10.1.2.3:6379 cannot be reached"
CLAIM = [WindowClaim("budget/x", 1, 10, 60.0)]


class Shaky(MemoryStateStore):
    """A store that others share, and that does not always answer."""

    guarantees = StoreGuarantees(survives_restart=True, shared_between_processes=True)
    trouble: str | None = None
    calls = 0

    async def reserve(self, *args: Any, **facts: Any) -> Any:
        type(self).calls += 1
        if self.trouble == "silent":
            await asyncio.get_running_loop().create_future()
        if self.trouble == "down":
            raise StateStoreError(DOWN)
        return await super().reserve(*args, **facts)


@pytest.fixture(autouse=True)
def _calm() -> Iterator[None]:
    yield
    Shaky.trouble, Shaky.calls = None, 0


def guarded(clock: FakeClock, lines: list[tuple[str, str | None]]) -> GuardedLedger:
    """Return a guard around a shaky store."""
    return GuardedLedger(Shaky(), clock, timeout=0.02, told=lambda *told: lines.append(told))


async def outcome(ledger: GuardedLedger, reservation: str) -> str:
    """Try a claim; return what came of it."""
    try:
        verdict = await ledger.reserve(reservation, CLAIM, lease=60.0)
    except StateStoreError as error:
        return str(error)
    return "granted" if verdict.granted else "refused"


@pytest.mark.parametrize("trouble", ["down", "silent"])
def test_a_store_that_fails_is_left_alone_for_a_while(trouble: str) -> None:
    """The first call waits its short limit, those after it do not even ask."""
    clock, lines = FakeClock(), list[tuple[str, str | None]]()
    ledger = guarded(clock, lines)
    Shaky.trouble = trouble

    async def three() -> list[str]:
        return [await outcome(ledger, str(number)) for number in range(3)]

    said = asyncio.run(three())

    assert Shaky.calls == 1
    assert said[1:] == ["the state store does not answer; it is asked again in a moment"] * 2
    why = DOWN if trouble == "down" else "the state store did not answer within 0.02 s"
    assert lines == [("the state store does not answer; limits are kept as on_store_error says", why)]


def test_a_store_that_is_back_is_used_again_without_a_restart() -> None:
    """At most two seconds later."""
    clock, lines = FakeClock(), list[tuple[str, str | None]]()
    ledger = guarded(clock, lines)

    async def scenario() -> str:
        Shaky.trouble = "down"
        for number in range(20):
            await outcome(ledger, f"a{number}")
            clock.advance(5.0)
        Shaky.trouble = None
        clock.advance(5.0)
        return await outcome(ledger, "b")

    assert asyncio.run(scenario()) == "granted"
    assert lines[-1] == ("the state store answers again", None)


def test_many_calls_that_fail_at_once_make_no_long_rest() -> None:
    """A hundred requests meet one failure: the store is asked again after half a second."""
    clock, lines = FakeClock(), list[tuple[str, str | None]]()
    ledger = guarded(clock, lines)

    async def scenario() -> str:
        Shaky.trouble = "silent"
        await asyncio.gather(*(outcome(ledger, f"a{number}") for number in range(100)))
        Shaky.trouble = None
        clock.advance(0.5)
        return await outcome(ledger, "b")

    assert asyncio.run(scenario()) == "granted"
    assert len(lines) == 2


def test_one_call_finds_out_whether_it_is_back() -> None:
    """The others do not wait for a store that is still silent."""
    clock = FakeClock()
    ledger = guarded(clock, [])

    async def scenario() -> list[str]:
        Shaky.trouble = "silent"
        await outcome(ledger, "first")
        clock.advance(0.5)
        return await asyncio.gather(*(outcome(ledger, f"{number}") for number in range(10)))

    said = asyncio.run(scenario())

    assert Shaky.calls == 2
    assert said.count("the state store did not answer within 0.02 s") == 1


def test_a_cancelled_try_leaves_room_for_the_next() -> None:
    """The caller went away before anybody knew."""
    clock = FakeClock()
    ledger = guarded(clock, [])

    async def scenario() -> str:
        Shaky.trouble = "silent"
        await outcome(ledger, "first")
        clock.advance(0.5)
        trying = asyncio.ensure_future(outcome(ledger, "second"))
        await asyncio.sleep(0)
        trying.cancel()
        await asyncio.gather(trying, return_exceptions=True)
        Shaky.trouble = None
        return await outcome(ledger, "third")

    assert asyncio.run(scenario()) == "granted"


# --- through the router ------------------------------------------------------------------------


@pytest.fixture
def build() -> Iterator[Callable[..., ModelMesh]]:
    """Build a mesh of one limited model over a shaky store."""
    built: list[ModelMesh] = []

    def make(limits: dict[str, Any], **storage: Any) -> ModelMesh:
        plugins = PluginHost()
        plugins.register("state_stores", "test.shaky.v1", Shaky)
        mesh = ModelMesh(plugins=plugins, environ={})
        built.append(mesh)
        mesh.initialize(
            {
                "providers": {"p": {"instance": ScriptedProvider(), **limits}},
                "models": {
                    "m": {
                        "provider": "p",
                        "capabilities": ["chat-completion"],
                        "pricing": {"output_per_1k_tokens": 1.0},
                    }
                },
                "pools": {"chat-completion": {"retry": {"max_attempts": 0}}},
                "storage": {"connector": "test.shaky.v1", "call_timeout": "20ms", **storage},
            }
        )
        return mesh

    yield make
    for mesh in built:
        mesh.shutdown()


def ask(mesh: ModelMesh) -> str:
    """Ask; return the model, or the name of the error of the last attempt."""
    request = CompletionRequest([{"role": "user", "content": "hi"}])
    try:
        return asyncio.run(mesh.get_router().acomplete("chat-completion", request)).model
    except AllProvidersExhaustedError as error:
        return type(error.last_error).__name__


BUDGET = {"budget": {"daily_limit": 5.0}}
QUOTA = {"quota": {"requests": 100, "reset_schedule": "daily"}}
RATE = {"rate_limit": {"rpm": 100, "burst": 0.04}}


@pytest.mark.parametrize("trouble", ["down", "silent"])
@pytest.mark.parametrize(
    ("limits", "expected"),
    [(BUDGET, "QuotaExhaustedError"), (QUOTA, "QuotaExhaustedError"), (RATE, "m")],
    ids=["money", "quota", "rate"],
)
def test_by_default_money_and_quotas_stop_and_rates_go_on(
    build: Any, trouble: str, limits: dict[str, Any], expected: str
) -> None:
    """Nobody knows what is spent, so nothing more is; a rate is kept here meanwhile."""
    mesh = build(limits)
    Shaky.trouble = trouble

    assert ask(mesh) == expected


def test_a_local_rate_is_this_process_share(build: Any) -> None:
    """With two processes each keeps half: two of a burst of four."""
    mesh = build(RATE, processes=2)
    Shaky.trouble = "down"

    assert [ask(mesh) for _ in range(3)] == ["m", "m", "RateLimitError"]


def test_a_local_budget_is_this_process_share(build: Any) -> None:
    """``on_store_error: {budget: local}`` spends at most a part of the limit."""
    mesh = build({"budget": {"daily_limit": 0.002}}, processes=2, on_store_error={"budget": "local"})
    Shaky.trouble = "down"

    assert [ask(mesh) for _ in range(3)].count("m") == 1


def test_an_open_limit_waves_through(build: Any) -> None:
    """Whoever prefers answers to accounts says so."""
    mesh = build(BUDGET, on_store_error={"budget": "open"})
    Shaky.trouble = "down"

    assert [ask(mesh) for _ in range(3)] == ["m", "m", "m"]


def test_the_error_says_that_it_is_the_store(build: Any) -> None:
    """Not that the budget is used up."""
    mesh = build(BUDGET)
    Shaky.trouble = "down"

    with pytest.raises(AllProvidersExhaustedError) as caught:
        asyncio.run(
            mesh.get_router().acomplete("chat-completion", CompletionRequest([{"role": "user", "content": ""}]))
        )

    assert isinstance(caught.value.last_error, QuotaExhaustedError)
    assert caught.value.last_error.code == "store_down"
    assert "cannot be checked: the state store does not answer" in str(caught.value)
    assert DOWN not in str(caught.value)  # where the store is concerns nobody who asks
    assert str(caught.value.last_error.__cause__) == DOWN


def test_the_error_names_the_limit_that_stops(build: Any) -> None:
    """Not the first one, which lets calls through."""
    mesh = build({**BUDGET, **QUOTA}, on_store_error={"budget": "open"})
    Shaky.trouble = "down"

    with pytest.raises(AllProvidersExhaustedError, match=r"the daily quota of 100 requests .* cannot be checked"):
        asyncio.run(
            mesh.get_router().acomplete("chat-completion", CompletionRequest([{"role": "user", "content": ""}]))
        )


def test_the_store_is_used_again_when_it_is_back(build: Any) -> None:
    """What was kept here meanwhile is over."""
    mesh = build(BUDGET)
    Shaky.trouble = "down"
    before = ask(mesh)
    Shaky.trouble = None
    limits = mesh.get_router()._engine.driver.limits
    limits._ledger._down_until = 0.0

    assert (before, ask(mesh)) == ("QuotaExhaustedError", "m")
