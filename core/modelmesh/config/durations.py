"""Durations and sizes as people write them: ``500ms``, ``24h``, ``10MB``."""

from __future__ import annotations

import math
import re
from typing import Annotated, Final

from pydantic import BeforeValidator, Field, WithJsonSchema

SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
BYTES: Final = {"KB": 1024, "MB": 1024**2, "GB": 1024**3}
LONGEST: Final = 3650 * 86400.0
"""Seconds of the longest duration, ten years: what runs for longer has no end anybody waits for."""
LARGEST: Final = 2**50
"""Bytes of the largest size, a million GB."""

_DURATION = re.compile(r"\s*(-?\d+(?:\.\d+)?)\s*(ms|s|m|h|d)\s*", re.ASCII)
_SIZE = re.compile(r"\s*(-?\d+(?:\.\d+)?)\s*(KB|MB|GB)\s*", re.ASCII | re.IGNORECASE)

_NO_DURATION = "is no duration; write seconds as a number, or a number with ms, s, m, h or d, such as 500ms or 24h"
_NO_SIZE = "is no size; write bytes as a whole number, or a number with KB, MB or GB, such as 10MB"
_BEYOND = 1e300
_TOO_LONG = "must not be longer than ten years (3650d)"
_TOO_LARGE = "must not be larger than 1048576GB"


def parse_duration(value: object) -> float:
    """Return a duration in seconds.

    Args:
        value: A number of seconds, or a number with one of the units ``ms``, ``s``, ``m``, ``h`` and ``d``.

    Raises:
        ValueError: It is something else, negative, not finite or longer than ten years. The message does not repeat the
            value.
    """
    seconds = _quantity(value, _DURATION, SECONDS, _NO_DURATION)
    if seconds > LONGEST:
        raise ValueError(_TOO_LONG)
    return seconds


def parse_size(value: object) -> int:
    """Return a size in bytes.

    Args:
        value: A whole number of bytes, or a number with one of the units ``KB``, ``MB`` and ``GB`` (1024-based).

    Raises:
        ValueError: It is something else, negative, not finite or larger than a million GB. The message does not repeat
            the value.
    """
    size = _quantity(value, _SIZE, BYTES, _NO_SIZE)
    if size > LARGEST:
        raise ValueError(_TOO_LARGE)
    if isinstance(value, float) and not value.is_integer():
        raise ValueError(_NO_SIZE)
    return round(size)


def _quantity(value: object, grammar: re.Pattern[str], units: dict[str, float] | dict[str, int], refusal: str) -> float:
    # A boolean is an int to Python, and nothing anybody means here.
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(refusal)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("must be finite")
    if isinstance(value, str):
        match = grammar.fullmatch(value)
        if match is None:
            raise ValueError(refusal)
        unit = match[2] if match[2] in units else match[2].upper()
        number = float(match[1]) * units[unit]
    else:
        # A whole number may be too large for a float; any that large is beyond what the callers take.
        number = float(max(min(value, _BEYOND), -1))
    if number < 0:
        raise ValueError("must not be negative")
    return number


Duration = Annotated[
    float,
    BeforeValidator(parse_duration),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "minimum": 0, "maximum": LONGEST},
                {"type": "string", "pattern": r"^\d+(\.\d+)?\s*(ms|s|m|h|d)$"},
            ]
        }
    ),
]
"""Seconds; written as a number or with a unit."""

PositiveDuration = Annotated[
    float,
    BeforeValidator(parse_duration),
    Field(gt=0),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "exclusiveMinimum": 0, "maximum": LONGEST},
                {"type": "string", "pattern": r"^\d+(\.\d+)?\s*(ms|s|m|h|d)$"},
            ]
        }
    ),
]
"""Seconds, more than none."""

Size = Annotated[
    int,
    BeforeValidator(parse_size),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 0, "maximum": LARGEST},
                {"type": "string", "pattern": r"^\d+(\.\d+)?\s*([kK][bB]|[mM][bB]|[gG][bB])$"},
            ]
        }
    ),
]
"""Bytes; written as a whole number or with a unit."""
