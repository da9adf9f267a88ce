"""The cheapest model first."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from modelmesh.interfaces.strategy import Candidate, SelectionRequest
from modelmesh_cdk.figures import price_per_token
from modelmesh_cdk.ordering import Board, OrderedStrategy

UNPRICED = 1e9
"""USD per token: sorts models without a price behind all others, and keeps their score a number."""

Cost = tuple[float, float]


class CostConfig(BaseModel):
    """Settings of cost-first, in the pool's section."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    cost_basis: Literal["price", "accumulated"] = Field(
        default="price",
        description="price: the price of a token; accumulated: what the model has cost so far in its budget period.",
    )
    output_share: float = Field(
        default=0.5, ge=0, le=1, description="Part of a request's tokens that comes out, by which the price is weighed."
    )


class CostFirst(OrderedStrategy[CostConfig, Cost]):
    """Takes the active model with the lowest price of an average token, half of it input unless told otherwise.

    Among equal prices the one that has cost less so far, then pool order. Models without a known price come last. A
    price per request counts as spread over 1,000 tokens. The score is minus the price in USD per token (or minus what
    was spent, under ``cost_basis: accumulated``).
    """

    config_model = CostConfig

    def read(self, candidate: Candidate) -> Cost:
        """Return price and cost so far, or the other way round."""
        price = price_per_token(candidate.pricing, output_share=self.config.output_share)
        known = UNPRICED if price is None else price
        spent = candidate.cost_accumulated
        return (known, spent) if self.config.cost_basis == "price" else (spent, known)

    def reason(self, board: Board[Cost]) -> str:
        """Say what was compared."""
        return "lowest price" if self.config.cost_basis == "price" else "lowest cost"

    def score(self, candidate: Candidate, request: SelectionRequest) -> float:
        """Rate by minus the price."""
        return -self.read(candidate)[0]
