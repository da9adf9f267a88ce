"""The scripts decide as the reference arithmetic does, to the integer."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from modelmesh.interfaces.ledger import Claim, RateClaim, WindowClaim
from modelmesh_cdk.ledger import Books

redis = pytest.importorskip("modelmesh_plugins.state_stores.redis")

# A clock the test sets; keys live by the server's own, so it stands far ahead of that.
TEST_CLOCK = "local function clock() return tonumber(redis.call('GET', 'clock-of-' .. KEYS[1])) end\n"
START = 4_000_000_000

AMOUNTS = st.one_of(st.integers(0, 12), st.integers(0, 10**9), st.integers(0, 2**60))
LIMITS = {"small": 10, "money": 5 * 10**9, "huge": 2**53 - 1, "beyond": 2**60}
RATES = {"fast": (5, 1.0, 3), "slow": (7, 60.0, 7), "day": (1_000_000, 86_400.0, 250_000), "odd": (3, 0.777, 1)}


def claims() -> st.SearchStrategy[list[Claim]]:
    """Claims on different accounts."""
    windows = st.builds(
        lambda name, amount, keep: WindowClaim(name, amount, LIMITS[name], keep),
        st.sampled_from(list(LIMITS)),
        AMOUNTS,
        st.sampled_from([0.0, 0.5, 20.0, 1e12]),
    )
    rates = st.builds(
        lambda name, amount: RateClaim(name, amount, *RATES[name]),
        st.sampled_from(list(RATES)),
        st.one_of(st.integers(0, 8), st.integers(0, 300_000)),
    )
    return st.lists(st.one_of(windows, rates), max_size=3, unique_by=lambda claim: claim.account)


IDS = st.sampled_from(["a", "b", "c", "d", "e"])
ACTUALS = st.dictionaries(st.sampled_from([*LIMITS, *RATES]), AMOUNTS, max_size=3)
STEPS = st.one_of(
    st.tuples(st.just("reserve"), IDS, claims(), st.sampled_from([0.25, 5.0, 1e9]), st.booleans()),
    st.tuples(st.just("settle"), IDS, ACTUALS),
    st.tuples(st.just("release"), IDS),
    st.tuples(st.just("balances")),
    st.tuples(st.just("advance"), st.sampled_from([-2_000_000, 1, 200_000, 300_000, 900_000, 4_999_999, 30_000_000])),
)
# What a rate still owes shows in how long a whole burst must wait.
PROBES = [("reserve", f"probe {name}", [RateClaim(name, rate[2], *rate)], 5.0, False) for name, rate in RATES.items()]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(
    steps=[
        ("reserve", "a", [RateClaim("day", 4, *RATES["day"])], 0.25, False),
        ("reserve", "b", [RateClaim("day", 4, *RATES["day"])], 5.0, True),
        ("advance", 300_000),
    ]
)
@given(steps=st.lists(STEPS, max_size=30))
def test_the_same_operations_get_the_same_answers(redis_server: Any, own_name: str, steps: list[Any]) -> None:
    """Whatever is reserved, settled, released and awaited, verdicts and balances are those of `Books`."""
    store = redis.RedisStateStore(redis.RedisConfig(url=SecretStr(redis_server.url), key_prefix=own_name, timeout=10.0))
    store._scripts = redis.store.scripts(TEST_CLOCK)

    asyncio.run(_compare(store, steps))


async def _compare(store: Any, steps: list[Any]) -> None:
    books, now = Books(), START * 1_000_000
    wire = store._line[0]
    command = redis.connection.Command
    try:
        await wire.run(command(("FLUSHALL",)))
        for step in [*steps, *PROBES, ("balances",)]:
            await wire.run(command(("SET", f"clock-of-{store._prefix}leases", now)))
            seconds = now / 1_000_000
            match step:
                case "reserve", name, claimed, lease, dispatched:
                    expected: Any = books.reserve(seconds, name, claimed, lease=lease, dispatched=dispatched)
                    assert await store.reserve(name, claimed, lease=lease, dispatched=dispatched) == expected, step
                case "settle", name, actual:
                    expected = books.settle(seconds, name, actual)
                    assert await store.settle(name, actual) == expected, step
                case "release", name:
                    expected = books.release(seconds, name)
                    assert await store.release(name) == expected, step
                case "balances", *_:
                    expected = books.balances(seconds, list(LIMITS))
                    assert await store.balances(list(LIMITS)) == expected, step
                case "advance", microseconds:
                    now += microseconds
    finally:
        await store.close()
