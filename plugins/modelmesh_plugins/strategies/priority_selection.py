"""The most preferred model that is active, returning to it as soon as it recovers."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field

from modelmesh.errors import NoActiveModelError
from modelmesh.interfaces.strategy import Candidate, SelectionRequest, SelectionResult, SelectionStrategy
from modelmesh_cdk.preference import Preferences
from modelmesh_cdk.strategy import SequentialStrategy


class PriorityConfig(BaseModel):
    """Settings of priority-selection, in the pool's section."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    model_priority: list[str] = Field(default=[], description="Models, the most preferred first.")
    provider_priority: list[str] = Field(default=[], description="Providers, the most preferred first.")


class PrioritySelection(SequentialStrategy[PriorityConfig]):
    """Takes the first active model of ``model_priority``, else of the first provider of ``provider_priority``.

    When no listed one is active, ``fallback_strategy`` chooses among the rest (round-robin by default), or with
    ``error`` nobody does. Scores are 1000 + (n - i) for the i-th of n models, 500 + (n - i) for providers, and below 1
    for the rest.
    """

    config_model = PriorityConfig

    def __init__(self, config: PriorityConfig | None = None) -> None:
        super().__init__(config)
        self._preferences = Preferences(self.config.model_priority, self.config.provider_priority)
        self._fallback: SelectionStrategy | None = None

    def set_fallback(self, strategy: SelectionStrategy | None) -> None:
        """Receive the strategy for the rest; None for an error instead."""
        self._fallback = strategy

    def pool_changed(self, pool_order: Sequence[str]) -> None:
        """Tell the fallback, too."""
        super().pool_changed(pool_order)
        if self._fallback is not None:
            self._fallback.pool_changed(pool_order)

    def select(self, candidates: Sequence[Candidate], request: SelectionRequest) -> SelectionResult:
        """Choose; where no listed one is active the fallback does, and moves its own pointer."""
        if self._fallback is not None and self._preferences.first(self.in_order(candidates)) is None:
            return self._fallback.select(candidates, request)
        return super().select(candidates, request)

    def choose(self, candidates: Sequence[Candidate], request: SelectionRequest) -> tuple[Candidate, str]:
        """Return the most preferred candidate."""
        listed = self._preferences.first(self.in_order(candidates))
        if listed is not None:
            return listed
        if self._fallback is None:
            raise NoActiveModelError("no listed model or provider is active, and fallback_strategy is error")
        chosen = self._fallback.peek(candidates, request)
        found = self.in_order(candidates).get(chosen.model_id)
        assert found is not None
        return found, chosen.reason or "fallback"

    def rank(
        self, candidates: Sequence[Candidate], request: SelectionRequest, selected: SelectionResult
    ) -> Sequence[Candidate]:
        """Order listed ones by preference, then the rest in pool order; under ``error`` listed ones only."""
        placed = self.in_order(candidates)
        if not self._preferences:
            return placed.after(selected.model_id)
        if self._fallback is None:
            return [each for each in self._preferences.listed(placed) if each.model_id != selected.model_id]
        return self._preferences.ranked(placed, selected.model_id)

    def score(self, candidate: Candidate, request: SelectionRequest) -> float:
        """Rate by place in the lists, else by error rate."""
        return self._preferences.score(candidate)
