"""Maintenance windows: a cron line says when each begins (UTC), a duration how long it lasts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


class MaintenanceWindow:
    """Tells whether a moment lies in a window, and until when.

    Needs the ``cron`` extra; the configuration has checked that it is there and that the line fires.

    Args:
        line: Five cron fields.
        duration: Seconds a window lasts.
    """

    __slots__ = ("_duration", "_line", "_next_begin", "_open_until")

    def __init__(self, line: str, duration: float) -> None:
        self._line = line
        self._duration = duration
        self._open_until = 0.0
        self._next_begin = 0.0

    def open_until(self, now: float) -> float | None:
        """Return the end of the window that is open now, as Unix time; None when none is.

        Args:
            now: Unix time.
        """
        if now >= self._next_begin or now < self._next_begin - _RECHECK:
            self._find(now)
        return self._open_until if now < self._open_until else None

    def _find(self, now: float) -> None:
        from cronsim import CronSim

        moment = datetime.fromtimestamp(now, UTC)
        begins = CronSim(self._line, moment - timedelta(seconds=self._duration))
        self._open_until = 0.0
        for begin in begins:
            if begin > moment:
                # At most a day ahead, so that a clock that is put right is noticed.
                self._next_begin = min(begin.timestamp(), now + _RECHECK)
                return
            self._open_until = begin.timestamp() + self._duration


_RECHECK = 86_400.0
"""Seconds after which the line is read again whatever it said."""
