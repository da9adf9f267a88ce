"""The figures strategies compare candidates by: price, latency, and what is left of a provider's limits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median

from modelmesh.interfaces.provider import ModelPricing, RateLimitStatus
from modelmesh.interfaces.strategy import Candidate

TOKENS_PER_REQUEST = 1_000
"""Stands for an average request where a price per request meets prices per token, or tokens left meet requests left."""

NEVER = math.inf
"""When a figure that time does not change has to be read again."""


def price_per_token(pricing: ModelPricing | None, *, output_share: float = 0.5) -> float | None:
    """Return the price of an average token in USD, or None when no price is known.

    Args:
        pricing: As declared.
        output_share: Which part of a request's tokens comes out, 0.0-1.0.
    """
    if pricing is None:
        return None
    tokens = (1.0 - output_share) * pricing.input_per_1k_tokens + output_share * pricing.output_per_1k_tokens
    return tokens / 1_000.0 + (pricing.per_request or 0.0) / TOKENS_PER_REQUEST


def neutral(known: list[float]) -> float:
    """Return what stands in for an unknown figure: the median of the known ones, 0.0 when there is none."""
    return median(known) if known else 0.0


@dataclass(frozen=True, slots=True)
class Headroom:
    """What is left of a model's limits.

    Attributes:
        remaining: Requests; tokens are counted as requests of `TOKENS_PER_REQUEST`. The tighter of both limits.
        share: Of the limit, 0.0-1.0, the tighter of both; None when no limit was named.
    """

    remaining: float
    share: float | None

    @property
    def usage(self) -> float:
        """Share of the limit that is used up; 0.0 when no limit was named."""
        return 0.0 if self.share is None else 1.0 - self.share


class HeadroomReader:
    """Reads headroom off candidates, and knows how old what it reads is.

    A provider says how long its window still runs, not when it said so. The reader notes when it first saw each of
    these reports; once the window has run out since, the limit is fresh whatever the report says.
    """

    def __init__(self) -> None:
        self._reports: dict[str, _Report] = {}

    def read(self, candidate: Candidate, now: float) -> Headroom | None:
        """Return what is left, or None when the provider never said.

        Args:
            candidate: The model.
            now: Monotonic time.
        """
        report = self._report(candidate, now)
        if report is None:
            return None
        return report.said if now < report.ends else report.fresh

    def window_ends(self, candidate: Candidate, now: float) -> float | None:
        """Return the monotonic time at which the first of a model's windows is fresh again; None if nobody said."""
        report = self._report(candidate, now)
        return None if report is None or report.ends == NEVER else report.ends

    def next_end(self, now: float) -> float:
        """Return the monotonic time at which the next window ends: what was read holds no longer than that."""
        return min((report.ends for report in self._reports.values() if report.ends > now), default=NEVER)

    def forget_all_but(self, model_ids: frozenset[str]) -> None:
        """Drop what was noted about models that left the pool."""
        for gone in self._reports.keys() - model_ids:
            del self._reports[gone]

    def _report(self, candidate: Candidate, now: float) -> _Report | None:
        status = candidate.rate_limits
        if status is None:
            return None
        report = self._reports.get(candidate.model_id)
        if report is None or (report.status is not status and report.status != status):
            report = self._reports[candidate.model_id] = _Report(status, now)
        return report


class _Report:
    """What a provider said, when its window ends, and what is left before and after that."""

    __slots__ = ("ends", "fresh", "said", "status")

    def __init__(self, status: RateLimitStatus, now: float) -> None:
        self.status = status
        self.ends = NEVER if status.reset_seconds is None else now + status.reset_seconds
        self.said = _headroom(
            status.requests_remaining, status.requests_limit, status.tokens_remaining, status.tokens_limit
        )
        self.fresh = _headroom(status.requests_limit, status.requests_limit, status.tokens_limit, status.tokens_limit)


def _headroom(
    requests: int | None, requests_limit: int | None, tokens: int | None, tokens_limit: int | None
) -> Headroom | None:
    left: list[float] = []
    shares: list[float] = []
    for remaining, limit, unit in ((requests, requests_limit, 1), (tokens, tokens_limit, TOKENS_PER_REQUEST)):
        if remaining is None:
            continue
        left.append(max(0.0, remaining / unit))
        if limit:
            shares.append(min(1.0, max(0.0, remaining / limit)))
    return Headroom(min(left), min(shares, default=None)) if left else None
