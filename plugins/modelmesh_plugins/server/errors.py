"""From any failure to an answer in OpenAI's error shape, with the status its clients expect."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from modelmesh.errors import (
    AllProvidersExhaustedError,
    BudgetExceededError,
    CapabilityNotFoundError,
    ContentFilterError,
    DeadlineExceededError,
    InvalidRequestError,
    ModelMeshError,
    NoActiveModelError,
    PluginError,
    ProviderError,
    ProviderTimeoutError,
    QuotaExhaustedError,
    RateLimitError,
    RoutingError,
    SessionModelUnavailableError,
    StreamInterruptedError,
    UnsupportedRequestError,
)
from modelmesh.interfaces.provider import Receipt

INVALID = "invalid_request_error"
LIMITED = "rate_limit_error"
UPSTREAM = "upstream_error"
SERVER = "server_error"


class ApiError(Exception):
    """A failure as a caller over HTTP sees it.

    Attributes:
        status: HTTP status.
        message: For people; redacted before it is sent.
        kind: OpenAI's ``type``.
        code: OpenAI's ``code``, or None.
        param: The field of the body that is wrong, or None.
        retry_after: Seconds to wait, or None.
        headers: Further headers of the answer.
        request_id: The mesh's ID of the request, or None when it never got one.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = INVALID,
        code: str | None = None,
        param: str | None = None,
        retry_after: float | None = None,
        headers: Mapping[str, str] | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.code = code
        self.param = param
        self.retry_after = retry_after
        self.headers = dict(headers or {})
        self.request_id = request_id

    def body(self) -> dict[str, Any]:
        """Return the answer's body."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}

    def all_headers(self) -> dict[str, str]:
        """Return the answer's headers.

        ``x-should-retry`` keeps OpenAI's clients from retrying: the mesh has already done what retrying can do.
        """
        headers = {"x-should-retry": "false", **self.headers}
        if self.retry_after is not None:
            headers["retry-after"] = str(max(1, math.ceil(self.retry_after)))
        if self.request_id is not None:
            headers["x-request-id"] = self.request_id
        return headers


def api_error(error: Exception) -> ApiError:
    """Return what a caller is told of a failure; of one nobody foresaw, only that it happened."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, CapabilityNotFoundError):
        return ApiError(404, error.message, code="model_not_found", param="model")
    if isinstance(error, AllProvidersExhaustedError):
        return _exhausted(error)
    if isinstance(error, RoutingError):
        return _routing(error)
    if isinstance(error, BudgetExceededError):
        return ApiError(429, error.message, kind=LIMITED, code="budget_exceeded")
    if isinstance(error, ProviderError):
        return _provider(error)
    # What a plugin raised, and where, is for whoever runs the server: it is traced under the request's ID.
    if isinstance(error, ModelMeshError) and not isinstance(error, PluginError):
        return ApiError(500, error.message, kind=SERVER, code=None)
    return ApiError(500, "the server failed to answer; its log says more under this request's ID", kind=SERVER)


def _routing(error: RoutingError) -> ApiError:
    if isinstance(error, NoActiveModelError):
        return ApiError(
            503, error.message, kind=UPSTREAM, code="no_active_model", retry_after=_positive(error.retry_after)
        )
    if isinstance(error, SessionModelUnavailableError):
        return ApiError(503, error.message, kind=UPSTREAM, code="session_model_unavailable")
    if isinstance(error, DeadlineExceededError):
        return ApiError(504, error.message, kind=UPSTREAM, code="timeout", request_id=_request_id(error.receipt))
    return ApiError(502, error.message, kind=UPSTREAM, code="routing_error")


def _exhausted(error: AllProvidersExhaustedError) -> ApiError:
    """Answer 502, unless every attempt ended alike and the caller can do something about just that."""
    attempts = error.receipt.attempts if isinstance(error.receipt, Receipt) else []
    outcomes = {attempt.outcome for attempt in attempts}
    last = error.last_error
    alike = len(outcomes) == 1 and isinstance(last, ProviderError)
    known = _provider(last) if alike and isinstance(last, _TELLING) else None
    status, kind, code, param = (502, UPSTREAM, "all_providers_exhausted", None)
    if known is not None:
        status, kind, code, param = known.status, known.kind, known.code or code, known.param
    return ApiError(
        status,
        error.message,
        kind=kind,
        code=code,
        param=param,
        retry_after=_positive(last.retry_after) if isinstance(last, ProviderError) else None,
        request_id=_request_id(error.receipt),
    )


_TELLING = (
    InvalidRequestError,
    UnsupportedRequestError,
    ContentFilterError,
    RateLimitError,
    QuotaExhaustedError,
    ProviderTimeoutError,
)


def _provider(error: ProviderError) -> ApiError:
    wait = _positive(error.retry_after)
    if isinstance(error, (InvalidRequestError, UnsupportedRequestError, ContentFilterError)):
        status = error.status_code if error.status_code is not None and 400 <= error.status_code < 500 else 400
        code = error.code or ("content_filter" if isinstance(error, ContentFilterError) else None)
        return ApiError(status, error.message, code=code)
    if isinstance(error, RateLimitError):
        return ApiError(429, error.message, kind=LIMITED, code="rate_limit_exceeded", retry_after=wait)
    if isinstance(error, QuotaExhaustedError) and error.code == "store_down":
        # Nobody knows whether the limit is reached: the service is not there, rather than the caller too greedy.
        return ApiError(503, error.message, kind=UPSTREAM, code="store_down", retry_after=wait)
    if isinstance(error, QuotaExhaustedError):
        return ApiError(429, error.message, kind=LIMITED, code="insufficient_quota", retry_after=wait)
    if isinstance(error, ProviderTimeoutError):
        return ApiError(504, error.message, kind=UPSTREAM, code="timeout", retry_after=wait)
    if isinstance(error, StreamInterruptedError):
        return ApiError(502, error.message, kind=UPSTREAM, code="stream_interrupted")
    # The provider's own 401 is no matter of the caller's key: to the caller it is a gateway's failure.
    return ApiError(502, error.message, kind=UPSTREAM, code=error.category, retry_after=wait)


def _positive(seconds: float | None) -> float | None:
    return seconds if seconds is not None and 0 < seconds < math.inf else None


def _request_id(receipt: object) -> str | None:
    return receipt.request_id if isinstance(receipt, Receipt) else None
