"""What response headers say about rate limits and waiting, in one shape, whatever a provider calls it.

Every function here is total: nonsense on the wire is the same as nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from modelmesh.interfaces.provider import RateLimitStatus

MAX_RETRY_AFTER = 86_400.0
"""Seconds; a longer wait is taken as this one. A provider that means it will say so again."""

_GO_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|us|µs|ns|h|m|s|d)", re.ASCII)
_GO_SECONDS = {"d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}


def parse_rate_limits(headers: Mapping[str, str]) -> RateLimitStatus | None:
    """Return the figures of ``x-ratelimit-*`` headers, or None when there are none.

    Understood are OpenAI's six (https://platform.openai.com/docs/guides/rate-limits: limits and remaining by requests
    and tokens, resets as Go durations such as ``6m0s``) and the plain ``x-ratelimit-limit``, ``-remaining`` and
    ``-reset``. Negative figures are placeholders and count as unknown.

    Args:
        headers: With names in lower case.
    """
    if not any(name.startswith("x-ratelimit-") for name in headers):
        return None
    requests_limit = _count(headers, "x-ratelimit-limit-requests", "x-ratelimit-limit")
    requests_left = _count(headers, "x-ratelimit-remaining-requests", "x-ratelimit-remaining")
    tokens_limit = _count(headers, "x-ratelimit-limit-tokens")
    tokens_left = _count(headers, "x-ratelimit-remaining-tokens")
    resets = [
        seconds
        for name in ("x-ratelimit-reset-requests", "x-ratelimit-reset-tokens", "x-ratelimit-reset")
        if (seconds := parse_go_duration(headers.get(name, ""))) is not None
    ]
    return RateLimitStatus(requests_left, tokens_left, min(resets, default=None), requests_limit, tokens_limit)


def parse_retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds a provider asks to wait, or None.

    Read are ``retry-after-ms``, then ``retry-after`` as seconds or as an HTTP date, which is held against the
    response's own ``date`` so that skewed clocks do no harm. Negative waits and things that are no number count as
    nothing; waits beyond a day count as a day.

    Args:
        headers: With names in lower case.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None and milliseconds >= 0:
        return _clamped(milliseconds / 1000.0)
    raw = headers.get("retry-after")
    if raw is None:
        return None
    seconds = _number(raw)
    if seconds is not None:
        return _clamped(seconds)
    moment = _date(raw)
    if moment is None:
        return None
    now = _date(headers.get("date", "")) or datetime.now(UTC)
    return _clamped((moment - now).total_seconds())


def parse_go_duration(text: str) -> float | None:
    """Return a duration such as ``1s``, ``6m0s``, ``12ms`` or a bare number of seconds; None for anything else."""
    number = _number(text)
    if number is not None:
        return number if number >= 0 else None
    parts = _GO_DURATION.findall(text)
    if not parts or "".join(amount + unit for amount, unit in parts) != text.strip():
        return None
    seconds = sum(float(amount) * _GO_SECONDS[unit] for amount, unit in parts)
    return seconds if math.isfinite(seconds) else None


def _count(headers: Mapping[str, str], *names: str) -> int | None:
    for name in names:
        number = _number(headers.get(name))
        if number is not None and 0 <= number < 2**53:
            return int(number)
    return None


def _number(text: str | None) -> float | None:
    # float() takes more than providers write: underscores, and the digits of every script.
    if text is None or "_" in text or not text.isascii():
        return None
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _date(text: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _clamped(seconds: float) -> float | None:
    return min(seconds, MAX_RETRY_AFTER) if seconds >= 0 else None
