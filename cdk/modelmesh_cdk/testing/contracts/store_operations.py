"""Lists of operations on books, drawn by hypothesis, over few enough names that they meet."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as draw

from modelmesh.interfaces.ledger import Claim, RateClaim, WindowClaim

RESERVATIONS = ("a", "b", "c")
WINDOWS = {"hour": 1_000_000.0, "day": 1_000_000.0, "places": 0.0}
"""How long each is kept."""
RATES = {"even": (4, 4), "odd": (7, 3)}
"""Limit and burst by account; 7 is there because it divides no round number."""

STEPS = (0.25, 0.5, 1.0, 4.0, 16.0)
"""Seconds that are exact in binary, so that every store counts the same microseconds."""


def operations(*, passing: bool) -> draw.SearchStrategy[list[tuple[Any, ...]]]:
    """Draw lists of operations.

    Args:
        passing: Whether time passes between them. Without, rates and leases are so long that none flows or ends.
    """
    period = 4.0 if passing else 1e8
    leases = (1.0, 8.0, 1_000.0) if passing else (10_000.0,)
    amounts = draw.integers(0, 12)
    windows = draw.builds(
        lambda account, amount, limit: WindowClaim(account, amount, limit, WINDOWS[account]),
        draw.sampled_from(sorted(WINDOWS)),
        amounts,
        draw.sampled_from((0, 5, 10, 20)),
    )
    rates = draw.sampled_from(sorted(RATES)).flatmap(
        lambda account: draw.builds(
            RateClaim,
            draw.just(account),
            draw.integers(0, 4),
            draw.just(RATES[account][0]),
            draw.just(period),
            draw.just(RATES[account][1]),
        )
    )
    either: draw.SearchStrategy[Claim] = draw.one_of(windows, rates)
    claims = draw.lists(either, max_size=3, unique_by=lambda claim: claim.account)
    reservation = draw.sampled_from(RESERVATIONS)
    actual = draw.dictionaries(draw.sampled_from((*WINDOWS, *RATES)), amounts, max_size=3)
    kinds: list[draw.SearchStrategy[tuple[Any, ...]]] = [
        draw.tuples(draw.just("reserve"), reservation, claims, draw.sampled_from(leases), draw.booleans()),
        draw.tuples(draw.just("settle"), reservation, actual),
        draw.tuples(draw.just("release"), reservation),
    ]
    if passing:
        kinds.append(draw.tuples(draw.just("pass"), draw.sampled_from(STEPS)))
    return draw.lists(draw.one_of(kinds), min_size=15, max_size=30)
