"""Strategies on a bench: a clock and draws in the test's hands, and candidates in one line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from modelmesh.interfaces.strategy import Candidate, ModelSnapshot, SelectionRequest, SelectionResult
from modelmesh_cdk.strategy import BaseStrategy
from modelmesh_cdk.testing import FakeClock, FakeRandom
from modelmesh_cdk.testing.clock import context


class Bench:
    """One strategy and the pool it chooses from."""

    def __init__(self, strategy: BaseStrategy[Any], members: Sequence[ModelSnapshot], draws: Sequence[float]) -> None:
        self.strategy = strategy
        self.members = list(members)
        self.clock = FakeClock()
        strategy.bind(context("chat", clock=self.clock, random=FakeRandom(*draws)))
        strategy.pool_changed([member.model_id for member in members])

    def member(self, model: str) -> ModelSnapshot:
        """Return a member, to change its figures."""
        return next(each for each in self.members if each.model_id == model)

    def active(self, names: str | None) -> list[ModelSnapshot]:
        """Return the members of these letters, by default all."""
        return [each for each in self.members if names is None or each.model_id in names]

    def result(self, names: str | None = None, session: str | None = None) -> SelectionResult:
        """Choose among the members of these letters."""
        return self.strategy.select(self.active(names), SelectionRequest(session_id=session))

    def choose(self, names: str | None = None, session: str | None = None) -> str:
        """Choose among the members of these letters; return the model's letter."""
        return self.result(names, session).model_id

    def ranked(self, selected: str, names: str | None = None, session: str | None = None) -> str:
        """Return the letters of those tried next."""
        chosen = SelectionResult(selected, "", 0.0)
        ranked: Sequence[Candidate] = self.strategy.rank(
            self.active(names), SelectionRequest(session_id=session), chosen
        )
        return "".join(candidate.model_id for candidate in ranked)

    def score(self, model: str) -> float:
        """Rate one member."""
        return self.strategy.score(self.member(model), SelectionRequest())


@pytest.fixture
def bench() -> Callable[..., Bench]:
    """Put a strategy on the bench; a keyword of one letter is a member with these figures, at ``p<letter>``."""

    def make(strategy: BaseStrategy[Any], *, draws: Sequence[float] = (), **members: dict[str, Any]) -> Bench:
        snapshots = [
            ModelSnapshot(**{"model_id": name, "provider_id": f"p{name}", **figures})
            for name, figures in members.items()
        ]
        return Bench(strategy, snapshots, draws)

    return make
