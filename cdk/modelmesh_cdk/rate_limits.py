"""What response headers say about rate limits and waiting, in one shape, whatever a provider calls it.

Every function here is total: nonsense on the wire is the same as nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from modelmesh.interfaces.provider import RateLimitStatus

MAX_RETRY_AFTER = 86_400.0
"""Seconds; a longer wait is taken as this one. A provider that means it will say so again."""

_GO_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|us|µs|ns|h|m|s|d)", re.ASCII)
_GO_SECONDS = {"d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}

# Where families differ they are tried from left to right; ``{}`` stands for limit, remaining or reset.
_REQUESTS = (
    "x-ratelimit-{}-requests",
    "anthropic-ratelimit-requests-{}",
    "x-ratelimit-{}-req-minute",
    "x-ratelimit-{}",
)
_TOKENS = (
    "x-ratelimit-{}-tokens",
    "anthropic-ratelimit-tokens-{}",
    "x-ratelimit-{}-tokens-minute",
    "anthropic-ratelimit-input-tokens-{}",
)
_RESETS = (*_REQUESTS, *_TOKENS, "anthropic-ratelimit-output-tokens-{}")

# Smaller numbers are seconds to wait, larger ones Unix times: 1e9 s ago was 2001, in 1e9 s nobody waits any more.
_UNIX_SECONDS = 1e9
_UNIX_MILLISECONDS = 1e11


def parse_rate_limits(headers: Mapping[str, str]) -> RateLimitStatus | None:
    """Return the figures of rate-limit headers, or None when there are none that can be read.

    Understood are OpenAI's six (https://platform.openai.com/docs/guides/rate-limits: limits and remaining by requests
    and tokens, resets as Go durations such as ``6m0s``), which Azure, Groq and xAI send too; Anthropic's
    ``anthropic-ratelimit-*`` (resets as RFC 3339 instants); Mistral's figures per minute; and the plain
    ``x-ratelimit-limit``, ``-remaining`` and ``-reset`` (seconds or a Unix time). Instants are held against the
    response's own ``date``; resets beyond a day count as a day.

    Negative figures, and whatever stands beside a limit of 0, are placeholders of Azure's and count as unknown.

    Args:
        headers: With names in lower case.
    """
    if not any(name.startswith(("x-ratelimit-", "anthropic-ratelimit-")) for name in headers):
        return None
    requests_limit, requests_left = _figures(headers, _REQUESTS)
    tokens_limit, tokens_left = _figures(headers, _TOKENS)
    resets = [
        seconds
        for name in _RESETS
        if (seconds := _reset(headers.get(name.format("reset")), headers.get("date", ""))) is not None
    ]
    status = RateLimitStatus(requests_left, tokens_left, min(resets, default=None), requests_limit, tokens_limit)
    return None if status == RateLimitStatus() else status


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
        return clamped(milliseconds / 1000.0)
    raw = headers.get("retry-after")
    if raw is None:
        return None
    seconds = _number(raw)
    if seconds is not None:
        return clamped(seconds)
    moment = _date(raw)
    return None if moment is None else clamped(_seconds_until(moment, headers.get("date", "")))


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


def clamped(seconds: float) -> float | None:
    """Return a wait as one that can be meant: None for a negative one, at most `MAX_RETRY_AFTER`."""
    return min(seconds, MAX_RETRY_AFTER) if seconds >= 0 else None


def _figures(headers: Mapping[str, str], names: Iterable[str]) -> tuple[int | None, int | None]:
    """Return limit and remaining of the first family that says anything."""
    for name in names:
        limit, left = _number(headers.get(name.format("limit"))), _count(headers.get(name.format("remaining")))
        if limit is not None and limit <= 0:
            continue
        figures = (_count(headers.get(name.format("limit"))), left)
        if figures != (None, None):
            return figures
    return None, None


def _reset(text: str | None, date: str) -> float | None:
    """Return the seconds until a window is fresh: from a duration, a Unix time or an instant."""
    if text is None:
        return None
    seconds = parse_go_duration(text)
    if seconds is None:
        moment = _instant(text)
        return None if moment is None else clamped(_seconds_until(moment, date))
    if seconds < _UNIX_SECONDS or _number(text) is None:
        return clamped(seconds)
    try:
        moment = datetime.fromtimestamp(seconds / 1000.0 if seconds >= _UNIX_MILLISECONDS else seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return None
    return clamped(_seconds_until(moment, date))


def _count(text: str | None) -> int | None:
    number = _number(text)
    return int(number) if number is not None and 0 <= number < 2**53 else None


def _number(text: str | None) -> float | None:
    # float() takes more than providers write: underscores, and the digits of every script.
    if text is None or "_" in text or not text.isascii():
        return None
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _seconds_until(moment: datetime, date: str) -> float:
    return (moment - (_date(date) or datetime.now(UTC))).total_seconds()


def _date(text: str) -> datetime | None:
    """Read an HTTP date."""
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _instant(text: str) -> datetime | None:
    """Read an RFC 3339 instant."""
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
