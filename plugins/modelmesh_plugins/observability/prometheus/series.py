"""Series: the sums behind the page, in plain numbers.

The client library's own counters take a lock and an object for each series and bucket; a collector of our own, which
it supports, costs a fraction of both and leaves it the formats.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from operator import add

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.utils import floatToGoString

from modelmesh_plugins.observability.prometheus.catalogue import RECORDED, Metric

Labels = tuple[str, ...]
Values = Iterable[tuple[Labels, float]]


class Series:
    """Counters and histograms by their labels. Not for several threads at once."""

    def __init__(self) -> None:
        self._sums: dict[str, dict[Labels, float]] = {each.name: {} for each in RECORDED if each.kind == "counter"}
        self._spreads: dict[str, dict[Labels, list[float]]] = {
            each.name: {} for each in RECORDED if each.kind == "histogram"
        }

    def add(self, metric: Metric, labels: Labels, amount: float = 1.0) -> None:
        """Add to a counter."""
        sums = self._sums[metric.name]
        sums[labels] = sums.get(labels, 0.0) + amount

    def observe(self, metric: Metric, labels: Labels, value: float) -> None:
        """Take a value into a histogram."""
        spreads = self._spreads[metric.name]
        spread = spreads.get(labels)
        if spread is None:
            # One count for each bucket, one for what is beyond the last, and the sum of all values.
            spread = spreads[labels] = [0.0] * (len(metric.buckets) + 2)
        spread[bisect_left(metric.buckets, value)] += 1
        spread[-1] += value

    def families(self) -> list[Family]:
        """Return what was counted so far, in the client library's shape."""
        return [self._family(metric) for metric in RECORDED]

    def _family(self, metric: Metric) -> Family:
        if metric.kind == "counter":
            return family(metric, self._sums[metric.name].items())
        histogram = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
        bounds = [*map(floatToGoString, metric.buckets), "+Inf"]
        for labels, spread in self._spreads[metric.name].items():
            seen = 0.0
            buckets: list[tuple[str, float]] = []
            for bound, count in zip(bounds, spread, strict=False):
                seen += count
                buckets.append((bound, seen))
            histogram.add_metric(labels, buckets, spread[-1])
        return histogram


def family(metric: Metric, values: Values, combine: Callable[[float, float], float] = add) -> Family:
    """Return a counter or gauge with its values in the client library's shape.

    Args:
        metric: Which one.
        values: By labels.
        combine: Makes one value of two with the same labels, such as several ``other``.
    """
    shape = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    found = shape(metric.name, metric.help, labels=metric.labels)
    combined: dict[Labels, float] = {}
    for labels, value in values:
        combined[labels] = combine(combined[labels], value) if labels in combined else value
    for labels, value in combined.items():
        found.add_metric(labels, value)
    return found
