"""Sums over a span of time, and a history of them packed so small that a week of hours fits for thousands of models."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from struct import Struct

from modelmesh.histogram import LogHistogram
from modelmesh.interfaces.observability import AggregateStats

_HEAD = Struct("<Iddddd")
"""Length of the record, then start, last update, cost, sum of latencies and downtime."""


class Figures:
    """Sums over one span of time.

    Attributes:
        start: Unix time at which the span begins.
        updated: Unix time of the newest observation.
        cost: USD.
        latency_ms: Sum over all requests whose latency is known.
        downtime: Seconds.
    """

    __slots__ = (
        "cost",
        "downtime",
        "failures",
        "latencies",
        "latency_ms",
        "requests",
        "rotations",
        "start",
        "tokens_in",
        "tokens_out",
        "updated",
    )

    def __init__(self, start: float) -> None:
        self.start = start
        self.requests = 0
        self.failures = 0
        self.tokens_in = 0
        self.tokens_out = 0
        self.cost = 0.0
        self.latency_ms = 0.0
        self.rotations = 0
        self.downtime = 0.0
        self.updated = start
        self.latencies = LogHistogram()

    def is_empty(self) -> bool:
        """Whether nothing was observed."""
        return not (self.requests or self.rotations or self.downtime)

    def merge(self, other: Figures) -> None:
        """Add another span's sums."""
        self.requests += other.requests
        self.failures += other.failures
        self.tokens_in += other.tokens_in
        self.tokens_out += other.tokens_out
        self.cost += other.cost
        self.latency_ms += other.latency_ms
        self.rotations += other.rotations
        self.downtime += other.downtime
        self.updated = max(self.updated, other.updated)
        self.latencies.merge(other.latencies)

    def aggregate(self) -> AggregateStats:
        """Return the figures as they are handed out."""
        requests = self.requests
        return AggregateStats(
            total_requests=requests,
            successful_requests=requests - self.failures,
            failed_requests=self.failures,
            total_tokens_in=self.tokens_in,
            total_tokens_out=self.tokens_out,
            total_cost=self.cost,
            # Requests of a provider's batch have no latency: the mean is of those that have.
            avg_latency_ms=self.latency_ms / self.latencies.count if self.latencies.count else 0.0,
            p50_latency_ms=self.latencies.percentile(0.50),
            p95_latency_ms=self.latencies.percentile(0.95),
            p99_latency_ms=self.latencies.percentile(0.99),
            error_rate=self.failures / requests if requests else 0.0,
            rotation_events=self.rotations,
            last_updated=datetime.fromtimestamp(self.updated, UTC),
            downtime_total=self.downtime,
        )


class History:
    """Spans that are over, oldest first, as bytes: a hundred or so a span instead of a kilobyte of objects."""

    __slots__ = ("_data",)

    def __init__(self) -> None:
        self._data = bytearray()

    def append(self, figures: Figures) -> None:
        """Take a span in; later changes to the object are none of the history's."""
        body = bytearray()
        whole = (figures.requests, figures.failures, figures.tokens_in, figures.tokens_out, figures.rotations)
        _put(body, whole)
        before = 0
        for index, number in figures.latencies.buckets():
            _put(body, (index - before, number))
            before = index
        self._data += _HEAD.pack(
            _HEAD.size + len(body),
            figures.start,
            figures.updated,
            figures.cost,
            figures.latency_ms,
            figures.downtime,
        )
        self._data += body

    def forget(self, until: float) -> None:
        """Drop the oldest spans as long as they begin at or before a Unix time."""
        end = 0
        while end < len(self._data):
            length, start, *_ = _HEAD.unpack_from(self._data, end)
            if start > until:
                break
            end += length
        if end:
            del self._data[:end]

    def packed(self) -> bytes:
        """Return a copy that `add_up` reads, so that reading needs no lock."""
        return bytes(self._data)


def add_up(packed: bytes, total: Figures) -> None:
    """Add every span of a packed history to a total."""
    start = 0
    while start < len(packed):
        length, _, updated, cost, latency_ms, downtime = _HEAD.unpack_from(packed, start)
        values = _whole_numbers(packed, start + _HEAD.size, start + length)
        total.requests += values[0]
        total.failures += values[1]
        total.tokens_in += values[2]
        total.tokens_out += values[3]
        total.rotations += values[4]
        total.cost += cost
        total.latency_ms += latency_ms
        total.downtime += downtime
        total.updated = max(total.updated, updated)
        index = 0
        for place in range(5, len(values), 2):
            index += values[place]
            total.latencies.add_bucket(index, values[place + 1])
        start += length


def _put(into: bytearray, values: Iterable[int]) -> None:
    """Write whole numbers, seven bits a byte, the sign in the lowest: most take one byte."""
    for value in values:
        left = value << 1 if value >= 0 else ~(value << 1)
        while left > 0x7F:
            into.append(left & 0x7F | 0x80)
            left >>= 7
        into.append(left)


def _whole_numbers(packed: bytes, start: int, end: int) -> list[int]:
    """Read what `_put` wrote."""
    values: list[int] = []
    value = shift = 0
    for byte in packed[start:end]:
        value |= (byte & 0x7F) << shift
        if byte & 0x80:
            shift += 7
            continue
        values.append(~(value >> 1) if value & 1 else value >> 1)
        value = shift = 0
    return values
