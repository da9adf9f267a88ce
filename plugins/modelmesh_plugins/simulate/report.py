"""Figures of a simulated scenario: over all, by provider, and from one event to the next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from modelmesh_plugins.simulate.run import Asked, Simulated


@dataclass(frozen=True, slots=True)
class Figures:
    """What requests of one span took.

    Attributes:
        title: Which span.
        start: Of it, in seconds from the start.
        end: Likewise.
        requests: Made in it.
        failed: Of these, without an answer.
        p50: Median seconds to an answer; None when there was none.
        p95: The 95th percentile.
        cost: USD.
        calls: To providers.
        answered_by: Answers of each provider, the most first.
        errors: How often each error came, the most frequent first.
    """

    title: str
    start: float
    end: float
    requests: int
    failed: int
    p50: float | None
    p95: float | None
    cost: float
    calls: int
    answered_by: dict[str, int]
    errors: dict[str, int]

    @classmethod
    def of(cls, asked: Sequence[Asked], *, title: str = "", start: float = 0.0, end: float = 0.0) -> Figures:
        """Sum requests up."""
        latencies = sorted(each.latency for each in asked if not each.error)
        return cls(
            title,
            start,
            end,
            len(asked),
            sum(1 for each in asked if each.error),
            quantile(latencies, 0.5),
            quantile(latencies, 0.95),
            sum(each.cost for each in asked),
            sum(each.calls for each in asked),
            dict(Counter(each.provider for each in asked if each.provider).most_common()),
            dict(Counter(each.error for each in asked if each.error).most_common()),
        )

    @property
    def error_rate(self) -> float:
        """0.0-1.0."""
        return self.failed / self.requests if self.requests else 0.0


def total(found: Simulated) -> Figures:
    """Return the figures of the whole scenario."""
    return Figures.of(found.asked, title="all", end=found.scenario.duration)


def spans(found: Simulated) -> list[Figures]:
    """Return the figures from one event, or end of an event, to the next."""
    events, duration = found.scenario.events, found.scenario.duration
    edges = sorted({0.0, duration, *(each.at for each in events), *(min(each.ends, duration) for each in events)})
    figures = []
    for start, end in pairwise(edges):
        on = [event.title for event in events if event.at <= start < event.ends]
        inside = [each for each in found.asked if start <= each.at < end]
        figures.append(Figures.of(inside, title=", ".join(on), start=start, end=end))
    return figures


def steps(found: Simulated, count: int = 120) -> list[Figures]:
    """Return the figures of so many equal spans, for a plot."""
    width = found.scenario.duration / count
    sorted_in: list[list[Asked]] = [[] for _ in range(count)]
    for each in found.asked:
        sorted_in[min(count - 1, int(each.at / width))].append(each)
    return [Figures.of(inside, start=place * width, end=(place + 1) * width) for place, inside in enumerate(sorted_in)]


def as_json(found: Simulated) -> dict[str, Any]:
    """Return all figures as plain data."""
    return {
        "pool": found.pool,
        "total": _plain(total(found)),
        "spans": [_plain(each) for each in spans(found)],
        "providers": [
            {
                "provider": each.name,
                "calls": each.calls,
                "failures": each.failures,
                "quota_used": each.taken,
                "quota": each.quota,
                "cost_usd": each.cost,
            }
            for each in found.providers.values()
        ],
    }


def quantile(ordered: Sequence[float], share: float) -> float | None:
    """Return the value that so great a share of ordered ones does not pass; None of nothing."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None


def _plain(figures: Figures) -> dict[str, Any]:
    return {
        "events": figures.title,
        "start_seconds": figures.start,
        "end_seconds": figures.end,
        "requests": figures.requests,
        "failed": figures.failed,
        "error_rate": figures.error_rate,
        "latency_p50_seconds": figures.p50,
        "latency_p95_seconds": figures.p95,
        "cost_usd": figures.cost,
        "calls": figures.calls,
        "answered_by": figures.answered_by,
        "errors": figures.errors,
    }
