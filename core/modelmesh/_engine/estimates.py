"""What a request will take, as far as can be known before it is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Any

from modelmesh._engine.limit_rules import within_bounds
from modelmesh._engine.tokens import estimate_prompt
from modelmesh.interfaces.ledger import NANO_USD
from modelmesh.interfaces.provider import ModelPricing, TokenUsage

if TYPE_CHECKING:
    from modelmesh._engine.limit_rules import Limit
    from modelmesh._engine.member import Member

UNKNOWN_OUTPUT_TOKENS = 1_024
"""Output tokens counted on where neither the request nor the model says how many there may be."""

_PROMPT_MARGIN = 1.25
"""How much larger than estimated a prompt is taken to be: estimates err on the side of having spent."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a request takes.

    Attributes:
        tokens: Input and output.
        nano_usd: Their price; None where it is not known.
        is_bounded: Whether it is the most there can be, since the caller limited the output; otherwise a guess.
        least_tokens: Input alone, as estimated and no more.
        least_nano_usd: The price of that, with no output.
        tokens_out: Output alone.
    """

    tokens: int
    nano_usd: int | None
    is_bounded: bool
    least_tokens: int = 0
    least_nano_usd: int = 0
    tokens_out: int = 0

    def least(self, limit: Limit) -> int:
        """Return what it takes at any rate, in a limit's unit."""
        if limit.unit == "tokens":
            return self.least_tokens
        return self.of(limit) if self.nano_usd is None else self.least_nano_usd

    def of(self, limit: Limit) -> int:
        """Return it in a limit's unit."""
        if limit.unit == "requests":
            return 1
        if limit.unit == "tokens":
            return self.tokens
        return limit.unpriced if self.nano_usd is None else self.nano_usd


def estimated(payload: Mapping[str, Any], member: Member, pricing: ModelPricing | None = None) -> Estimate:
    """Return what a request takes, as far as can be known before it is made, at these prices or the model's own.

    Output is bounded by the request's ``max_completion_tokens`` or ``max_tokens``. Where it has none, it is taken to be
    `UNKNOWN_OUTPUT_TOKENS`, or the model's ``max_output_tokens`` if that is less; an answer may then pass it.
    """
    prompt = estimate_prompt(payload)
    tokens_in = int(prompt * _PROMPT_MARGIN) + 8
    asked = payload.get("max_completion_tokens") or payload.get("max_tokens")
    answers = payload.get("n")
    is_bounded = isinstance(asked, int) or "messages" not in payload
    if not isinstance(asked, int):
        declared = member.model.definition.constraints.get("max_output_tokens")
        asked = min(declared or UNKNOWN_OUTPUT_TOKENS, UNKNOWN_OUTPUT_TOKENS) if "messages" in payload else 0
    tokens_out = within_bounds(asked * answers if isinstance(answers, int) and answers > 0 else asked)
    pricing = pricing or member.model.definition.pricing
    cost, least = None, 0
    if pricing is not None:
        cost = ceil(round(pricing.cost(TokenUsage(tokens_in, tokens_out)) * NANO_USD, 3))
        least = ceil(round(pricing.cost(TokenUsage(prompt, 0)) * NANO_USD, 3))
    return Estimate(tokens_in + tokens_out, cost, is_bounded, prompt, least, tokens_out)
