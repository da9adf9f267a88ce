"""Durations and sizes."""

from __future__ import annotations

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
    ["", "s", "1 week", "1h30m", "-1s", "5", "1e3s", "٣s", -1, True, None, [], float("nan"), float("inf"), 10**400],
    ids=lambda value: repr(value)[:12],
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


@pytest.mark.parametrize("written", ["10", "10B", "10 TB", -1, 1.5, True, None], ids=repr)
def test_anything_else_is_no_size(written: object) -> None:
    """What is refused says how to write it."""
    with pytest.raises(ValueError, match="such as 10MB"):
        parse_size(written)


@given(st.integers(0, 10**6), st.sampled_from(sorted(SECONDS)))
def test_every_whole_number_and_unit_is_a_duration(number: int, unit: str) -> None:
    """The value is the number times the unit."""
    assert parse_duration(f"{number}{unit}") == pytest.approx(number * SECONDS[unit])


@given(st.one_of(st.text(), st.floats(), st.integers(), st.booleans(), st.none(), st.binary()))
def test_no_input_raises_anything_but_a_value_error_that_hides_it(value: object) -> None:
    """The message is the same whatever was written, so that a key in the wrong place is not repeated."""
    for parse, unit in ((parse_duration, "500ms"), (parse_size, "10MB")):
        try:
            assert parse(value) >= 0
        except ValueError as error:
            assert unit in str(error)  # noqa: PT017 (either outcome is right)
            assert str(error).startswith("is no ")  # noqa: PT017


@given(st.integers(0, 10**6), st.sampled_from(sorted(BYTES)))
def test_every_whole_number_and_unit_is_a_size(number: int, unit: str) -> None:
    """The value is the number times the unit."""
    assert parse_size(f"{number}{unit}") == number * BYTES[unit]
