"""What response headers say about rate limits and waiting."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmesh.interfaces.provider import RateLimitStatus
from modelmesh_cdk.rate_limits import MAX_RETRY_AFTER, parse_go_duration, parse_rate_limits, parse_retry_after

NOW = "Sat, 21 Nov 2026 07:28:00 GMT"
IN_90_SECONDS = "Sat, 21 Nov 2026 07:29:30 GMT"

OPENAI = {
    "x-ratelimit-limit-requests": "60",
    "x-ratelimit-remaining-requests": "59",
    "x-ratelimit-reset-requests": "1s",
    "x-ratelimit-limit-tokens": "150000",
    "x-ratelimit-remaining-tokens": "149984",
    "x-ratelimit-reset-tokens": "6m0s",
}
ANTHROPIC = {
    "date": NOW,
    "anthropic-ratelimit-requests-limit": "50",
    "anthropic-ratelimit-requests-remaining": "49",
    "anthropic-ratelimit-requests-reset": "2026-11-21T07:28:30Z",
    "anthropic-ratelimit-tokens-limit": "50000",
    "anthropic-ratelimit-tokens-remaining": "43000",
    "anthropic-ratelimit-tokens-reset": "2026-11-21T07:29:00+00:00",
    "anthropic-ratelimit-input-tokens-limit": "40000",
    "anthropic-ratelimit-input-tokens-remaining": "35000",
    "anthropic-ratelimit-input-tokens-reset": "2026-11-21T08:28:12+01:00",
    "anthropic-ratelimit-output-tokens-limit": "10000",
    "anthropic-ratelimit-output-tokens-remaining": "8000",
    "anthropic-ratelimit-output-tokens-reset": "2026-11-21T07:28:05Z",
}
GROQ = {**OPENAI, "x-ratelimit-reset-requests": "2m59.56s", "x-ratelimit-reset-tokens": "7.66s"}
MISTRAL = {
    "x-ratelimit-limit-req-minute": "360",
    "x-ratelimit-remaining-req-minute": "359",
    "x-ratelimit-limit-tokens-minute": "500000",
    "x-ratelimit-remaining-tokens-minute": "499000",
    "x-ratelimit-tokens-query-cost": "1000",
}
TOGETHER = {"x-ratelimit-limit": "10", "x-ratelimit-remaining": "0", "x-ratelimit-reset": "5"}
ONLY_INPUT = {name: value for name, value in ANTHROPIC.items() if "input" in name or name == "date"}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (OPENAI, RateLimitStatus(59, 149_984, 1.0, 60, 150_000)),
        (ANTHROPIC, RateLimitStatus(49, 43_000, 5.0, 50, 50_000)),
        (ONLY_INPUT, RateLimitStatus(None, 35_000, 12.0, None, 40_000)),
        (GROQ, RateLimitStatus(59, 149_984, 7.66, 60, 150_000)),
        (MISTRAL, RateLimitStatus(359, 499_000, None, 360, 500_000)),
        (TOGETHER, RateLimitStatus(0, None, 5.0, 10, None)),
        ({"x-ratelimit-remaining-tokens": "7"}, RateLimitStatus(tokens_remaining=7)),
        ({"x-ratelimit-remaining-requests": "0"}, RateLimitStatus(requests_remaining=0)),
    ],
    ids=["openai", "anthropic", "anthropic input", "groq", "mistral", "together", "one figure", "nothing left"],
)
def test_every_family_of_headers_gives_the_same_figures(headers: dict[str, str], status: RateLimitStatus) -> None:
    """Requests and tokens, limit and remaining, and the first reset."""
    assert parse_rate_limits(headers) == status


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content-type": "application/json", "retry-after": "5"},
        {"x-ratelimit-remaining-requests": "-1", "x-ratelimit-remaining-tokens": "-1"},
        {"x-ratelimit-limit-requests": "0", "x-ratelimit-remaining-requests": "0"},
        {"x-ratelimit-limit-tokens": "-1", "x-ratelimit-remaining-tokens": "0"},
        {"x-ratelimit-reset-requests": "", "x-ratelimit-reset-tokens": "soon"},
        {"x-ratelimit-something-else": "1"},
        *({"x-ratelimit-remaining": text} for text in ("", "many", "nan", "inf", "1_000", "٣", "1e308", "0x10", "1,5")),
    ],
    ids=lambda headers: next(iter(headers.items()), ("nothing", ""))[1] or "empty",
)
def test_placeholders_and_garbage_are_the_same_as_nothing(headers: dict[str, str]) -> None:
    """Azure sends -1 and 0 where it does not know; that is not "used up"."""
    assert parse_rate_limits(headers) is None


def test_one_placeholder_spoils_only_its_own_pair() -> None:
    """The tokens are known although the requests are not."""
    headers = {**OPENAI, "x-ratelimit-limit-requests": "-1", "x-ratelimit-remaining-requests": "0"}

    assert parse_rate_limits(headers) == RateLimitStatus(None, 149_984, 1.0, None, 150_000)


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("30", 30.0),
        ("12ms", 0.012),
        ("1795246110", 30.0),
        ("1795246110.5", 30.5),
        ("1795246110000", 30.0),
        ("2026-11-21T07:28:30Z", 30.0),
        ("2026-11-21T07:28:30.250Z", 30.25),
        ("2026-11-21T08:28:30+01:00", 30.0),
        ("2026-11-21T07:28:30", 30.0),
        ("2027-11-21T07:28:30Z", MAX_RETRY_AFTER),
        ("9999999h", MAX_RETRY_AFTER),
        ("9" * 20, None),
        ("1e30", None),
        ("2026-11-21T07:27:00Z", None),
        ("1", 1.0),
        ("-1", None),
        ("tomorrow", None),
    ],
    ids=str,
)
def test_a_reset_is_a_duration_a_unix_time_or_an_instant(written: str, seconds: float | None) -> None:
    """Instants count from the response's own date; what is absurd is cut to a day or ignored."""
    headers = {"date": NOW, "x-ratelimit-remaining": "1", "x-ratelimit-reset": written}

    status = parse_rate_limits(headers)

    assert status is not None
    assert status.reset_seconds == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("1s", 1.0),
        ("6m0s", 360.0),
        ("12ms", 0.012),
        ("1h2m3.5s", 3723.5),
        ("10h17m", 37_020.0),
        ("46s", 46.0),
        ("46.123s", 46.123),
        ("1d", 86_400.0),
        ("7us", 7e-6),
        ("7µs", 7e-6),
        ("7ns", 7e-9),
        ("0s", 0.0),
        ("20", 20.0),
        ("0", 0.0),
        (" 1s ", 1.0),
    ],
    ids=str,
)
def test_a_go_duration_is_read_in_seconds(written: str, seconds: float) -> None:
    """With one unit or several, or bare."""
    assert parse_go_duration(written) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "written",
    ["", "s", "1x", "1s and more", "1m 2s", "-1s", "-1", "nan", "inf", "٣s", "1_0s", "9" * 400 + "h"],
    ids=repr,
)
def test_anything_else_is_no_go_duration(written: str) -> None:
    """It counts as nothing."""
    assert parse_go_duration(written) is None


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "20"}, 20.0),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after-ms": "1500"}, 1.5),
        ({"retry-after-ms": "1500", "retry-after": "20"}, 1.5),
        ({"retry-after-ms": "soon", "retry-after": "20"}, 20.0),
        ({"retry-after-ms": "-1", "retry-after": "20"}, 20.0),
        ({"retry-after": IN_90_SECONDS, "date": NOW}, 90.0),
        ({"retry-after": "Saturday, 21-Nov-26 07:29:30 GMT", "date": NOW}, 90.0),
        ({"retry-after": "Sat, 21 Nov 2026 08:29:30 +0100", "date": NOW}, 90.0),
        ({"retry-after": "Sat, 21 Nov 2026 07:29:30 -0000", "date": NOW}, 90.0),
        ({"retry-after": "Fri, 31 Dec 9999 23:59:59 GMT", "date": NOW}, MAX_RETRY_AFTER),
        ({"retry-after": "Fri, 31 Dec 9999 23:59:59 GMT"}, MAX_RETRY_AFTER),
        ({"retry-after": "36000"}, 36_000.0),
        ({"retry-after": "1e308"}, MAX_RETRY_AFTER),
        ({"retry-after-ms": "1e308"}, MAX_RETRY_AFTER),
    ],
    ids=repr,
)
def test_a_wait_is_seconds_milliseconds_or_a_date(headers: dict[str, str], seconds: float) -> None:
    """Milliseconds come first, dates count from the response's own date, a wait is at most a day."""
    assert parse_retry_after(headers) == seconds


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"retry-after": NOW, "date": IN_90_SECONDS},
        {"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT"},
        *({"retry-after": text} for text in ("", "-5", "nan", "inf", "soon", "1_0", "٣", "32 Foo 2026", "9" * 400)),
    ],
    ids=repr,
)
def test_a_wait_that_cannot_be_meant_is_none(headers: dict[str, str]) -> None:
    """Negative, past, or no time at all."""
    assert parse_retry_after(headers) is None


DATES = st.datetimes().map(lambda moment: moment.strftime("%a, %d %b %Y %H:%M:%S ")) | st.just("")
VALUES = (
    st.text()
    | st.text("0123456789.-+eEhmsdµ:TZ ,GMTWSatNov", max_size=40)
    | st.floats().map(str)
    | st.integers().map(str)
    | st.tuples(DATES, st.integers(-9999, 9999)).map(lambda parts: f"{parts[0]}{parts[1]:+05}")
)
NAMES = [*OPENAI, *ANTHROPIC, *MISTRAL, *TOGETHER, "retry-after", "retry-after-ms"]


@given(st.dictionaries(st.sampled_from(NAMES), VALUES))
def test_no_header_raises_or_says_the_impossible(headers: dict[str, str]) -> None:
    """Whatever stands in them, figures are None or in range."""
    wait = parse_retry_after(headers)
    status = parse_rate_limits(headers) or RateLimitStatus()

    for seconds in (wait, status.reset_seconds):
        assert seconds is None or 0 <= seconds <= MAX_RETRY_AFTER
    for figure in (
        status.requests_remaining,
        status.requests_limit,
        status.tokens_remaining,
        status.tokens_limit,
    ):
        assert figure is None or 0 <= figure < 2**53
