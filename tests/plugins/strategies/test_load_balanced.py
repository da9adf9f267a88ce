"""Traffic in proportion to what is left of each model's limits."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from modelmesh.interfaces.provider import RateLimitStatus
from modelmesh_plugins.strategies.load_balanced import BalanceConfig, LoadBalanced

WORKED = {"a": (400, 500), "b": (700, 1_000), "c": (120, 300)}
"""Left and limit of the documentation's example."""


def left(remaining: int | None, limit: int | None = None, **more: Any) -> dict[str, Any]:
    """Return figures of a model with this much left."""
    return {"rate_limits": RateLimitStatus(remaining, requests_limit=limit, **more)}


def balanced(**settings: Any) -> LoadBalanced:
    """Build the strategy with these settings."""
    return LoadBalanced(BalanceConfig.model_validate(settings))


def shares(on: Any, rounds: int = 1_000) -> list[int]:
    """Return each member's part of this many choices, in percent."""
    counted = Counter(on.choose() for _ in range(rounds))
    return [round(100 * counted[member.model_id] / rounds) for member in on.members]


@pytest.mark.parametrize(("mode", "expected"), [("relative", [42, 37, 21]), ("absolute", [33, 57, 10])])
def test_the_documentations_figures_hold(bench: Any, mode: str, expected: list[int]) -> None:
    """The shares of 0.80, 0.70 and 0.40, or of 400, 700 and 120: smooth sampling meets them to the percent."""
    on = bench(balanced(balance_mode=mode, sampling="smooth"), **{name: left(*each) for name, each in WORKED.items()})

    assert shares(on) == expected
    assert [round(100 * on.score(name)) for name in "abc"] == expected


@pytest.mark.parametrize(("mode", "expected"), [("relative", [42, 37, 21]), ("absolute", [33, 57, 10])])
def test_random_draws_come_to_the_same_shares(bench: Any, mode: str, expected: list[int]) -> None:
    """To three percent in 10,000 draws of a seeded source."""
    on = bench(balanced(balance_mode=mode), **{name: left(*each) for name, each in WORKED.items()})

    assert shares(on, 10_000) == pytest.approx(expected, abs=3)


@pytest.mark.parametrize(
    ("draw", "chosen"), [(0.0, "a"), (0.42, "a"), (0.43, "b"), (0.78, "b"), (0.79, "c"), (0.999, "c")]
)
def test_a_draw_falls_on_a_part_in_pool_order(bench: Any, draw: float, chosen: str) -> None:
    """The source of randomness is the pool's own."""
    on = bench(balanced(), draws=[draw], **{name: left(*each) for name, each in WORKED.items()})

    assert on.choose() == chosen


def test_the_unknown_weighs_as_much_as_the_median(bench: Any) -> None:
    """Here 0.5, of 0.1, 0.5 and 0.8."""
    on = bench(balanced(), a=left(10, 100), b={}, c=left(50, 100), d=left(80, 100))
    on.result()

    assert on.score("b") == on.score("c") == pytest.approx(0.5 / 1.9)


@pytest.mark.parametrize("figures", [{}, left(0, 100), left(None)], ids=["unknown", "used-up", "said-nothing"])
def test_without_anything_to_weigh_all_weigh_alike(bench: Any, figures: dict[str, Any]) -> None:
    """Nobody is left out for want of figures."""
    on = bench(balanced(sampling="smooth"), a=figures, b=figures)

    assert shares(on, 100) == pytest.approx([50, 50], abs=1)


def test_one_without_anything_left_gets_nothing(bench: Any) -> None:
    """While others have something, wherever it stands."""
    on = bench(balanced(sampling="smooth"), a=left(0, 100), b=left(5, 100), c=left(0, 100))

    assert shares(on, 50) == [0, 100, 0]


def test_the_tighter_of_two_limits_counts(bench: Any) -> None:
    """Plenty of requests are no use without tokens; a thousand tokens pass for a request."""
    on = bench(
        balanced(balance_mode="absolute", sampling="smooth"),
        a=left(900, 1_000, tokens_remaining=30_000, tokens_limit=1_000_000),
        b=left(70, 1_000),
    )

    assert shares(on, 100) == [30, 70]


def test_a_window_that_ended_is_fresh(bench: Any) -> None:
    """The provider said that its limit is full again after 20 s, and 20 s have passed."""
    on = bench(balanced(sampling="smooth"), a=left(0, 100, reset_seconds=20.0), b=left(50, 100))
    on.result()
    before = on.score("a")
    on.clock.advance(20)
    on.result()

    assert (before, on.score("a")) == (0.0, pytest.approx(1.0 / 1.5))


def test_the_others_follow_by_falling_weight(bench: Any) -> None:
    """Whoever has most left is tried first after a failure."""
    on = bench(balanced(), **{name: left(*each) for name, each in WORKED.items()}, d=left(90, 100))

    assert on.ranked("b") == "dac"
