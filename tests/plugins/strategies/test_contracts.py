"""Every further bundled strategy passes the contract."""

from __future__ import annotations

from typing import Any

import pytest

from modelmesh.interfaces.provider import ModelPricing, RateLimitStatus
from modelmesh.interfaces.runtime import ConnectorContext
from modelmesh.interfaces.strategy import ModelSnapshot, SelectionRequest, SelectionStrategy
from modelmesh_cdk.testing import StrategyContract
from modelmesh_plugins.strategies.composed import Composed, ComposedConfig
from modelmesh_plugins.strategies.cost_first import CostConfig, CostFirst
from modelmesh_plugins.strategies.latency_first import LatencyFirst
from modelmesh_plugins.strategies.load_balanced import BalanceConfig, LoadBalanced
from modelmesh_plugins.strategies.rate_limit_aware import RateLimitAware, RateLimitConfig
from modelmesh_plugins.strategies.session_stickiness import SessionConfig, SessionStickiness


class FiguredContract(StrategyContract):
    """Members with prices and limits, some of which nobody knows."""

    def members(self) -> list[ModelSnapshot]:
        members = super().members()
        for number, member in enumerate(members):
            if number % 3:
                member.pricing = ModelPricing(number % 2 / 10.0, 0.2)
                member.rate_limits = RateLimitStatus(10 * number, reset_seconds=30.0, requests_limit=100)
        return members


class TestCostFirst(FiguredContract):
    """``modelmesh.cost-first.v1``."""

    def make(self, context: ConnectorContext) -> SelectionStrategy:
        return CostFirst()


class TestCostFirstByWhatWasSpent(FiguredContract):
    """``modelmesh.cost-first.v1`` by accumulated cost."""

    def make(self, context: ConnectorContext) -> SelectionStrategy:
        return CostFirst(CostConfig(cost_basis="accumulated"))


class TestLatencyFirst(FiguredContract):
    """``modelmesh.latency-first.v1``."""

    def make(self, context: ConnectorContext) -> SelectionStrategy:
        return LatencyFirst()


class TestSessionStickiness(FiguredContract):
    """``modelmesh.session-stickiness.v1`` in a session."""

    request = SelectionRequest("chat-completion", session_id="s")

    def make(self, context: ConnectorContext) -> SelectionStrategy:
        return SessionStickiness(SessionConfig(model_priority=["model-3"]))


class TestLoadBalanced(FiguredContract):
    """``modelmesh.load-balanced.v1``."""

    def make(self, context: ConnectorContext) -> SelectionStrategy:
        return LoadBalanced()


class TestLoadBalancedSmoothly(FiguredContract):
    """``modelmesh.load-balanced.v1`` without chance."""

    def make(self, context: ConnectorContext) -> SelectionStrategy:
        return LoadBalanced(BalanceConfig(balance_mode="absolute", sampling="smooth"))


@pytest.mark.parametrize("action", ["switch_model", "delay_request", "queue"])
class TestRateLimitAware(FiguredContract):
    """``modelmesh.rate-limit-aware.v1``, whatever it does about limits."""

    action: str

    @pytest.fixture(autouse=True)
    def _acting(self, action: str) -> None:
        self.action = action

    def make(self, context: ConnectorContext) -> SelectionStrategy:
        rules: dict[str, Any] = {"action": self.action, "max_rpm": 4, "min_delta": 1}
        return RateLimitAware(RateLimitConfig.model_validate({"rate_limit": rules}))


@pytest.mark.parametrize(
    "pick",
    ["best", "power_of_two", "weighted", "round_robin", {"power_of_two": "latency"}, {"weighted": "cost"}],
    ids=str,
)
class TestComposed(FiguredContract):
    """``modelmesh.composed.v1``, however it picks."""

    pick: object

    @pytest.fixture(autouse=True)
    def _picking(self, pick: object) -> None:
        self.pick = pick

    def make(self, context: ConnectorContext) -> SelectionStrategy:
        return Composed(
            ComposedConfig.model_validate(
                {
                    "filter": [{"headroom": {"over": "10%"}}, {"provider": {"not_in": "nobody"}}],
                    "score": [{"cost": {"within": "50%"}}],
                    "pick": self.pick,
                }
            )
        )
