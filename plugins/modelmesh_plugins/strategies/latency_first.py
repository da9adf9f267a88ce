"""The fastest model first."""

from __future__ import annotations

from collections.abc import Mapping

from modelmesh.interfaces.strategy import Candidate, SelectionRequest
from modelmesh_cdk.figures import neutral
from modelmesh_cdk.ordering import Board, Order, OrderedStrategy
from modelmesh_cdk.strategy import NoConfig


class LatencyOrder(Order):
    """The order, and what stood in for unknown latencies in it."""

    def __init__(self, figures: Mapping[str, float | None]) -> None:
        self.neutral = neutral([seconds for seconds in figures.values() if seconds is not None])
        seconds = {name: self.neutral if known is None else known for name, known in figures.items()}
        super().__init__(sorted(seconds, key=seconds.__getitem__))


class LatencyFirst(OrderedStrategy[NoConfig, float | None]):
    """Takes the active model with the lowest mean latency over its recent answers; ties in pool order.

    A model without any counts as the median of those with some, so that it is tried before the slow half. The score is
    minus that mean, in seconds.
    """

    def __init__(self, config: NoConfig | None = None) -> None:
        super().__init__(config)
        self._neutral = 0.0

    def read(self, candidate: Candidate) -> float | None:
        """Return mean seconds."""
        return candidate.latency_avg

    def arrange(self, figures: Mapping[str, float | None]) -> Order:
        """Sort by seconds, with the median in place of unknown ones."""
        order = LatencyOrder(figures)
        self._neutral = order.neutral
        return order

    def reason(self, board: Board[float | None]) -> str:
        """Say whether there was anything to compare."""
        return "no history" if board.figures[board.order.ids[0]] is None else "lowest latency"

    def score(self, candidate: Candidate, request: SelectionRequest) -> float:
        """Rate by minus mean seconds."""
        seconds = candidate.latency_avg
        return -(self._neutral if seconds is None else seconds)
