"""Durations as people say them."""

from __future__ import annotations

import pytest

from modelmesh.lasting import lasting


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (-3.0, "0s"),
        (0.0, "0s"),
        (0.25, "0.25s"),
        (9.949, "9.9s"),
        (9.96, "10s"),
        (45.4, "45s"),
        (59.6, "1m"),
        (90.0, "1m 30s"),
        (3_599.9, "1h"),
        (3_600.0, "1h"),
        (5_400.0, "1h 30m"),
        (86_399.0, "1d"),
        (86_400.0, "1d"),
        (803_483.0, "9d 7h"),
        (400 * 86_400.0, "400d"),
    ],
)
def test_the_two_largest_units_are_said(seconds: float, said: str) -> None:
    """Rounded, with no unit of nothing and none that is full."""
    assert lasting(seconds) == said
