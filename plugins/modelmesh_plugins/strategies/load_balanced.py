"""Traffic in proportion to what is left of each model's limits."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from modelmesh.interfaces.strategy import Candidate, SelectionRequest
from modelmesh_cdk.figures import HeadroomReader, neutral
from modelmesh_cdk.ordering import Order, OrderedStrategy

GOLDEN = 0.6180339887498949
"""Steps of this part of a circle fall as evenly over it as any steps can, however many there are."""


class BalanceConfig(BaseModel):
    """Settings of load-balanced, in the pool's section."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    balance_mode: Literal["relative", "absolute"] = Field(
        default="relative",
        description="relative: weigh models by the share of their limit that is left; absolute: by the requests left.",
    )
    sampling: Literal["random", "smooth"] = Field(
        default="random", description="random: draw by weight; smooth: the same shares in an even, repeatable sequence."
    )


class Shares(Order):
    """The order by weight, and the weights; candidates in pool order."""

    def __init__(self, figures: Mapping[str, float | None]) -> None:
        middle = neutral([weight for weight in figures.values() if weight is not None])
        weights = {name: middle if weight is None else weight for name, weight in figures.items()}
        total = sum(weights.values())
        if total <= 0:
            weights = dict.fromkeys(weights, 1.0)
            total = float(len(weights))
        super().__init__(sorted(weights, key=lambda name: -weights[name]))
        self.shares = {name: weight / total for name, weight in weights.items()}
        self.names = list(weights)
        self.ends = list(accumulate(weights.values()))

    def at(self, point: float) -> str:
        """Return whose part of the whole a point from [0, 1) falls into."""
        # The last end rather than 1.0, and never beyond the last name: sums of floats are not exact. Those without any
        # weight end where they begin, so no point falls into them.
        place = bisect_right(self.ends, point * self.ends[-1])
        while place >= len(self.names) or not self.shares[self.names[place]]:
            place -= 1
        return self.names[place]


class LoadBalanced(OrderedStrategy[BalanceConfig, float | None]):
    """Draws an active model by weight: what is left of its provider's limit, as far as the provider says.

    A model of which nothing is known weighs as much as the median of the others; when nothing is left anywhere, or
    nothing known, all weigh alike. The score is the model's share of the whole. A failing model's traffic goes to the
    others by falling weight.
    """

    config_model = BalanceConfig

    def __init__(self, config: BalanceConfig | None = None) -> None:
        super().__init__(config)
        self._headroom = HeadroomReader()
        self._shares: Mapping[str, float] = {}
        self._point: float | None = None

    def pool_changed(self, pool_order: Sequence[str]) -> None:
        """Forget members that left."""
        super().pool_changed(pool_order)
        self._headroom.forget_all_but(frozenset(pool_order))

    def read(self, candidate: Candidate) -> float | None:
        """Return the weight; None if it is not known."""
        left = self._headroom.read(candidate, self.context.clock.monotonic())
        if left is None:
            return None
        return left.share if self.config.balance_mode == "relative" else left.remaining

    def stale_at(self) -> float:
        """Return when the next provider's window ends."""
        return self._headroom.next_end(self.context.clock.monotonic())

    def arrange(self, figures: Mapping[str, float | None]) -> Order:
        """Sort by falling weight, and add the weights up."""
        return Shares(figures)

    def choose(self, candidates: Sequence[Candidate], request: SelectionRequest) -> tuple[Candidate, str]:
        """Return the candidate that the point drawn for this choice falls on."""
        board = self.board(candidates)
        assert isinstance(board.order, Shares)
        self._shares = board.order.shares
        # Drawn once for looking and choosing: an explanation shows the choice that is made next.
        if self._point is None:
            self._point = self.context.random.random() if self.config.sampling == "random" else 0.5
        return board.candidate(board.order.at(self._point)), f"weight {self.config.balance_mode}"

    def commit(self, chosen: Candidate, request: SelectionRequest) -> None:
        """Use up the point."""
        if self.config.sampling == "random":
            self._point = None
        elif self._point is not None:
            self._point = (self._point + GOLDEN) % 1.0

    def score(self, candidate: Candidate, request: SelectionRequest) -> float:
        """Rate by the share of the traffic among those who stood to be chosen last."""
        return self._shares.get(candidate.model_id, 0.0)
