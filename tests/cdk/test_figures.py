"""The figures strategies compare candidates by."""

from __future__ import annotations

from typing import Any

import pytest

from modelmesh.interfaces.provider import ModelPricing, RateLimitStatus
from modelmesh.interfaces.strategy import ModelSnapshot
from modelmesh_cdk.figures import NEVER, Headroom, HeadroomReader, neutral, price_per_token


@pytest.mark.parametrize(
    ("pricing", "share", "expected"),
    [
        (None, 0.5, None),
        (ModelPricing(1.0, 3.0), 0.5, 0.002),
        (ModelPricing(1.0, 3.0), 0.0, 0.001),
        (ModelPricing(1.0, 3.0), 1.0, 0.003),
        (ModelPricing(per_request=2.0), 0.5, 0.002),
        (ModelPricing(), 0.5, 0.0),
    ],
    ids=["unknown", "half", "input", "output", "per-request", "free"],
)
def test_the_price_of_an_average_token(pricing: ModelPricing | None, share: float, expected: float | None) -> None:
    """In USD; a price per request is spread over a thousand tokens."""
    assert price_per_token(pricing, output_share=share) == expected


def test_the_median_stands_in_for_the_unknown() -> None:
    """Nothing known is nothing to choose by."""
    assert (neutral([3.0, 1.0, 2.0]), neutral([1.0, 2.0]), neutral([])) == (2.0, 1.5, 0.0)


def model(*figures: Any, **more: Any) -> ModelSnapshot:
    """Return a candidate whose provider said this."""
    return ModelSnapshot("m", "p", rate_limits=RateLimitStatus(*figures, **more))


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ({"requests_remaining": 80, "requests_limit": 500}, Headroom(80.0, 0.16)),
        ({"requests_remaining": 80}, Headroom(80.0, None)),
        ({"requests_limit": 500}, None),
        ({}, None),
        ({"tokens_remaining": 30_000, "tokens_limit": 60_000}, Headroom(30.0, 0.5)),
        (
            {"requests_remaining": 90, "requests_limit": 100, "tokens_remaining": 5_000, "tokens_limit": 100_000},
            Headroom(5.0, 0.05),
        ),
        ({"requests_remaining": 120, "requests_limit": 100}, Headroom(120.0, 1.0)),
    ],
    ids=["requests", "no-limit", "no-remaining", "nothing", "tokens", "the-tighter", "more-than-the-limit"],
)
def test_headroom_is_the_tighter_of_both_limits(status: dict[str, int], expected: Headroom | None) -> None:
    """Absolute in requests, relative as a share of the limit."""
    assert HeadroomReader().read(model(**status), 0.0) == expected


def test_what_was_never_said_is_not_known() -> None:
    """And no window ends."""
    reader, silent = HeadroomReader(), ModelSnapshot("m", "p")

    assert (reader.read(silent, 0.0), reader.window_ends(silent, 0.0), reader.next_end(0.0)) == (None, None, NEVER)


def test_a_window_begins_to_run_when_the_report_is_first_seen() -> None:
    """Reading it again, or an equal one, does not put off its end; when it has ended the limit is fresh."""
    reader = HeadroomReader()
    shares = []
    for now in (100.0, 110.0, 119.9, 120.0):
        left = reader.read(model(requests_remaining=10, requests_limit=100, reset_seconds=20.0), now)
        shares.append(left and left.share)

    assert shares == [0.1, 0.1, 0.1, 1.0]


def test_a_new_report_begins_a_new_window() -> None:
    """The provider knows better than the clock."""
    reader = HeadroomReader()
    reader.read(model(requests_remaining=10, requests_limit=100, reset_seconds=20.0), 100.0)
    later = model(requests_remaining=9, requests_limit=100, reset_seconds=20.0)

    assert (reader.window_ends(later, 115.0), reader.next_end(115.0), reader.next_end(135.0)) == (135.0, 135.0, NEVER)


def test_models_that_left_are_forgotten() -> None:
    """Their windows end no more."""
    reader = HeadroomReader()
    reader.read(model(requests_remaining=10, requests_limit=100, reset_seconds=20.0), 0.0)

    reader.forget_all_but(frozenset({"other"}))

    assert reader.next_end(0.0) == NEVER


def test_models_that_stay_are_remembered() -> None:
    """Their windows go on from when they were first seen."""
    reader, said = HeadroomReader(), model(requests_remaining=10, requests_limit=100, reset_seconds=20.0)
    reader.read(said, 0.0)

    reader.forget_all_but(frozenset({"m", "other"}))

    assert reader.window_ends(said, 15.0) == 20.0


def test_usage_is_what_is_not_left() -> None:
    """Without a limit nothing is used."""
    assert (Headroom(80.0, 0.25).usage, Headroom(80.0, None).usage) == (0.75, 0.0)
