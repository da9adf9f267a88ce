"""What is sent to Redis is what redis-py would send, for the same words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from modelmesh.interfaces.ledger import Claim, RateClaim, WindowClaim

redis_py = pytest.importorskip("redis.asyncio.connection")
redis = pytest.importorskip("modelmesh_plugins.state_stores.redis")

SCRIPT = redis.store.scripts().ledger
CALLS = redis.store.LedgerCalls(SCRIPT, "{mesh}:")
NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)
AMOUNTS = st.integers(0, 2**60)
WINDOWS = st.builds(WindowClaim, NAMES, AMOUNTS, AMOUNTS, st.floats(0, 1e9))
RATES = st.builds(RateClaim, NAMES, AMOUNTS, st.integers(1, 2**60), st.floats(1e-6, 1e9), st.integers(1, 2**60))


def packed(*words: Any) -> bytes:
    """Pack as redis-py does."""
    return b"".join(redis_py.Connection().pack_command(*words))


def called(*words: Any, keys: tuple[str, ...] = (), reservation: str) -> bytes:
    """Pack a call of the ledger's script: its operation, and what follows the reservation."""
    operation, *rest = words
    own = ("{mesh}:leases", f"{{mesh}}:r:{reservation}", *keys)
    return packed("EVALSHA", SCRIPT.digest, len(own), *own, operation, "{mesh}:", reservation, *rest)


@given(words=st.lists(st.text(st.characters(exclude_categories=["Cs"])) | st.binary() | st.integers()))
def test_commands_are_packed_as_redis_py_packs_them(words: list[Any]) -> None:
    """Text of every script, bytes and numbers."""
    assert redis.store.command("SET", *words).packed == packed("SET", *words)


def facts(claims: list[Claim]) -> tuple[tuple[str, ...], list[Any]]:
    """The keys of claims, and the words they are told by."""
    keys, words = [], []
    for claim in claims:
        kind = "w" if isinstance(claim, WindowClaim) else "q"
        keys.append(f"{{mesh}}:{kind}:{claim.account}")
        span = claim.keep if isinstance(claim, WindowClaim) else claim.period
        burst = "" if isinstance(claim, WindowClaim) else claim.burst
        words += [kind, claim.account, claim.amount, claim.limit, int(span * 1_000_000), burst]
    return tuple(keys), words


@given(reservation=NAMES, claims=st.lists(WINDOWS | RATES, max_size=4), dispatched=st.booleans())
@example(reservation="запрос", claims=[WindowClaim("бюджет/🙂", 1, 10, 90_000.0)], dispatched=True)
def test_a_reservation_names_every_key_and_all_facts_of_each_claim(
    reservation: str, claims: list[Claim], dispatched: bool
) -> None:
    """Also of limits that were claimed before, whose words are kept."""
    keys, words = facts(claims)
    expected = called("reserve", 60_000_000, int(dispatched), *words, keys=keys, reservation=reservation)

    for _ in range(2):
        command = CALLS.reserve(reservation, claims, 60.0, dispatched)

        assert (command.packed, command.script, command.repeatable) == (expected, SCRIPT, True)


@given(window=WINDOWS, rate=RATES, others=st.lists(st.tuples(AMOUNTS, st.floats(0, 1e9)), min_size=1, max_size=4))
def test_claims_on_the_same_limits_differ_in_amount_and_time(
    window: WindowClaim, rate: RateClaim, others: list[tuple[int, float]]
) -> None:
    """One right after the other, what is kept of the first does not speak for the next."""
    for amount, keep in [(window.amount, window.keep), *others]:
        claims: list[Claim] = [replace(window, amount=amount, keep=keep), replace(rate, amount=amount)]
        keys, words = facts(claims)

        command = CALLS.reserve("one", claims, 60.0, False)

        assert command.packed == called("reserve", 60_000_000, 0, *words, keys=keys, reservation="one")


def test_a_windows_words_are_packed_once_however_long_it_counts() -> None:
    """Real claims count until the window's end, which is nearer each time."""
    packed_words = redis.ledger_calls._words_of_window
    before = packed_words.cache_info()

    for number in range(10):
        CALLS.reserve("one", [WindowClaim("packed once", 1, 10, 3_600.0 - number)], 60.0, False)

    after = packed_words.cache_info()
    assert (after.misses - before.misses, after.hits - before.hits) == (1, 9)


@given(reservation=NAMES, actual=st.dictionaries(NAMES, AMOUNTS, max_size=4))
def test_what_settles_is_sent_once_and_what_reads_may_be_sent_again(reservation: str, actual: dict[str, int]) -> None:
    """A reservation that was settled unheard would seem never to have been open."""
    settle, release, balances = (
        CALLS.settle(reservation, actual),
        CALLS.release(reservation),
        CALLS.balances(list(actual)),
    )

    assert settle.packed == called(
        "settle", *(word for pair in actual.items() for word in pair), reservation=reservation
    )
    assert release.packed == called("release", reservation=reservation)
    assert balances.packed == called("balances", *actual, reservation="")
    assert (settle.repeatable, release.repeatable, balances.repeatable) == (False, False, True)
