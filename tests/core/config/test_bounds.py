"""Numbers that no limit's books and no clock can hold are refused when the configuration is read."""

from __future__ import annotations

from typing import Any

import pytest

from modelmesh._engine.limit_rules import pool_limits, provider_limits
from modelmesh.config import build_schema, load_config
from modelmesh.config.providers import BudgetConfig, QuotaConfig, RateLimitConfig
from modelmesh.config.rotation import DeactivationConfig
from modelmesh.errors import ConfigurationError
from modelmesh.interfaces.ledger import LARGEST_AMOUNT, NANO_USD
from modelmesh.plugins import PluginHost
from modelmesh_cdk.ledger import check_claims

MOST_USD = LARGEST_AMOUNT // NANO_USD
TOO_MANY = f"must be less than or equal to {LARGEST_AMOUNT}"
TOO_DEAR = f"must be less than or equal to {MOST_USD}"
TOO_LONG = "must not be longer than ten years (3650d)"


def problems(provider: dict[str, Any], model: dict[str, Any], pool: dict[str, Any]) -> list[str]:
    """Return what is wrong with a configuration that is whole but for what is given."""
    raw = {
        "providers": {"p": {"connector": "simulator", **provider}},
        "models": {"m": {"provider": "p", "capabilities": ["chat-completion"], "pricing": {"per_request": 1}, **model}},
        "pools": {"chat-completion": pool},
    }
    try:
        load_config(raw, connectors=PluginHost(), environ={})
    except ConfigurationError as error:
        return [str(problem) for problem in error.problems]
    return []


@pytest.mark.parametrize(
    ("section", "key", "value", "said"),
    [
        ("budget", "daily_limit", 1e300, TOO_DEAR),
        ("budget", "monthly_limit", 1e12, TOO_DEAR),
        ("quota", "requests", 10**27, TOO_MANY),
        ("quota", "tokens", LARGEST_AMOUNT + 1, TOO_MANY),
        ("rate_limit", "rpm", 10**20, TOO_MANY),
        ("rate_limit", "tpm", 10**20, TOO_MANY),
        ("rate_limit", "concurrency", 10**20, TOO_MANY),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_providers_limit_that_no_ledger_can_keep_is_refused(section: str, key: str, value: float, said: str) -> None:
    """In one line that names the key."""
    assert problems({section: {key: value}}, {}, {}) == [f"providers.p.{section}.{key}: {said}"]


@pytest.mark.parametrize(("window", "said"), [(1e300, TOO_LONG), (1e-9, "must be greater than or equal to 0.001")])
def test_a_rolling_window_that_no_ledger_can_keep_is_refused(window: float, said: str) -> None:
    """Too long as well as too short."""
    quota = {"requests": 1, "reset_schedule": "rolling", "rolling_window": window}

    assert problems({"quota": quota}, {}, {}) == [f"providers.p.quota.rolling_window: {said}"]


def test_a_rolling_window_without_a_schedule_is_refused() -> None:
    """What is meant to come back within hours would otherwise be counted a month."""
    (problem,) = problems({"quota": {"requests": 50, "rolling_window": "3h"}}, {}, {})

    assert "rolling_window counts with reset_schedule: rolling" in problem


@pytest.mark.parametrize(
    ("section", "key", "value", "said"),
    [
        ("deactivation", "request_limit", 10**20, TOO_MANY),
        ("deactivation", "token_limit", 10**20, TOO_MANY),
        ("deactivation", "error_window", 10**20, TOO_MANY),
        ("deactivation", "budget_limit", 1e12, TOO_DEAR),
        ("recovery", "cooldown", 1e300, TOO_LONG),
        ("recovery", "probe_interval", "9999d", TOO_LONG),
        ("timeouts", "total", 1e300, TOO_LONG),
        ("retry", "max_delay", 1e300, TOO_LONG),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_pools_limits_and_waits_have_the_same_bounds(section: str, key: str, value: object, said: str) -> None:
    """They reach the same books and the same clock."""
    assert problems({}, {}, {section: {key: value}}) == [f"pools.chat-completion.{section}.{key}: {said}"]


@pytest.mark.parametrize("key", ["input_per_1k_tokens", "output_per_1k_tokens", "per_request"])
def test_a_price_has_the_bound_of_a_budget(key: str) -> None:
    """What a request costs is booked in the same units."""
    assert problems({}, {"pricing": {key: 1e300}}, {}) == [f"models.m.pricing.{key}: {TOO_DEAR}"]


def test_the_largest_that_is_taken_can_be_claimed() -> None:
    """The bounds are those of the ledger and not some beyond them."""
    limits = [
        *provider_limits(
            "p",
            BudgetConfig(daily_limit=MOST_USD, monthly_limit=MOST_USD),
            QuotaConfig(requests=LARGEST_AMOUNT, reset_schedule="rolling", rolling_window=3650 * 86_400.0),
            RateLimitConfig(rpm=LARGEST_AMOUNT - 1, burst=1.0),
        ),
        *pool_limits("c", "m", DeactivationConfig(budget_limit=MOST_USD, token_limit=LARGEST_AMOUNT)),
    ]

    check_claims([limit.claim(1, 0.0) for limit in limits], 60.0)


def test_the_schema_knows_the_bounds() -> None:
    """So an editor marks the number while it is typed."""
    schema = build_schema(PluginHost())["$defs"]
    daily = schema["BudgetConfig"]["properties"]["daily_limit"]["anyOf"][0]
    requests = schema["QuotaConfig"]["properties"]["requests"]["anyOf"][0]

    assert daily["maximum"] == MOST_USD
    assert requests["maximum"] == LARGEST_AMOUNT
    assert schema["RecoveryConfig"]["properties"]["cooldown"]["anyOf"][0]["maximum"] == 10 * 365 * 86_400


@pytest.mark.parametrize(
    ("dollars", "shown"),
    [
        (5, "$5"),
        (0.5, "$0.50"),
        (12345.67, "$12345.67"),
        (1e-7, "$0.0000001"),
        (1_000_000_000.0, "$1000000000"),
        (0.125, "$0.125"),
    ],
    ids=str,
)
def test_a_limit_shows_its_dollars_as_they_are(dollars: float, shown: str) -> None:
    """Neither rounded nor in powers of ten."""
    (daily,) = provider_limits("p", BudgetConfig(daily_limit=dollars), None, None)
    (pooled,) = pool_limits("c", "m", DeactivationConfig(budget_limit=dollars))

    assert daily.subject == f"the daily budget of {shown} for provider 'p'"
    assert pooled.subject == f"the budget of {shown} for 'm' in pool 'c'"
