"""Each model in turn."""

from __future__ import annotations

from collections.abc import Sequence

from modelmesh.interfaces.strategy import Candidate, SelectionRequest
from modelmesh_cdk.strategy import NoConfig, SequentialStrategy


class RoundRobin(SequentialStrategy[NoConfig]):
    """Goes through the pool in order; standby models are skipped and keep their place."""

    def __init__(self, config: NoConfig | None = None) -> None:
        super().__init__(config)
        self._last: str | None = None

    def choose(self, candidates: Sequence[Candidate], request: SelectionRequest) -> tuple[Candidate, str]:
        """Return the first active model behind the one chosen last."""
        if self._last is None:
            return candidates[0], "turn"
        return self.in_order(candidates).following(self._last), "turn"

    def commit(self, chosen: Candidate, request: SelectionRequest) -> None:
        """Move the pointer."""
        self._last = chosen.model_id

    def score(self, candidate: Candidate, request: SelectionRequest) -> float:
        """Rate all alike: the turn decides."""
        return 1.0
