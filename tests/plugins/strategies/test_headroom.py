"""What strategies remember of the reports on their members' limits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from modelmesh.interfaces.provider import RateLimitStatus
from modelmesh_cdk.strategy import BaseStrategy
from modelmesh_plugins.strategies.composed import Composed, ComposedConfig
from modelmesh_plugins.strategies.load_balanced import BalanceConfig, LoadBalanced
from modelmesh_plugins.strategies.rate_limit_aware import RateLimitAware

STRATEGIES: dict[str, Callable[[], BaseStrategy[Any]]] = {
    "rate-limit-aware": RateLimitAware,
    "load-balanced": lambda: LoadBalanced(BalanceConfig(sampling="smooth")),
    "composed": lambda: Composed(ComposedConfig.model_validate({"score": ["headroom"]})),
}

UNTIL_THE_WINDOW_ENDS = 20.0


@pytest.mark.parametrize(
    ("members", "chosen"), [("ab", "a"), ("b", "b")], ids=["stayed meanwhile", "left and came back"]
)
@pytest.mark.parametrize("name", STRATEGIES)
def test_the_window_of_a_member_that_comes_back_begins_anew(bench: Any, name: str, members: str, chosen: str) -> None:
    """What its report was when it left is forgotten; of one that stayed the window ends in its time."""
    strategy = STRATEGIES[name]()
    used_up = RateLimitStatus(0, requests_limit=100, reset_seconds=UNTIL_THE_WINDOW_ENDS)
    on = bench(strategy, a={"rate_limits": used_up}, b={"rate_limits": RateLimitStatus(10, requests_limit=100)})
    assert on.choose() == "b"

    strategy.pool_changed(members)
    strategy.pool_changed("ab")
    on.clock.advance(UNTIL_THE_WINDOW_ENDS)

    assert on.choose() == chosen
