"""Goals of reliability at their figures: worlds made for one of them, and not drawn."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from modelmesh_cdk.testing.simulation import Ask, Fault, Outcome, ProviderSpec, World, run_world

EPOCH = 1_767_225_600.0
"""2026-01-01 00:00 UTC."""
CHEAP = {"timeouts": {"total": 10.0}, "deadline": 60.0}


def asks(count: int, over: float, *, processes: int = 1, **fields: Any) -> tuple[Ask, ...]:
    """Return so many requests, evenly spread over a time."""
    return tuple(Ask(number, at=number * over / count, process=number % processes, **fields) for number in range(count))


def run(*providers: ProviderSpec, **fields: Any) -> Outcome:
    """Run a world in which every promise holds."""
    fields.setdefault("pool", CHEAP)
    outcome = run_world(World(seed=1, epoch=EPOCH, providers=providers, **fields))
    assert outcome.broken is None
    return outcome


def test_r1_a_thousand_at_once_on_five_dollars_are_fifty() -> None:
    """1,000 concurrent requests of $0.10 each from four processes that share a store: exactly 50 are carried out."""
    # 92 tokens of output and 8 of a prompt, at a dollar per 1,000.
    dollar = ProviderSpec("a", words=200, pace=0.0, price=1.0, settings={"budget": {"daily_limit": 5.0}})

    outcome = run(
        dollar, processes=4, shared=True, asks=asks(1_000, 0.0, processes=4, max_tokens=90, words=1), skews=(0.0,) * 4
    )

    assert outcome.outcomes["answered"] == 50


def test_r3_a_rate_limit_is_used_to_98_percent() -> None:
    """Under steady load of twice as much, and never passed in any window."""
    limited = ProviderSpec("a", settings={"rate_limit": {"rpm": 60, "burst": 0.1}})

    outcome = run(
        limited,
        ProviderSpec("b", price=9.0),
        asks=asks(1_200, 600.0),
        pool={**CHEAP, "strategy": "cost-first"},
    )

    taken = sum(1 for each in outcome.asked if each.model_id == "a")
    assert outcome.outcomes == {"answered": 1_200}
    assert 0.98 * 600 <= taken <= 606


def test_r4_whoever_else_fails_one_that_works_is_enough() -> None:
    """10,000 requests over providers that are down, flap, hang and err 30 % of the time: none fails."""
    span = 2_000.0
    faults = (
        Fault("down", 100.0, 500.0, "a"),
        Fault("flap", 700.0, 1_300.0, "a", 7.0),
        Fault("grey", 0.0, span, "b", 0.3),
        Fault("limited", 500.0, 300.0, "c", 5.0),
        Fault("cut", 900.0, 900.0, "c", 0.0),
    )

    outcome = run(
        *(ProviderSpec(name, pace=0.0) for name in "abcd"),
        asks=tuple(Ask(number, at=number * span / 10_000, stream=number % 2 == 0) for number in range(10_000)),
        faults=faults,
        pool={**CHEAP, "strategy": "round-robin"},
    )

    assert outcome.outcomes == {"answered": 10_000}


def test_r5_an_outage_of_everybody_is_not_amplified() -> None:
    """All are down for a minute under 50 requests a second: at most 1.25 calls a request; soon after, no errors."""
    down = tuple(Fault("error", 30.0, 60.0, name, 503.0) for name in "abc")

    outcome = run(
        *(ProviderSpec(name) for name in "abc"),
        asks=asks(7_500, 150.0),
        faults=down,
        pool={**CHEAP, "recovery": {"cooldown": 5.0}, "deadline": 20.0},
    )

    during = [each for each in outcome.asked if 30.0 <= each.ask.at < 90.0]
    after = [each for each in outcome.asked if each.ask.at >= 90.0 + 2 * 5.0 * 1.1]
    calls = outcome.calls_between(30.0, 90.0)
    assert calls <= 1.25 * len(during)
    assert sum(each.outcome != "answered" for each in after) < 0.01 * len(after)


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Europe/Berlin", "Asia/Kolkata", "Australia/Lord_Howe"])
def test_r17_days_are_the_zones_own_through_400_days(zone: str) -> None:
    """A request an hour on a quota of ten a day: exactly ten of each local day's, through both changes of the clock."""
    start = datetime(2026, 1, 1, tzinfo=ZoneInfo(zone))
    hours = int(((start + timedelta(days=400)).astimezone(UTC) - start.astimezone(UTC)).total_seconds()) // 3_600
    free = ProviderSpec("a", words=1, settings={"quota": {"requests": 10, "reset_schedule": "daily", "timezone": zone}})

    outcome = run_world(
        World(
            seed=1,
            epoch=start.timestamp(),
            providers=(free, ProviderSpec("b", words=1, price=9.0)),
            pool={**CHEAP, "strategy": "cost-first"},
            asks=tuple(Ask(number, at=1_800.0 + 3_600.0 * number) for number in range(hours)),
        )
    )

    by_day: dict[str, int] = {}
    for each in outcome.asked:
        moment = datetime.fromtimestamp(start.timestamp() + each.ask.at, UTC).astimezone(ZoneInfo(zone))
        by_day[f"{moment:%Y-%m-%d}"] = by_day.get(f"{moment:%Y-%m-%d}", 0) + (each.model_id == "a")
    assert outcome.broken is None
    assert len(by_day) == 400
    assert set(by_day.values()) == {10}


def test_free_tiers_are_used_up_before_anybody_pays() -> None:
    """Three providers with 100, 200 and 50 free requests and one paid: 350 of 1,000 are free, and none fails."""
    free = [
        ProviderSpec(name, price=0.1, settings={"quota": {"requests": most, "reset_schedule": "daily"}})
        for name, most in (("a", 100), ("b", 200), ("c", 50))
    ]

    outcome = run(
        *free, ProviderSpec("paid", price=9.0), asks=asks(1_000, 1_000.0), pool={**CHEAP, "strategy": "cost-first"}
    )

    order = [each.model_id == "paid" for each in outcome.asked]
    assert outcome.outcomes == {"answered": 1_000}
    assert order == sorted(order)
    assert order.count(False) == 350
