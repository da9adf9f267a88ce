"""Dollars as people write them."""

from __future__ import annotations

from decimal import Decimal


def in_dollars(dollars: float) -> str:
    """Write an amount to the last digit that was given, a billionth of a dollar at least, never in powers of ten."""
    whole, _, cents = f"{Decimal(str(round(dollars, 9))):f}".partition(".")
    return f"${whole}.{cents:0<2}" if cents.strip("0") else f"${whole}"
