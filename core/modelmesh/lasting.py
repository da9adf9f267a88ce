"""How long something lasts, as people say it: ``9d 7h`` rather than 803483 seconds."""

from __future__ import annotations

_UNITS = ((86_400, "d"), (3_600, "h"), (60, "m"), (1, "s"))


def lasting(seconds: float) -> str:
    """Return a duration in its two largest units, such as ``9d 7h``, ``1m 30s`` or ``45s``; under ten seconds ``2.5s``.

    Args:
        seconds: 0 or more; less is taken for 0.
    """
    if seconds < 9.95:
        return f"{max(0.0, seconds):.2g}s"
    whole = round(seconds)
    size, name = next((size, name) for size, name in _UNITS if whole >= size)
    place = _UNITS.index((size, name))
    if place == len(_UNITS) - 1:
        return f"{whole}s"
    smaller, smaller_name = _UNITS[place + 1]
    # Rounded to what is shown first: a rest of 59.9 minutes is the next hour, and no 60 minutes.
    count, rest = divmod(round(whole / smaller), size // smaller)
    if place and count * size >= _UNITS[place - 1][0]:
        return lasting(_UNITS[place - 1][0])
    return f"{count}{name}" + (f" {rest}{smaller_name}" if rest else "")
