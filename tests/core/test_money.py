"""Dollars as people write them."""

from __future__ import annotations

import pytest

from modelmesh.money import in_dollars


@pytest.mark.parametrize(
    ("amount", "written"),
    [
        (5, "$5"),
        (5.0, "$5"),
        (0.5, "$0.50"),
        (12_345.67, "$12345.67"),
        (0.1 + 0.2, "$0.30"),
        (0.000_000_001, "$0.000000001"),
        (1e12, "$1000000000000"),
        (-2.25, "$-2.25"),
    ],
    ids=str,
)
def test_an_amount_is_written_to_its_last_digit_and_never_in_powers_of_ten(amount: float, written: str) -> None:
    """Whatever arithmetic it comes from."""
    assert in_dollars(amount) == written
