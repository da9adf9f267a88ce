"""The most preferred model first, and somebody else's choice where none of them is active."""

from __future__ import annotations

from typing import Any

import pytest

from modelmesh.errors import NoActiveModelError
from modelmesh_plugins.strategies.priority_selection import PriorityConfig, PrioritySelection
from modelmesh_plugins.strategies.round_robin import RoundRobin

FOUR: dict[str, dict[str, Any]] = {name: {} for name in "abcd"}


def preferring(*models: str, providers: tuple[str, ...] = (), fallback: Any = None) -> PrioritySelection:
    """Return the strategy with these lists."""
    strategy = PrioritySelection(PriorityConfig(model_priority=list(models), provider_priority=list(providers)))
    strategy.set_fallback(fallback)
    return strategy


def test_listed_models_come_before_listed_providers(bench: Any) -> None:
    """Whoever is preferred most and active; the reason names the list."""
    on = bench(preferring("c", "b", providers=("pa",), fallback=RoundRobin()), **FOUR)

    results = [on.result(active) for active in ("abcd", "abd", "ad")]

    assert [(result.model_id, result.reason) for result in results] == [
        ("c", "model_priority"),
        ("b", "model_priority"),
        ("a", "provider_priority"),
    ]


def test_without_lists_the_pool_goes_round(bench: Any) -> None:
    """The fallback chooses, and whoever follows is behind its choice."""
    on = bench(preferring(fallback=RoundRobin()), **FOUR)

    assert [on.choose() for _ in range(5)] == ["a", "b", "c", "d", "a"]
    assert on.ranked("c") == "dab"


def test_the_fallback_is_asked_only_where_nobody_listed_is_active(bench: Any) -> None:
    """Its turn stands still meanwhile, and it knows the members from the first."""
    fallback = RoundRobin()
    on = bench(preferring("d", fallback=fallback), **FOUR)

    assert [on.choose(active) for active in ("abc", "abcd", "abcd", "abc")] == ["a", "d", "d", "b"]
    assert fallback.pool_order == ("a", "b", "c", "d")


def test_a_pool_that_changes_is_told_to_the_fallback(bench: Any) -> None:
    """It goes round those there are."""
    fallback = RoundRobin()
    on = bench(preferring("d", fallback=fallback), **FOUR)

    on.strategy.pool_changed("ca")

    assert fallback.pool_order == ("c", "a")


def test_looking_moves_no_pointer_of_the_fallback(bench: Any) -> None:
    """An explanation says who is next, as often as it is asked for."""
    on = bench(preferring("d", fallback=RoundRobin()), **FOUR)

    seen = [on.strategy.choose(on.active("abc"), None)[0].model_id for _ in range(2)]

    assert [*seen, on.choose("abc")] == ["a", "a", "a"]


def test_without_a_fallback_nobody_unlisted_is_chosen(bench: Any) -> None:
    """``fallback_strategy: error`` would rather fail, in choosing and in what is tried next."""
    on = bench(preferring("c", "b"), **FOUR)

    assert on.ranked("c") == "b"
    with pytest.raises(NoActiveModelError, match="no listed model or provider is active"):
        on.choose("ad")


def test_the_rest_is_tried_behind_those_listed(bench: Any) -> None:
    """In pool order."""
    on = bench(preferring("c", providers=("pb",), fallback=RoundRobin()), **FOUR)

    assert on.ranked("c") == "bad"


def test_the_score_follows_the_lists(bench: Any) -> None:
    """Models above providers above the rest, who are rated by their errors."""
    on = bench(preferring("c", "b", providers=("pa",), fallback=RoundRobin()), **{**FOUR, "d": {"error_rate": 0.25}})

    assert [on.score(model) for model in "cbad"] == [1002.0, 1001.0, 501.0, 0.75]
