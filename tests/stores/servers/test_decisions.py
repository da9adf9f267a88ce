"""Scripts and functions in the servers decide as the reference arithmetic does, to the integer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from modelmesh.interfaces.ledger import Claim, RateClaim, WindowClaim
from modelmesh.interfaces.state_store import StateStore
from modelmesh_cdk.ledger import Books

redis = pytest.importorskip("modelmesh_plugins.state_stores.redis")
postgres = pytest.importorskip("modelmesh_plugins.state_stores.postgres")

# Keys live by the server's own clock, so the one the test sets stands far ahead of that.
START = 4_000_000_000
LUA_CLOCK = "local function clock() return tonumber(redis.call('GET', 'clock-of-' .. KEYS[1])) end\n"
SQL_CLOCK = """
CREATE TABLE {s}.test_clock (now numeric);
INSERT INTO {s}.test_clock VALUES (0);
CREATE OR REPLACE FUNCTION {s}.now_us() RETURNS numeric LANGUAGE sql VOLATILE AS 'SELECT now FROM {s}.test_clock';
"""

AMOUNTS = st.one_of(st.integers(0, 12), st.integers(0, 10**9), st.integers(0, 2**60))
LIMITS = {"small": 10, "money": 5 * 10**9, "beyond": 2**60}
RATES = {"fast": (5, 1.0, 3), "day": (1_000_000, 86_400.0, 250_000), "odd": (11, 0.777, 2)}
FLOWS = [*RATES.items(), ("fast", (20, 7.0, 9))]  # the last is a limit that was changed meanwhile


def claims() -> st.SearchStrategy[list[Claim]]:
    """Claims on different accounts."""
    windows = st.builds(
        lambda name, amount, keep: WindowClaim(name, amount, LIMITS[name], keep),
        st.sampled_from(list(LIMITS)),
        AMOUNTS,
        st.sampled_from([0.0, 0.5, 20.0, 1e10]),
    )
    rates = st.builds(
        lambda flow, amount: RateClaim(flow[0], amount, *flow[1]),
        st.sampled_from(FLOWS),
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


EXAMPLE = [
    ("reserve", "a", [RateClaim("day", 4, *RATES["day"])], 0.25, False),
    ("reserve", "b", [RateClaim("day", 4, *RATES["day"])], 5.0, True),
    ("advance", 300_000),
]
# The claim that is named first refuses, not the one that is locked first; and a wait that is no whole microsecond.
REFUSED_TWICE = [
    ("reserve", "a", [RateClaim("odd", 3, *RATES["odd"]), WindowClaim("small", 11, 10, 20.0)], 5.0, True),
    ("reserve", "a", [RateClaim("odd", 1, *RATES["odd"])], 5.0, True),
    ("reserve", "b", [RateClaim("odd", 2, *RATES["odd"]), WindowClaim("small", 11, 10, 20.0)], 5.0, True),
]
QUICK = settings(
    deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@settings(QUICK, max_examples=120)
@example(steps=EXAMPLE)
@example(steps=REFUSED_TWICE)
@given(steps=st.lists(STEPS, max_size=30))
def test_redis_gives_the_reference_answers(redis_server: Any, own_name: str, steps: list[Any]) -> None:
    """Whatever is reserved, settled, released and awaited, verdicts and balances are those of `Books`."""
    config = redis.RedisConfig(url=SecretStr(redis_server.url), key_prefix=own_name, timeout=10.0)
    store = redis.RedisStateStore(config)
    store._calls = redis.store.LedgerCalls(redis.store.scripts(LUA_CLOCK).ledger, store._prefix)
    command = redis.store.command

    async def clear() -> None:
        await store._run(command("FLUSHALL"))

    async def set_clock(now: int) -> None:
        await store._run(command("SET", f"clock-of-{store._prefix}leases", now))

    asyncio.run(_compare(store, steps, clear, set_clock))


@pytest.mark.parametrize("together", [False, True], ids=["alone", "together"])
@settings(QUICK, max_examples=60)
@example(steps=EXAMPLE)
@example(steps=REFUSED_TWICE)
@given(steps=st.lists(STEPS, max_size=20))
def test_postgres_gives_the_reference_answers(
    postgres_server: Any, own_name: str, together: bool, steps: list[Any]
) -> None:
    """Whatever is reserved, settled, released and awaited, one by one or many at once, the answers are `Books`'."""
    config = postgres.PostgresConfig(
        url=SecretStr(postgres_server.url), schema=own_name, timeout=10.0, synchronous_commit=False
    )
    store = postgres.PostgresStateStore(config)

    async def run(statement: str, *values: Any) -> None:
        lane = store._database._books
        await lane.run(lambda link: link.execute(store._named(statement), values), within=10.0, repeatable=False)

    async def clear() -> None:
        await store.balances([])  # makes the schema
        await run("TRUNCATE {s}.windows, {s}.rates, {s}.reservations")

    async def set_clock(now: int) -> None:
        await run("UPDATE {s}.test_clock SET now = %s", now)

    if own_name not in _WITH_CLOCK:
        _WITH_CLOCK.add(own_name)

        async def prepare() -> None:
            await clear()
            for statement in SQL_CLOCK.split(";\n")[:-1]:
                await run(statement)

        asyncio.run(prepare())
    asyncio.run(_compare(store, steps, clear, set_clock, together=together))


_WITH_CLOCK: set[str] = set()


async def _compare(
    store: StateStore,
    steps: list[Any],
    clear: Callable[[], Awaitable[None]],
    set_clock: Callable[[int], Awaitable[None]],
    *,
    together: bool = False,
) -> None:
    books, now = Books(), START * 1_000_000
    books._sweep_at = 2**70  # when accounts are swept shows only where limits were changed, and is each store's affair
    asked: list[tuple[Any, Any, Awaitable[Any]]] = []

    async def check() -> None:
        # Asked in one turn of the loop they go in one batch, in this order.
        answers = await asyncio.gather(*(answer for _, _, answer in asked))
        for (step, expected, _), answer in zip(asked, answers, strict=True):
            assert answer == expected, step
        asked.clear()

    try:
        await clear()
        await set_clock(now)
        for step in [*steps, *PROBES, ("balances",)]:
            seconds = now / 1_000_000
            match step:
                case "reserve", name, claimed, lease, dispatched:
                    expected: Any = books.reserve(seconds, name, claimed, lease=lease, dispatched=dispatched)
                    asked.append((step, expected, store.reserve(name, claimed, lease=lease, dispatched=dispatched)))
                case "settle", name, actual:
                    asked.append((step, books.settle(seconds, name, actual), store.settle(name, actual)))
                case "release", name:
                    asked.append((step, books.release(seconds, name), store.release(name)))
                case "balances", *_:
                    asked.append((step, books.balances(seconds, list(LIMITS)), store.balances(list(LIMITS))))
                case "advance", microseconds:
                    await check()
                    now += microseconds
                    await set_clock(now)
            if not together:
                await check()
        await check()
    finally:
        await store.close()
