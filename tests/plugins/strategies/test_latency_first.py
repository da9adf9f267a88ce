"""The fastest model first."""

from __future__ import annotations

from typing import Any

from modelmesh_plugins.strategies.latency_first import LatencyFirst


def took(seconds: float | None) -> dict[str, Any]:
    """Return figures of a model with this mean latency."""
    return {"latency_avg": seconds}


def test_the_lowest_mean_latency_wins(bench: Any) -> None:
    """The score is minus the mean, in seconds."""
    on = bench(LatencyFirst(), a=took(0.8), b=took(0.2), c=took(0.5))

    result = on.result()

    assert (result.model_id, result.score, result.reason) == ("b", -0.2, "lowest latency")
    assert on.ranked("b") == "ca"


def test_no_history_counts_as_the_median_of_the_others(bench: Any) -> None:
    """Neither favoured nor shunned."""
    on = bench(LatencyFirst(), a=took(0.9), b=took(None), c=took(0.1), d=took(0.5), e=took(0.6))

    assert on.choose() + on.ranked("c") == "cdbea"
    assert on.score("b") == -0.55


def test_ties_and_no_history_at_all_leave_the_pool_order(bench: Any) -> None:
    """The first answer tells more."""
    assert bench(LatencyFirst(), a=took(0.5), b=took(0.5)).choose() == "a"
    nobody = bench(LatencyFirst(), a=took(None), b=took(None)).result()
    assert (nobody.model_id, nobody.score, nobody.reason) == ("a", 0.0, "no history")


def test_figures_are_read_again_each_time(bench: Any) -> None:
    """A model that slows down loses its place."""
    on = bench(LatencyFirst(), a=took(0.1), b=took(0.2))
    before = on.choose()

    on.member("a").latency_avg = 0.3

    assert before + on.choose() == "ab"
