"""Calendar windows: days and months of a time zone, whatever its clocks do."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from modelmesh._engine.windows import CalendarWindow


def unix(text: str, zone: str = "UTC") -> float:
    """Return the Unix time of a wall time."""
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


@pytest.mark.parametrize(
    ("kind", "zone", "moment", "name", "ends"),
    [
        ("daily", "UTC", "2026-11-21T23:59:59", "2026-11-21", "2026-11-22T00:00"),
        ("daily", "Europe/Berlin", "2026-11-21T00:00:00", "2026-11-21", "2026-11-22T00:00"),
        ("monthly", "UTC", "2026-11-30T12:00:00", "2026-11", "2026-12-01T00:00"),
        ("monthly", "UTC", "2026-12-31T23:59:59", "2026-12", "2027-01-01T00:00"),
        ("monthly", "UTC", "2028-02-29T00:00:00", "2028-02", "2028-03-01T00:00"),
    ],
    ids=["last second", "first second", "month", "year", "leap day"],
)
def test_a_moment_lies_in_the_window_of_its_zone(kind: str, zone: str, moment: str, name: str, ends: str) -> None:
    """The name and the end are the zone's own."""
    window = CalendarWindow(kind, zone)  # type: ignore[arg-type]

    assert window.at(unix(moment, zone)) == (name, unix(ends, zone))


@pytest.mark.parametrize(("day", "hours"), [("2026-03-29", 23), ("2026-10-25", 25)], ids=["spring", "autumn"])
def test_days_are_shorter_and_longer_where_the_clocks_change(day: str, hours: int) -> None:
    """The window ends at the zone's midnight, not 24 hours later."""
    start = unix(f"{day}T00:00", "Europe/Berlin")

    assert CalendarWindow("daily", "Europe/Berlin").at(start) == (day, start + hours * 3600)


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Europe/Berlin", "Australia/Lord_Howe", "Asia/Kolkata"])
@pytest.mark.parametrize("kind", ["daily", "monthly"])
def test_windows_follow_one_another_without_gap_or_overlap(zone: str, kind: str) -> None:
    """Over 400 days, hour by hour: each moment lies before its window's end, and the next window begins there."""
    window, fresh = CalendarWindow(kind, zone), CalendarWindow(kind, zone)  # type: ignore[arg-type]
    start = datetime(2027, 12, 1, tzinfo=UTC)
    name, ends = window.at(start.timestamp())

    for hour in range(400 * 24):
        moment = (start + timedelta(hours=hour)).timestamp()
        while moment >= ends:
            following, later = window.at(ends)
            assert (following != name, later > ends) == (True, True)
            name, ends = following, later
        assert window.at(moment) == (name, ends)
        assert fresh.at(moment) == (name, ends)


def test_a_clock_put_back_finds_its_old_window_again() -> None:
    """The name depends on the moment alone."""
    window = CalendarWindow("daily")
    before = window.at(unix("2026-11-21T12:00"))

    window.at(unix("2026-11-22T12:00"))

    assert window.at(unix("2026-11-21T13:00")) == before
