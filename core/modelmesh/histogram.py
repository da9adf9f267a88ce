"""A histogram with logarithmic buckets: percentiles within one percent, in memory that does not grow with traffic."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil, floor, log

RELATIVE_ERROR = 0.01
"""How far a percentile may be from the exact one, relative to it."""

_GROWTH = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
_LOG_GROWTH = log(_GROWTH)
_SMALLEST = 1e-3
"""Values at or below it share the lowest bucket. In milliseconds: a microsecond."""
_LARGEST = 1e9


class LogHistogram:
    """Counts of values by bucket; each bucket's bounds are about two percent apart.

    Only buckets that hold something take memory, so a model with steady latency takes a few dozen of them.
    """

    __slots__ = ("_buckets", "count")

    def __init__(self) -> None:
        self._buckets: dict[int, int] = {}
        self.count = 0

    def add(self, value: float) -> None:
        """Count a value; negative ones count as the smallest."""
        index = bucket_of(value)
        buckets = self._buckets
        buckets[index] = buckets.get(index, 0) + 1
        self.count += 1

    def add_bucket(self, index: int, number: int = 1) -> None:
        """Count values whose bucket is known already (`bucket_of`)."""
        buckets = self._buckets
        buckets[index] = buckets.get(index, 0) + number
        self.count += number

    def buckets(self) -> list[tuple[int, int]]:
        """Return (index, count) of those that hold something, ascending."""
        return sorted(self._buckets.items())

    def merge(self, other: LogHistogram) -> None:
        """Add another histogram's counts."""
        for index, number in other._buckets.items():
            self._buckets[index] = self._buckets.get(index, 0) + number
        self.count += other.count

    def percentile(self, share: float) -> float:
        """Return the value at a share of 0.0-1.0 (nearest rank), within one percent; 0.0 when empty."""
        if not self.count:
            return 0.0
        rank = max(1, ceil(share * self.count))
        seen = 0
        for index, number in sorted(self._buckets.items()):
            seen += number
            if seen >= rank:
                return value_of(index)
        raise AssertionError("the counts of a histogram add up to its count")

    def __iter__(self) -> Iterator[tuple[float, int]]:
        """Yield (value, count), ascending."""
        return ((value_of(index), number) for index, number in sorted(self._buckets.items()))


def bucket_of(value: float) -> int:
    """Return the index of the bucket a value falls into."""
    if not value > _SMALLEST:  # a NaN, too, which is nobody's latency
        return 0
    return floor(log(min(value, _LARGEST) / _SMALLEST) / _LOG_GROWTH) + 1


def value_of(index: int) -> float:
    """Return the value a bucket stands for: the point from which both bounds are equally far, relatively."""
    if index == 0:
        return _SMALLEST
    low = _SMALLEST * _GROWTH ** (index - 1)
    return low * (1 + RELATIVE_ERROR)
