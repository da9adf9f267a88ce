"""Stay with one model until it fails, then with the next: the default."""

from __future__ import annotations

from collections.abc import Sequence

from modelmesh.interfaces.strategy import Candidate, SelectionRequest
from modelmesh_cdk.strategy import NoConfig, SequentialStrategy


class StickUntilFailure(SequentialStrategy[NoConfig]):
    """Keeps its current model while that is active, then moves on to the next one in pool order, circularly.

    A model that recovers does not take the traffic back. Prompt caches stay warm, and free quotas are used up one
    after the other.
    """

    def __init__(self, config: NoConfig | None = None) -> None:
        super().__init__(config)
        self._current: str | None = None

    def choose(self, candidates: Sequence[Candidate], request: SelectionRequest) -> tuple[Candidate, str]:
        """Return the current model, or the first active one after its place."""
        if self._current is None:
            return candidates[0], "first"
        placed = self.in_order(candidates)
        current = placed.get(self._current)
        if current is not None:
            return current, "current"
        return placed.at_or_after(self._current), "next"

    def commit(self, chosen: Candidate, request: SelectionRequest) -> None:
        """Make the chosen model the current one."""
        self._current = chosen.model_id

    def score(self, candidate: Candidate, request: SelectionRequest) -> float:
        """Rate the current model 1.0, and each further one less, by its distance in pool order."""
        order = self.pool_order
        if self._current is None or self._current not in order or candidate.model_id == self._current:
            return 1.0
        distance = (order.index(candidate.model_id) - order.index(self._current)) % len(order)
        return 1.0 - distance / len(order)
