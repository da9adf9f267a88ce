"""The cheapest model first."""

from __future__ import annotations

from typing import Any

import pytest

from modelmesh.interfaces.provider import ModelPricing
from modelmesh_plugins.strategies.cost_first import CostConfig, CostFirst


def priced(input_price: float, output_price: float, **figures: Any) -> dict[str, Any]:
    """Return figures of a model with a price per 1,000 tokens."""
    return {"pricing": ModelPricing(input_price, output_price), **figures}


def test_the_lowest_price_of_an_average_token_wins(bench: Any) -> None:
    """Input and output count alike; the score is minus that price, in USD per token."""
    on = bench(CostFirst(), a=priced(0.1, 0.9), b=priced(0.3, 0.5), c=priced(0.4, 0.6))

    result = on.result()

    assert (result.model_id, result.reason) == ("b", "lowest price")
    assert result.score == pytest.approx(-0.0004)
    assert on.ranked("b") == "ac"


def test_prices_are_weighed_by_the_expected_output(bench: Any) -> None:
    """Who mostly reads pays for input."""
    on = bench(CostFirst(CostConfig(output_share=0.1)), a=priced(0.4, 0.1), b=priced(0.2, 0.9))

    assert on.choose() == "b"


def test_a_price_per_request_counts_as_spread_over_a_thousand_tokens(bench: Any) -> None:
    """Otherwise a model billed by the request would be free."""
    on = bench(CostFirst(), a={"pricing": ModelPricing(per_request=0.3)}, b=priced(0.2, 0.2), c=priced(0.4, 0.4))

    assert on.choose() + on.ranked("b") == "bac"


def test_models_without_a_price_come_last(bench: Any) -> None:
    """Not knowing what it costs is no bargain; their score is still a number."""
    on = bench(CostFirst(), a={}, b=priced(9.0, 9.0), c={})

    assert on.choose() + on.ranked("b") == "bac"
    assert on.score("a") < on.score("b")


def test_equal_prices_are_told_apart_by_what_was_spent_then_by_pool_order(bench: Any) -> None:
    """Money spent so far is only the tie-break."""
    same = {"a": 3.0, "b": 1.0, "c": 1.0}
    on = bench(CostFirst(), **{name: priced(1.0, 1.0, cost_accumulated=spent) for name, spent in same.items()})

    assert on.choose() + on.ranked("b") == "bca"


def test_spending_alone_may_decide(bench: Any) -> None:
    """Under cost_basis accumulated the price is the tie-break."""
    on = bench(
        CostFirst(CostConfig(cost_basis="accumulated")),
        a=priced(0.1, 0.1, cost_accumulated=5.0),
        b=priced(9.0, 9.0, cost_accumulated=2.0),
        c=priced(8.0, 8.0, cost_accumulated=2.0),
    )

    assert on.choose() + on.ranked("c") == "cba"
    assert (on.score("a"), on.result().reason) == (-5.0, "lowest cost")


def test_prices_are_read_again_each_time(bench: Any) -> None:
    """A discovery that finds a new price changes the next choice."""
    on = bench(CostFirst(), a=priced(0.1, 0.1), b=priced(0.5, 0.5))
    before = on.choose()

    on.member("a").pricing = ModelPricing(0.9, 0.9)

    assert before + on.choose() == "ab"


def test_standby_models_are_not_chosen(bench: Any) -> None:
    """The cheapest of those that are there."""
    assert bench(CostFirst(), a=priced(0.1, 0.1), b=priced(0.5, 0.5), c=priced(0.4, 0.4)).choose("bc") == "c"
