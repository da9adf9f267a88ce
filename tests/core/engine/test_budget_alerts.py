"""Warnings of budgets: one a window when the threshold is passed, wherever the budget is kept."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from modelmesh import ModelMesh
from modelmesh._engine.budget_alerts import LOOK_SECONDS
from modelmesh.errors import StateStoreError
from modelmesh.interfaces.observability import Severity, TraceEntry
from modelmesh.router import CompletionRequest
from modelmesh_cdk.testing import FakeClock, ScriptedProvider, answer

POOL = "chat-completion"
DAY = 86_400.0
WARNING = "the daily budget of $0.10 for provider 'a': 80% is spent"


class World:
    """A mesh that may spend ten cents a day; each answer costs one."""

    def __init__(self, sink: Any, storage: dict[str, Any] | None, **budget: Any) -> None:
        self.clock = FakeClock(time=1_795_000_000.0)
        self.sink = sink
        self.mesh = ModelMesh(environ={}, clock=self.clock)
        self.config: dict[str, Any] = {
            "providers": {
                "a": {
                    "instance": ScriptedProvider(default=answer(tokens=10, prompt_tokens=0)),
                    "budget": {"daily_limit": 0.10, **budget},
                }
            },
            "models": {"m": {"provider": "a", "capabilities": [POOL], "pricing": {"output_per_1k_tokens": 1.0}}},
            "pools": {POOL: {}},
            "observability": {"instance": sink},
            **({"storage": {**storage, "sync_policy": "in-memory"}} if storage else {}),
        }
        self.mesh.initialize(self.config)

    def ask(self, times: int = 1, *, pause: float = LOOK_SECONDS) -> None:
        """Ask so often, with time between for a look at the books."""

        async def asked() -> None:
            limits = self.mesh._built().engine.driver.limits
            for _ in range(times):
                request = CompletionRequest([{"role": "user", "content": "hi"}], max_tokens=10)
                await self.mesh.get_router().acomplete(POOL, request)
                await limits._settlements.finish()
                self.clock.advance(pause)

        asyncio.run(asked())

    def warnings(self) -> list[str]:
        """What was said of budgets until now, once all is delivered."""
        self.mesh.shutdown()
        traces: list[TraceEntry] = self.sink.traces
        return [each.message for each in traces if each.component == "budget" and each.severity is Severity.WARNING]


@pytest.fixture(params=["here", "shared"])
def world(request: pytest.FixtureRequest, sink: Any, tmp_path: Path) -> Iterator[Callable[..., World]]:
    """Build a world whose budget is kept in this process, or in a store that others share."""
    built: list[World] = []
    shared = {"connector": "modelmesh.sqlite.v1", "path": str(tmp_path / "state.sqlite")}

    def make(**budget: Any) -> World:
        built.append(World(sink, shared if request.param == "shared" else None, **budget))
        return built[-1]

    yield make
    for each in built:
        each.mesh.shutdown()


Make = Callable[..., World]


def test_a_budget_that_comes_near_its_limit_is_warned_of_once(world: Make) -> None:
    """At the threshold, and not again with each request after it."""
    here = world(alert_threshold=0.8)

    here.ask(10)

    assert here.warnings() == [WARNING]


def test_below_the_threshold_nothing_is_said(world: Make) -> None:
    """One answer short of it."""
    here = world(alert_threshold=0.8)

    here.ask(7)

    assert here.warnings() == []


def test_without_a_threshold_nothing_is_said(world: Make) -> None:
    """Though all is spent."""
    here = world(alert_threshold=None)

    here.ask(10)

    assert here.warnings() == []


def test_the_next_day_has_a_warning_of_its_own(world: Make) -> None:
    """Once a window."""
    here = world(alert_threshold=0.8)

    here.ask(8)
    here.clock.advance(DAY)
    here.ask(8)

    assert here.warnings() == [WARNING, WARNING]


def test_a_budget_that_stops_nobody_is_warned_of(world: Make) -> None:
    """``enforce: false`` counts, and tells."""
    here = world(alert_threshold=0.8, enforce=False)

    here.ask(12)

    assert here.warnings() == [WARNING]


@pytest.mark.parametrize(
    ("limit", "warnings"),
    [(0.10, [WARNING]), (0.12, [WARNING, WARNING.replace("0.10", "0.12").replace("80%", "83%")])],
    ids=["the same limit", "a higher one"],
)
def test_a_reload_says_it_again_only_of_another_limit(world: Make, limit: float, warnings: list[str]) -> None:
    """What was told is told."""
    here = world(alert_threshold=0.8)

    here.ask(8)
    here.config["providers"]["a"]["budget"]["daily_limit"] = limit
    here.mesh.reload_config(here.config)
    here.ask(2)

    assert here.warnings() == warnings


def test_what_was_spent_in_the_last_moment_is_looked_at_in_the_end(world: Make) -> None:
    """A burst is shorter than the time between two looks."""
    here = world(alert_threshold=0.8)

    here.ask(8, pause=0.0)

    assert here.warnings() == [WARNING]


def test_a_store_is_asked_no_oftener_than_once_a_second(sink: Any, tmp_path: Path) -> None:
    """However many requests are settled there."""
    here = World(sink, {"connector": "modelmesh.sqlite.v1", "path": str(tmp_path / "state.sqlite")})
    store: Any = here.mesh._built().state_store
    asked: list[Any] = []
    balances = store.balances

    async def counted(accounts: Any) -> Any:
        asked.append(accounts)
        return await balances(accounts)

    store.balances = counted
    here.ask(8, pause=LOOK_SECONDS / 4)

    assert len(asked) == 2


def test_a_store_that_does_not_answer_the_look_harms_nothing(sink: Any, tmp_path: Path) -> None:
    """It is looked at again with the next request."""
    here = World(sink, {"connector": "modelmesh.sqlite.v1", "path": str(tmp_path / "state.sqlite")})
    store: Any = here.mesh._built().state_store
    balances = store.balances

    async def broken(accounts: Any) -> Any:
        raise StateStoreError("gone")

    store.balances = broken
    here.ask(9)
    store.balances = balances
    here.clock.advance(60.0)  # until the store is asked again
    here.ask()

    assert here.warnings() == ["the daily budget of $0.10 for provider 'a': 100% is spent"]
