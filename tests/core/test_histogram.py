"""The histogram: percentiles within one percent of the exact ones, in bounded memory."""

from __future__ import annotations

from math import ceil

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from modelmesh.histogram import RELATIVE_ERROR, LogHistogram, bucket_of, value_of

LATENCIES = st.lists(st.floats(min_value=0.001, max_value=1e9), min_size=1, max_size=200)
ROUNDING = 1e-9


def filled(values: list[float]) -> LogHistogram:
    """A histogram of these."""
    histogram = LogHistogram()
    for value in values:
        histogram.add(value)
    return histogram


def exact(values: list[float], share: float) -> float:
    """The nearest-rank percentile."""
    return sorted(values)[max(1, ceil(share * len(values))) - 1]


@given(LATENCIES, st.floats(min_value=0.0, max_value=1.0))
@example([0.001, 1e9], 0.5)
@example([1.0] * 100 + [1000.0], 0.99)
def test_any_percentile_is_within_one_percent(values: list[float], share: float) -> None:
    """Whatever the values and the share."""
    found = filled(values).percentile(share)

    assert abs(found / exact(values, share) - 1) <= RELATIVE_ERROR + ROUNDING


@given(st.floats(min_value=0.001, max_value=1e9))
def test_a_bucket_stands_for_each_of_its_values(value: float) -> None:
    """Within the promised error."""
    assert value_of(bucket_of(value)) == pytest.approx(value, rel=RELATIVE_ERROR + ROUNDING)


@given(LATENCIES)
def test_percentiles_rise_with_their_share(values: list[float]) -> None:
    """The median is never above the 95th."""
    histogram = filled(values)

    found = [histogram.percentile(share) for share in (0.0, 0.5, 0.95, 0.99, 1.0)]

    assert found == sorted(found)


@given(LATENCIES, LATENCIES)
def test_merging_is_adding_all_values(one: list[float], other: list[float]) -> None:
    """So windows can be put together without keeping their values."""
    merged = filled(one)
    merged.merge(filled(other))

    together = filled(one + other)
    assert list(merged) == list(together)
    assert merged.count == together.count == len(one) + len(other)


def test_a_known_bucket_can_be_counted_without_its_value() -> None:
    """What is added to several histograms is sorted in once."""
    histogram = LogHistogram()

    histogram.add_bucket(bucket_of(42.0))

    assert list(histogram) == list(filled([42.0]))


def test_an_empty_histogram_has_percentile_zero() -> None:
    """No traffic is no latency."""
    assert LogHistogram().percentile(0.95) == 0.0
    assert list(LogHistogram()) == []


@pytest.mark.parametrize("value", [0.0, -5.0, 1e-9, 0.001, float("nan"), float("-inf")])
def test_what_is_too_small_shares_the_lowest_bucket(value: float) -> None:
    """Nonsense included: it must not break the figures of everybody else."""
    assert bucket_of(value) == 0
    assert filled([value]).percentile(0.5) == 0.001


def test_what_is_too_large_shares_the_highest_bucket() -> None:
    """Eleven days in milliseconds; infinity included."""
    assert bucket_of(float("inf")) == bucket_of(1e12) == bucket_of(1e9)


@given(st.lists(st.floats(), max_size=300))
def test_memory_is_bounded_whatever_comes(values: list[float]) -> None:
    """From the smallest to the largest value there are fewer than 1,500 buckets."""
    assert len(list(filled(values))) <= min(len(values), bucket_of(float("inf")) + 1)
    assert bucket_of(float("inf")) < 1_500
