"""Every failure has its answer in OpenAI's shape."""

from __future__ import annotations

import pytest

from modelmesh.errors import (
    AllProvidersExhaustedError,
    AuthenticationError,
    BudgetExceededError,
    CapabilityNotFoundError,
    ConfigurationError,
    ContentFilterError,
    DeadlineExceededError,
    InvalidRequestError,
    NoActiveModelError,
    PluginError,
    ProviderError,
    ProviderServerError,
    ProviderTimeoutError,
    RateLimitError,
    RoutingError,
    SessionModelUnavailableError,
    StreamInterruptedError,
    UnsupportedRequestError,
)
from modelmesh.interfaces.provider import AttemptRecord, Receipt
from modelmesh_plugins.server.errors import ApiError, api_error


def exhausted(last: ProviderError, *outcomes: str) -> AllProvidersExhaustedError:
    """Build the error of a request whose attempts ended like this."""
    receipt = Receipt("req_1", "chat", [AttemptRecord("m", "p", outcome) for outcome in outcomes])
    return AllProvidersExhaustedError("chat", attempts=len(outcomes), last_error=last, receipt=receipt)


UNSUPPORTED = UnsupportedRequestError("no tools", status_code=400, code="unsupported_parameter")

CASES: dict[str, tuple[Exception, int, str, str | None]] = {
    "unknown name": (CapabilityNotFoundError("x"), 404, "invalid_request_error", "model_not_found"),
    "all rest": (NoActiveModelError("all rest"), 503, "upstream_error", "no_active_model"),
    "session": (SessionModelUnavailableError("s", "m"), 503, "upstream_error", "session_model_unavailable"),
    "deadline": (DeadlineExceededError(3.0), 504, "upstream_error", "timeout"),
    "no route": (RoutingError("no"), 502, "upstream_error", "routing_error"),
    "budget": (BudgetExceededError("daily", 1.0, 1.1), 429, "rate_limit_error", "budget_exceeded"),
    "invalid": (InvalidRequestError("bad", status_code=422, code="c"), 422, "invalid_request_error", "c"),
    "invalid without status": (InvalidRequestError("bad"), 400, "invalid_request_error", None),
    "unsupported": (UNSUPPORTED, 400, "invalid_request_error", "unsupported_parameter"),
    "filtered": (ContentFilterError("no", status_code=200), 400, "invalid_request_error", "content_filter"),
    "provider's key": (AuthenticationError("no", status_code=401), 502, "upstream_error", "auth"),
    "broken stream": (StreamInterruptedError("cut"), 502, "upstream_error", "stream_interrupted"),
    "all failed": (
        exhausted(ProviderServerError("x"), "server_error", "server_error"),
        502,
        "upstream_error",
        "all_providers_exhausted",
    ),
    "all limited": (exhausted(RateLimitError("x"), "rate_limit"), 429, "rate_limit_error", "rate_limit_exceeded"),
    "the last limited": (
        exhausted(RateLimitError("x"), "server_error", "rate_limit"),
        502,
        "upstream_error",
        "all_providers_exhausted",
    ),
    "all timed out": (exhausted(ProviderTimeoutError("x"), "timeout"), 504, "upstream_error", "timeout"),
    "all unable": (
        exhausted(UNSUPPORTED, "unsupported", "unsupported"),
        400,
        "invalid_request_error",
        "unsupported_parameter",
    ),
    "configuration": (ConfigurationError("wrong"), 500, "server_error", None),
    "unforeseen": (ZeroDivisionError("inside"), 500, "server_error", None),
}


@pytest.mark.parametrize(("error", "status", "kind", "code"), CASES.values(), ids=CASES)
def test_each_failure_has_its_status_type_and_code(error: Exception, status: int, kind: str, code: str | None) -> None:
    """As OpenAI's clients tell them apart."""
    known = api_error(error)

    assert (known.status, known.kind, known.code) == (status, kind, code)


def test_an_unforeseen_failure_tells_nothing_of_itself() -> None:
    """Its text may hold anything."""
    assert "inside" not in api_error(ZeroDivisionError("inside")).message


def test_a_request_is_named_by_the_meshs_own_id_where_there_is_one() -> None:
    """So that logs and the caller speak of the same request."""
    assert api_error(exhausted(RateLimitError("x"), "rate_limit")).all_headers()["x-request-id"] == "req_1"


@pytest.mark.parametrize(
    ("seconds", "header"),
    [(0.2, "1"), (7.0, "7"), (7.1, "8"), (None, None), (0.0, None), (float("inf"), None)],
    ids=str,
)
def test_waits_are_whole_seconds(seconds: float | None, header: str | None) -> None:
    """Rounded up, so that nobody comes back too early; no wait, no header."""
    known = api_error(NoActiveModelError("all rest", retry_after=seconds))

    assert known.all_headers().get("retry-after") == header


def test_an_answer_of_our_own_stays_as_it_is() -> None:
    """And tells OpenAI's clients not to retry."""
    error = ApiError(413, "too large", headers={"connection": "close"})

    assert api_error(error) is error
    assert error.all_headers() == {"x-should-retry": "false", "connection": "close"}


def test_what_a_plugin_raised_is_for_whoever_runs_the_server() -> None:
    """A caller is told of a failure, and neither of files nor of words of somebody's package."""
    told = api_error(PluginError("strategy 'acme' raised KeyError at acme/choose.py:7 in choose: odd words"))

    assert (told.status, told.message) == (
        500,
        "the server failed to answer; its log says more under this request's ID",
    )
