"""Durations and sizes."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmesh.config.durations import BYTES, SECONDS, parse_duration, parse_size


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("500ms", 0.5), ("60s", 60.0), ("30m", 1800.0), ("1.5h", 5400.0), ("7d", 604800.0), (2, 2.0), (0, 0.0)],
    ids=str,
)
def test_a_duration_is_a_number_with_a_unit_or_seconds(written: object, seconds: float) -> None:
    """Every unit of the grammar, and bare numbers."""
    assert parse_duration(written) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "written",
    ["", "s", "1 week", "1h30m", "--1s", "5", "1e3s", "٣s", True, None, []],
    ids=repr,
)
def test_anything_else_is_no_duration(written: object) -> None:
    """What is refused says how to write it."""
    with pytest.raises(ValueError, match="such as 500ms or 24h"):
        parse_duration(written)


@pytest.mark.parametrize(
    ("written", "size"), [("1KB", 1024), ("10MB", 10 * 1024**2), ("0.5gb", 2**29), (7, 7), (7.0, 7)], ids=str
)
def test_a_size_is_a_number_with_a_unit_or_bytes(written: object, size: int) -> None:
    """Units are 1024-based, upper or lower case."""
    assert parse_size(written) == size


_BEYOND = [
    (-1, "must not be negative"),
    (-0.5, "must not be negative"),
    (-(10**400), "must not be negative"),
    (math.nan, "must be finite"),
    (math.inf, "must be finite"),
    (-math.inf, "must be finite"),
]


@pytest.mark.parametrize(
    ("written", "said"),
    [
        *_BEYOND,
        ("-1s", "must not be negative"),
        (315_360_001, "must not be longer than ten years (3650d)"),
        ("3651d", "must not be longer than ten years (3650d)"),
        ("9" * 400 + "s", "must not be longer than ten years (3650d)"),
        (10**400, "must not be longer than ten years (3650d)"),
    ],
    ids=lambda value: repr(value)[:12],
)
def test_a_duration_beyond_its_bounds_is_told_which(written: object, said: str) -> None:
    """It is a duration, and another one is needed."""
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        parse_duration(written)


@pytest.mark.parametrize("written", [315_360_000, "3650d"], ids=str)
def test_ten_years_are_the_longest_duration(written: object) -> None:
    """As a number and with a unit."""
    assert parse_duration(written) == 10 * 365 * 86_400.0


@pytest.mark.parametrize(
    ("written", "said"),
    [
        *_BEYOND,
        ("-1KB", "must not be negative"),
        ("1048577GB", "must not be larger than 1048576GB"),
        (10**400, "must not be larger than 1048576GB"),
        (1e300, "must not be larger than 1048576GB"),
    ],
    ids=lambda value: repr(value)[:12],
)
def test_a_size_beyond_its_bounds_is_told_which(written: object, said: str) -> None:
    """It is a size, and another one is needed."""
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        parse_size(written)


@pytest.mark.parametrize("written", ["10", "10B", "10 TB", 1.5, True, None], ids=repr)
def test_anything_else_is_no_size(written: object) -> None:
    """What is refused says how to write it."""
    with pytest.raises(ValueError, match="such as 10MB"):
        parse_size(written)


@given(st.integers(0, 3650), st.sampled_from(sorted(SECONDS)))
def test_every_whole_number_and_unit_is_a_duration(number: int, unit: str) -> None:
    """The value is the number times the unit."""
    assert parse_duration(f"{number}{unit}") == pytest.approx(number * SECONDS[unit])


@given(st.one_of(st.text(), st.floats(), st.integers(), st.booleans(), st.none(), st.binary()))
def test_no_input_raises_anything_but_a_value_error_that_hides_it(value: object) -> None:
    """The message is one of a few whatever was written, so that a key in the wrong place is not repeated."""
    for parse, unit in ((parse_duration, "500ms"), (parse_size, "10MB")):
        try:
            assert parse(value) >= 0
        except ValueError as error:
            said = str(error)
            assert said.startswith("must ") or (said.startswith("is no ") and unit in said)


@given(st.integers(0, 10**6), st.sampled_from(sorted(BYTES)))
def test_every_whole_number_and_unit_is_a_size(number: int, unit: str) -> None:
    """The value is the number times the unit."""
    assert parse_size(f"{number}{unit}") == number * BYTES[unit]
