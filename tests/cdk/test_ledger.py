"""Books: the arithmetic of limits, to the unit and to the microsecond."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as draw

from modelmesh.errors import StateStoreError
from modelmesh.interfaces.ledger import GRANTED, LARGEST_AMOUNT, Balance, RateClaim, Verdict, WindowClaim
from modelmesh_cdk.ledger import SWEEP_SECONDS, Books, check_actual, check_claims

HOUR = 3_600.0


def window(account: str, amount: int, limit: int = 100, *, keep: float = HOUR) -> WindowClaim:
    """Claim on a window."""
    return WindowClaim(account, amount, limit, keep)


def rate(amount: int, limit: int, period: float, burst: int) -> RateClaim:
    """Claim on the one rate of these tests."""
    return RateClaim("flow", amount, limit, period, burst)


@pytest.fixture
def books() -> Books:
    """Nothing spent, nothing reserved."""
    return Books()


# --- windows and leases -------------------------------------------------------------------


def test_what_was_claimed_stands_in_the_way_until_it_is_settled(books: Books) -> None:
    """Reserved and spent count together; settling moves one to the other."""
    books.reserve(0.0, "a", [window("w", 60)], lease=HOUR)
    refused = books.reserve(1.0, "b", [window("w", 41)], lease=HOUR)

    assert refused == Verdict(False, "w", 40)
    assert books.settle(2.0, "a", {"w": 10}) is True
    assert books.balances(3.0, ["w"]) == {"w": Balance(10, 0)}
    assert books.reserve(4.0, "b", [window("w", 90)], lease=HOUR) == GRANTED


def test_an_overspent_account_refuses_even_nothing(books: Books) -> None:
    """Zero more than too much is too much; what is available is never negative."""
    books.reserve(0.0, "a", [window("w", 1)], lease=HOUR)
    books.settle(0.0, "a", {"w": 101})

    assert books.reserve(0.0, "b", [window("w", 0)], lease=HOUR) == Verdict(False, "w", 0)


def test_a_lease_ends_at_its_moment_and_not_before(books: Books) -> None:
    """One microsecond decides."""
    books.reserve(0.0, "a", [window("w", 60)], lease=10.0)

    before, after = books.balances(9.999999, ["w"]), books.balances(10.0, ["w"])

    assert (before["w"], after["w"]) == (Balance(0, 60), Balance(60, 0))
    assert books.settle(10.0, "a", {"w": 1}) is False


def test_an_id_that_is_used_again_has_a_lease_of_its_own(books: Books) -> None:
    """The end of the first one's lease does not end the second."""
    books.reserve(0.0, "a", [window("w", 10)], lease=10.0)
    books.release(1.0, "a")
    books.reserve(2.0, "a", [window("w", 20)], lease=HOUR)

    assert books.balances(11.0, ["w"]) == {"w": Balance(0, 20)}


def test_settled_leases_do_not_pile_up(books: Books) -> None:
    """However many requests come within one lease, only the open ones take memory."""
    for number in range(10_000):
        books.reserve(0.0, f"{number}", [window("w", 0)], lease=HOUR)
        books.settle(0.0, f"{number}", {})

    assert len(books._leases) < 200
    assert not books.reservations


def test_accounts_nobody_needs_are_forgotten(books: Books) -> None:
    """A window after its time and a rate that has rested; but nothing that is still reserved."""
    books.reserve(0.0, "a", [window("old", 1, keep=5.0), rate(1, 10, 1.0, 10)], lease=1.0)
    books.reserve(0.0, "b", [window("held", 1, keep=5.0)], lease=HOUR)
    books.balances(SWEEP_SECONDS * 2.0, [])

    assert (list(books.windows), list(books.rates)) == (["held"], [])


def test_a_forgotten_window_begins_anew(books: Books) -> None:
    """Whether it was swept already or not."""
    books.reserve(1.0, "a", [window("w", 100, keep=5.0)], lease=1.0)
    books.settle(1.5, "a", {})

    assert books.reserve(6.4, "b", [window("w", 1)], lease=1.0).granted is False
    assert books.balances(6.5, ["w"]) == {"w": Balance()}
    assert books.reserve(6.5, "b", [window("w", 100)], lease=1.0) == GRANTED


# --- rates --------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 3, 7, 60, 333, 1_000_003])
def test_a_burst_fits_exactly_whatever_the_limit(books: Books, limit: int) -> None:
    """One by one as many as the burst, and not one more: no rounding eats or adds any."""
    burst = min(limit, 50)

    granted = [books.reserve(0.0, f"{i}", [rate(1, limit, 60.0, burst)], lease=HOUR).granted for i in range(burst + 1)]

    assert granted == [True] * burst + [False]


def test_a_rate_says_to_the_microsecond_when(books: Books) -> None:
    """At ``retry_after`` it is granted, a microsecond earlier it is not."""
    books.reserve(0.0, "a", [rate(7, 7, 1.0, 7)], lease=HOUR)
    refused = books.reserve(0.0, "b", [rate(3, 7, 1.0, 7)], lease=HOUR)

    assert refused == Verdict(False, "flow", 0, 0.428572)
    assert books.reserve(0.428571, "b", [rate(3, 7, 1.0, 7)], lease=HOUR).granted is False
    assert books.reserve(0.428572, "b", [rate(3, 7, 1.0, 7)], lease=HOUR).granted is True


def test_a_clock_that_is_put_back_stops_no_rate(books: Books) -> None:
    """The account flows on from the clock's new time, even if all that came meanwhile was refused."""
    claim = [rate(10, 10, 10.0, 10)]
    books.reserve(HOUR, "a", claim, lease=HOUR)

    assert books.reserve(5.0, "b", claim, lease=HOUR).retry_after == 10.0
    assert books.reserve(10.0, "b", claim, lease=HOUR).retry_after == 5.0
    assert books.reserve(15.0, "b", claim, lease=HOUR) == GRANTED


def test_a_debt_survives_another_period(books: Books) -> None:
    """When the configuration counts by the minute instead of the second, what is owed stays owed."""
    books.reserve(0.0, "a", [rate(10, 10, 1.0, 10)], lease=HOUR)

    refused = books.reserve(0.0, "b", [rate(1, 10, 60.0, 10)], lease=HOUR)

    assert refused == Verdict(False, "flow", 0, 6.0)


def test_an_undispatched_lease_gives_back_as_of_its_end(books: Books) -> None:
    """However late somebody looks: what the account owes then is the same."""
    for delay in (0.0, 2.0):
        books = Books()
        books.reserve(0.0, "a", [rate(8, 8, 8.0, 8)], lease=2.0, dispatched=False)
        books.balances(2.0 + delay, [])
        assert books.reserve(4.0, "b", [rate(8, 8, 8.0, 8)], lease=HOUR) == GRANTED


@settings(max_examples=300, deadline=None)
@given(
    limit=draw.sampled_from((1, 4, 7)),
    burst=draw.sampled_from((1, 4, 7)),
    steps=draw.lists(
        draw.tuples(
            draw.sampled_from((0.0, 0.25, 3.0)),  # time passes
            draw.sampled_from((1, 4)),  # is asked for
            draw.integers(0, 4),  # how many steps later it is settled
            draw.sampled_from((0, 1, 4)),  # at what
        ),
        max_size=20,
    ),
)
def test_no_window_of_time_sees_more_than_flows_and_a_burst(
    limit: int, burst: int, steps: list[tuple[float, int, int, int]]
) -> None:
    """Over any history of claims that settle at less, what was really used keeps limit and burst in every window."""
    burst, period, books, now = min(burst, limit), 2.0, Books(), 0.0
    used: list[tuple[float, int]] = []
    running: list[tuple[int, str, int]] = []
    for place, (passed, amount, later, actual) in enumerate(steps):
        now += passed
        for _, name, less in [each for each in running if each[0] == place]:
            assert books.settle(now, name, {"flow": less})
        if books.reserve(now, f"{place}", [rate(amount, limit, period, burst)], lease=HOUR).granted:
            used.append((now, min(amount, actual)))
            running.append((place + 1 + later, f"{place}", min(amount, actual)))

    for first in range(len(used)):
        total = 0
        for last in range(first, len(used)):
            total += used[last][1]
            assert total <= burst + limit * (used[last][0] - used[first][0]) / period + 1e-4


# --- keeping ------------------------------------------------------------------------------


def test_books_come_back_as_they_were_written(books: Books) -> None:
    """Through JSON, leases included."""
    books.reserve(0.0, "a", [window("w", 5), rate(3, 7, 1.0, 7)], lease=10.0, dispatched=False)
    books.reserve(0.0, "b", [window("w", 6)], lease=10.0)

    again = Books.read(json.loads(json.dumps(books.dump())))

    assert again.dump() == books.dump()
    assert again.balances(10.0, ["w"]) == {"w": Balance(6, 0)}


@pytest.mark.parametrize(
    "dumped",
    [{}, {"windows": {"w": [1]}, "rates": {}, "reservations": {}}, {"windows": [], "rates": {}, "reservations": {}}],
    ids=["nothing", "short", "list"],
)
def test_what_are_no_books_is_not_read(dumped: dict[str, Any]) -> None:
    """It raises what the caller can tell from success."""
    with pytest.raises((KeyError, ValueError, TypeError, AttributeError)):
        Books.read(dumped)


# --- what makes no sense ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("claims", "lease", "words"),
    [
        ([], 0.0, "a lease is a positive number of seconds, 1e10 at most, not 0.0"),
        ([], 1.1e10, "a lease is"),
        ([window("w", 1), window("w", 2)], 1.0, "on different accounts"),
        ([window("a\nb", 1)], 1.0, "printable text"),
        ([window("w", -1)], 1.0, r"w: an amount is a whole number from 0 to 2\*\*60, not -1"),
        ([window("w", True)], 1.0, "w: an amount"),
        ([window("w", LARGEST_AMOUNT + 1)], 1.0, "w: an amount"),
        ([WindowClaim("w", 1, 1.5, HOUR)], 1.0, "w: a limit"),  # type: ignore[arg-type]  # that is the point
        ([window("w", 1, keep=-1.0)], 1.0, "w: keep is a time"),
        ([window("w", 1, keep=1.1e10)], 1.0, "w: keep is a time"),
        ([rate(1, 5, 1.1e10, 5)], 1.0, "flow: a period"),
        ([rate(1, 5, 1.0, 2.5)], 1.0, "flow: a rate's limit"),  # type: ignore[arg-type]  # that is the point
        ([rate(1, 0, 1.0, 0)], 1.0, "flow: a rate's limit is 1 or more"),
        ([rate(1, 5, 1.0, 6)], 1.0, "here they are 5 and 6"),
        ([rate(1, 5, float("nan"), 5)], 1.0, "flow: a period"),
    ],
)
def test_claims_that_mean_nothing_are_named(claims: list[Any], lease: float, words: str) -> None:
    """The message says which account, what was given and what is expected."""
    with pytest.raises(StateStoreError, match=words):
        check_claims(claims, lease)


@pytest.mark.parametrize("amount", [-1, 0.5, True, LARGEST_AMOUNT + 1], ids=repr)
def test_spending_that_means_nothing_is_named(amount: Any) -> None:
    """No negative spending hands back what somebody else paid."""
    with pytest.raises(StateStoreError, match=r"^w: what was spent is a whole number"):
        check_actual({"w": amount})


def test_spending_on_an_account_that_no_store_could_keep_is_named() -> None:
    """It would fail the settlements of others that share its round trip."""
    with pytest.raises(StateStoreError, match="printable text"):
        check_actual({"a\0b": 1})
