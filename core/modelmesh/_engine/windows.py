"""Calendar windows: which day or month it is where a limit counts, and when the next one begins."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Literal
from zoneinfo import ZoneInfo


class CalendarWindow:
    """Days or months of one time zone.

    Days are the zone's own: 23 or 25 hours long where the clocks change.
    """

    __slots__ = ("_begins", "_ends", "_name", "_zone", "kind")

    def __init__(self, kind: Literal["daily", "monthly"], zone: str = "UTC") -> None:
        self.kind = kind
        self._zone = ZoneInfo(zone)
        self._name = ""
        self._begins = self._ends = 0.0

    def at(self, now: float) -> tuple[str, float]:
        """Return the window that a moment lies in: its name, such as ``2026-11-21`` or ``2026-11``, and its end.

        Args:
            now: Unix time; the end is one, too.
        """
        if not self._begins <= now < self._ends:
            self._find(now)
        return self._name, self._ends

    def span(self, now: float) -> tuple[float, float]:
        """Return the begin and the end of the window that a moment lies in, as Unix times."""
        self.at(now)
        return self._begins, self._ends

    def _find(self, now: float) -> None:
        today = datetime.fromtimestamp(now, self._zone).replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
        if self.kind == "daily":
            begins, following = today, today + timedelta(days=1)
            self._name = f"{today:%Y-%m-%d}"
        else:
            begins = today.replace(day=1)
            # The 28th and four days more lie in the next month, whatever the month.
            following = (begins.replace(day=28) + timedelta(days=4)).replace(day=1)
            self._name = f"{today:%Y-%m}"
        # Arithmetic on wall times, turned into moments only now, takes changes of the clock into account.
        self._begins, self._ends = begins.timestamp(), following.timestamp()
