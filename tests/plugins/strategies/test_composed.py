"""Strategies put together in the configuration."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from pydantic import ValidationError

from modelmesh.errors import NoActiveModelError
from modelmesh.interfaces.provider import ModelPricing, RateLimitStatus
from modelmesh_plugins.strategies.composed import Composed, ComposedConfig


def composed(**settings: Any) -> Composed:
    """Build the strategy of these settings."""
    return Composed(ComposedConfig.model_validate(settings))


def model(
    *, price: float | None = None, left: int | None = None, latency: float | None = None, **figures: Any
) -> dict[str, Any]:
    """Return a model's figures: USD per 1,000 tokens, percent left of the limit, mean seconds."""
    return {
        "pricing": None if price is None else ModelPricing(price, price),
        "rate_limits": None if left is None else RateLimitStatus(left, requests_limit=100),
        "latency_avg": latency,
        **figures,
    }


# --- the whole --------------------------------------------------------------------------


def test_headroom_over_ten_percent_then_cheapest_then_power_of_two_by_latency(bench: Any) -> None:
    """Two cheapest have room; of both, the faster is taken whichever is drawn first."""
    on = bench(
        composed(filter=[{"headroom": {"over": "10%"}}], score=["cost"], pick={"power_of_two": "latency"}),
        a=model(price=0.1, left=5, latency=0.1),
        b=model(price=0.2, left=50, latency=0.9),
        c=model(price=0.2, left=40, latency=0.3),
        d=model(price=0.9, left=90, latency=0.1),
    )

    assert {on.choose() for _ in range(20)} == {"c"}
    assert on.ranked("c") == "bda"


def test_without_any_part_it_takes_the_first(bench: Any) -> None:
    """No condition, no comparison, the first of equals."""
    assert bench(composed(), a={}, b={}).choose() == "a"


# --- filters ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("condition", "passing"),
    [
        ({"headroom": {"over": "40%"}}, "bc"),
        ({"headroom": {"over": 0.39}}, "abc"),
        ({"price": {"below": 0.5}}, "a"),
        ({"latency": {"below": "800ms"}}, "ac"),
        ({"error_rate": {"below": "50%"}}, "bc"),
        ({"provider": {"in": ["pa", "pc"]}}, "ac"),
        ({"provider": {"not_in": ["pa", "pc"]}}, "b"),
        ({"provider": ["pa", "pb"]}, "ab"),
        ({"model": "c"}, "c"),
        ({"model": {"in": ["a", "b"], "not_in": "a"}}, "b"),
        ({"feature": "vision"}, "b"),
    ],
    ids=str,
)
def test_a_filter_leaves_who_passes(bench: Any, condition: dict[str, Any], passing: str) -> None:
    """What is not known passes, except a price and a feature; who does not pass is tried last."""
    on = bench(
        composed(filter=[condition], if_none="error"),
        a=model(price=0.2, left=40, latency=0.5, error_rate=0.5),
        b=model(price=0.9, left=60, latency=0.8, features={"vision": True}),
        c=model(features={"vision": False}),
    )

    chosen = on.choose()

    assert "".join(sorted(chosen + on.ranked(chosen))) == passing


def test_all_filters_have_to_be_met(bench: Any) -> None:
    """Each takes from what the others left."""
    on = bench(
        composed(filter=[{"price": {"below": 0.5}}, {"latency": {"below": 1}}]),
        a=model(price=0.1, latency=2.0),
        b=model(price=0.9, latency=0.1),
        c=model(price=0.4, latency=0.9),
    )

    assert on.choose() + on.ranked("c") == "cab"


def test_filters_that_leave_nobody_stand_back(bench: Any) -> None:
    """Rather a dear model than none, and the reason says so."""
    on = bench(composed(filter=[{"price": {"below": 0.1}}], score=["cost"]), a=model(price=0.9), b=model(price=0.5))

    result = on.result()

    assert (result.model_id, result.reason) == ("b", "filters ignored")


def test_filters_that_leave_nobody_refuse_where_told_to(bench: Any) -> None:
    """The error names the pool; those that do not pass are not tried after a failure either."""
    strict = composed(filter=[{"price": {"below": 0.6}}], if_none="error")
    on = bench(strict, a=model(price=0.9), b=model(price=0.5))

    assert (on.choose(), on.ranked("b")) == ("b", "")
    with pytest.raises(NoActiveModelError, match="pool 'chat' passes the strategy's filters"):
        on.choose("a")


# --- scores -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scores", "order"),
    [
        (["cost"], "bdac"),
        (["latency"], "dacb"),
        (["headroom"], "cadb"),
        (["error_rate"], "bcda"),
        ([{"priority": ["c", "pd"]}], "cdab"),
        ([{"cost": {"within": "60%"}}, "latency"], "dbac"),
        ([{"cost": {"band": 0.25}}, {"latency": {}}], "dbac"),
        ([{"latency": {"band": "300ms"}}, "headroom"], "cadb"),
        (["cost", "latency"], "bdac"),
    ],
    ids=str,
)
def test_scores_order_candidates_one_after_the_other(bench: Any, scores: list[Any], order: str) -> None:
    """Unknown prices come last, other unknown figures count as the median; equals are left to the next score."""
    on = bench(
        composed(score=scores),
        a=model(price=0.4, left=50, latency=0.25, error_rate=0.3),
        b=model(price=0.1, left=10, latency=0.9),
        c=model(left=90),
        d=model(price=0.15, latency=0.2, error_rate=0.1),
    )

    chosen = on.choose()

    assert chosen + on.ranked(chosen) == order


def test_equals_stand_in_pool_order(bench: Any) -> None:
    """Whatever little they differ by."""
    on = bench(
        composed(score=[{"cost": {"within": "20%"}}]), a=model(price=0.11), b=model(price=0.9), c=model(price=0.1)
    )

    assert on.choose() + on.ranked("a") == "acb"


def test_the_score_is_the_first_comparisons_figure(bench: Any) -> None:
    """Higher is better, and always a number."""
    figures = model(price=0.4, left=25, latency=2.0, error_rate=0.25)
    scores = {
        name: bench(composed(score=[name]), a=figures).score("a")
        for name in ("cost", "latency", "headroom", "error_rate")
    }

    assert scores == {"cost": -0.4, "latency": -2.0, "headroom": 0.25, "error_rate": -0.25}
    assert bench(composed(), a=figures).score("a") == 0.75
    assert bench(composed(score=["cost"]), a={}).score("a") == -1e9


# --- picks ------------------------------------------------------------------------------


def test_round_robin_goes_through_the_equals_in_turn(bench: Any) -> None:
    """Over those that are equal in every score; one that rests keeps its place."""
    same = {name: model(price=0.1) for name in "abd"}
    on = bench(composed(score=["cost"], pick="round_robin"), **same, c=model(price=0.2))

    assert "".join(on.choose(names) for names in ("abcd", "abcd", "acd", "abcd", "abcd", "c")) == "abdabc"


def test_weighted_draws_by_what_is_left(bench: Any) -> None:
    """By headroom unless told otherwise: here 60 and 20 percent."""
    on = bench(composed(pick="weighted"), a=model(left=60), b=model(left=20), c=model(left=0))
    counted = Counter(on.choose() for _ in range(2_000))

    assert counted["a"] / 2_000 == pytest.approx(0.75, abs=0.04)
    assert counted["c"] == 0


@pytest.mark.parametrize(("by", "draw", "chosen"), [("latency", 0.79, "a"), ("latency", 0.81, "b"), ("cost", 0.4, "b")])
def test_weighted_by_price_or_time_prefers_the_smaller(bench: Any, by: str, draw: float, chosen: str) -> None:
    """Four times as fast is four times as often."""
    figures = {"a": model(latency=0.5, price=0.4), "b": model(latency=2.0, price=0.1)}
    on = bench(composed(pick={"weighted": by}), draws=[draw, 0.0], **figures)

    assert on.choose() == chosen


def test_weighted_with_nothing_left_anywhere_draws_evenly(bench: Any) -> None:
    """Somebody has to be chosen."""
    on = bench(composed(pick="weighted"), draws=[0.6, 0.0], a=model(left=0), b=model(left=0))

    assert on.choose() == "b"


def test_power_of_two_takes_the_less_busy_of_two(bench: Any) -> None:
    """Two different ones are drawn; by calls in flight as they are at this moment."""
    on = bench(composed(pick="power_of_two"), draws=[0.0, 0.0] * 3, a={"in_flight": 2}, b={"in_flight": 1}, c={})
    first = on.choose()
    on.member("b").in_flight = 3

    assert (first, on.choose("ab")) == ("b", "a")


def test_power_of_two_never_takes_the_worst_of_all(bench: Any) -> None:
    """Whatever is drawn, there is a better one beside it; an unknown figure is worth finding out."""
    on = bench(
        composed(pick={"power_of_two": "latency"}),
        a=model(latency=0.1),
        b=model(latency=9.0),
        c=model(),
        d=model(latency=1),
    )

    assert {on.choose() for _ in range(200)} == {"a", "c", "d"}


# --- settings ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "place", "message"),
    [
        ({"filter": [{"headrom": {"over": 0.1}}]}, ("filter", 0), "unknown filter 'headrom'; did you mean 'headroom'"),
        ({"filter": ["feature"]}, ("filter", 0), "such as feature: vision"),
        ({"filter": [{}]}, ("filter", 0), "expected one filter, such as headroom: {over: 10%}"),
        ({"filter": [{"provider": {}}]}, ("filter", 0, "provider"), "give in or not_in"),
        ({"filter": [{"provider": {"inn": ["a"]}}]}, ("filter", 0, "provider"), "did you mean 'in'"),
        ({"filter": [{"headroom": {"over": "110%"}}]}, ("filter", 0, "headroom", "over"), "from 0% to 100%"),
        ({"filter": [{"headroom": {"over": "much"}}]}, ("filter", 0, "headroom", "over"), "a percentage such as 10%"),
        ({"score": ["latenzy"]}, ("score", 0), "unknown score 'latenzy'; did you mean 'latency'"),
        ({"score": ["priority"]}, ("score", 0), "such as priority: [small, large]"),
        ({"score": [{"cost": {"within": 0.1, "band": 1}}]}, ("score", 0, "cost"), "keep one"),
        ({"pick": "power-of-two"}, ("pick",), "unknown pick 'power-of-two'; did you mean 'power_of_two'"),
        ({"pick": {"power_of_two": "latenzy"}}, ("pick",), "did you mean 'latency'"),
        ({"pick": {"weighted": "in_flight"}}, ("pick",), "unknown figure for weighted"),
        ({"pick": {"best": "cost"}}, ("pick",), "best goes by nothing"),
        ({"pick": 3}, ("pick",), "expected one of best"),
    ],
    ids=str,
)
def test_mistakes_are_named_where_they_are(settings: dict[str, Any], place: tuple[Any, ...], message: str) -> None:
    """With the near match, or an example of how it is written."""
    with pytest.raises(ValidationError) as caught:
        ComposedConfig.model_validate(settings)

    [problem] = caught.value.errors()
    assert problem["loc"] == place
    assert message in problem["msg"]
