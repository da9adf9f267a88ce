"""From an HTTP error to the error it means: the status alone does not tell.

A 429 is a rate limit, a used-up quota or an empty account; a 400 is the caller's mistake or a model's limit. The
provider's own code decides where it gives one (OpenAI's ``error.code`` and ``error.type``, Google's ``error.status``
and ``error.details``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from modelmesh.errors import (
    AuthenticationError,
    ContentFilterError,
    ContextLengthError,
    InvalidRequestError,
    MalformedResponseError,
    ProviderError,
    ProviderServerError,
    ProviderTimeoutError,
    QuotaExhaustedError,
    RateLimitError,
    UnsupportedRequestError,
)
from modelmesh.redaction import Redactor
from modelmesh_cdk.rate_limits import clamped, parse_go_duration, parse_retry_after

# Google leaves a quota of 0 out of the details, as protocol buffers do with zeros, and names it in the message.
_LIMIT_OF_ZERO = re.compile(r"\blimit: 0(?![\d.])")

# OpenRouter and Bedrock say only in the message that it is a day which is used up.
_PER_DAY = re.compile(r"\bper[- ]day\b")

MAX_MESSAGE = 300
MAX_CODE = 64
MAX_PARTS = 5
"""Of a message that is a list; the first of them say what is wrong."""
MAX_DEPTH = 5
"""How deep a message may be nested."""

_QUOTA_CODES = frozenset(
    {
        "insufficient_quota",
        "credit_balance_exhausted",
        "billing_hard_limit_reached",
        "enforced_spend_limit_reached",
        "quota_exceeded",
        "billing_not_active",
        "billing_error",
    }
)
_MODEL_QUOTA_CODES = frozenset({"servicequotaexceededexception"})
# Without a code of their own: an empty account of Anthropic's (400), Azure's call volume, a key's limit at OpenRouter.
_QUOTA_WORDS = ("credit balance is too low", "out of call volume quota", "key limit exceeded")
_CONTEXT_CODES = frozenset({"context_length_exceeded", "string_above_max_length", "request_too_large"})
_FILTER_CODES = frozenset({"content_filter", "content_policy_violation", "moderation_blocked"})
_UNSUPPORTED_CODES = frozenset(
    {
        "unsupported_parameter",
        "unsupported_value",
        "unsupported_feature",
        "deploymentnotfound",
        "model_not_found",
        "unknown_model",
        "tools_not_supported",
        "image_not_supported",
        "model_decommissioned",
        "operationnotsupported",
    }
)
# Google and xAI answer a wrong key with 400, Google also one that is used from the wrong country.
_KEY_CODES = frozenset({"invalid_api_key", "authentication_error", "organization_restricted"})
_KEY_WORDS = (
    "api key not valid",
    "api key expired",
    "incorrect api key",
    "invalid api key",
    "user location is not supported",
)
_FILTER_WORDS = ("content filtering policy",)
_CONTEXT_WORDS = (
    "maximum context length",
    "context window",
    "too many tokens",
    "prompt is too long",
    "input is too long",
    "exceed context limit",
    "exceeds the maximum number",
)
_MODEL_WORDS = ("model", "deployment", "no endpoints found")
_UNSUPPORTED_WORDS = (
    "does not support",
    "is not supported",
    "isn't supported",
    "isn’t supported",  # noqa: RUF001 (as Bedrock writes it)
    "not supported by",
    "unsupported",
    "not enabled for this model",
    "tool choice requires",
    "invalid model",
    "not a valid model",
    "model identifier is invalid",
)
_NO_ACCESS_TO_MODEL = "access to the model"
"""Bedrock refuses single models with the status of a wrong key."""


@dataclass(frozen=True, slots=True)
class ErrorBody:
    """What an error's body says.

    Attributes:
        message: For people, shortened; empty when there is none.
        code: The provider's code, or its type, or its status word; lower case.
        retry_after: Seconds from Google's ``RetryInfo``, or None.
        quota_is_zero: Whether the quota for this tier is 0, so that waiting is useless.
        per_day: Whether a quota per day was hit rather than one per minute.
        is_flagged: Whether a gateway's moderation refused the input (OpenRouter says so in ``error.metadata``).
    """

    message: str = ""
    code: str = ""
    retry_after: float | None = None
    quota_is_zero: bool = False
    per_day: bool = False
    is_flagged: bool = False


def read_error_body(body: bytes | Mapping[str, Any]) -> ErrorBody:
    """Read any error body; never raises."""
    data: Any = body
    if isinstance(body, bytes):
        try:
            data = json.loads(body)
        except (ValueError, RecursionError):
            return ErrorBody(message=_plain_text(body))
    if isinstance(data, list):
        data = data[0] if data else {}
    error = (data.get("error") or data) if isinstance(data, Mapping) else data
    if isinstance(error, str):
        return ErrorBody(message=_short(error))
    if not isinstance(error, Mapping):
        return ErrorBody()
    code = next(
        (str(error[name]) for name in ("code", "type", "status") if isinstance(error.get(name), str) and error[name]),
        "",
    )
    message = _message(error)
    wait, zero, per_day = _google_details(error.get("details"))
    zero = zero or _LIMIT_OF_ZERO.search(message) is not None
    return ErrorBody(_short(message), _short(code, MAX_CODE).lower(), wait, zero, per_day, _is_flagged(error))


def error_from_status(status: int, headers: Mapping[str, str], body: bytes | Mapping[str, Any]) -> ProviderError:
    """Return the error that an HTTP answer means.

    Args:
        status: 3xx, 4xx or 5xx, or what an error inside a 200 claims to be.
        headers: With names in lower case.
        body: As it came, or parsed.
    """
    said = read_error_body(body)
    if not said.code:
        # Bedrock: ``ThrottlingException:http://…``
        said = replace(said, code=_short(headers.get("x-amzn-errortype", "").partition(":")[0], MAX_CODE).lower())
    wait = parse_retry_after(headers)
    if wait is None:
        wait = said.retry_after
    error = _meaning(status, said, wait)
    # OpenAI and Anthropic say it outright where the status would mislead.
    told = headers.get("x-should-retry", "").lower()
    if told in ("true", "false"):
        error.retryable = told == "true"
    return error


def _meaning(status: int, said: ErrorBody, wait: float | None) -> ProviderError:
    text = f"HTTP {status}" + (f" {said.code}" if said.code else "") + (f": {said.message}" if said.message else "")
    facts: dict[str, Any] = {"status_code": status, "code": said.code or None, "retry_after": wait}
    message = said.message.lower()
    if said.code in _QUOTA_CODES or (status in (400, 403) and any(words in message for words in _QUOTA_WORDS)):
        return QuotaExhaustedError(text, scope="provider", **facts)
    no_wait_but_a_day = wait is None and _PER_DAY.search(message) is not None
    if said.code in _MODEL_QUOTA_CODES or (status == 429 and (said.quota_is_zero or said.per_day or no_wait_but_a_day)):
        return QuotaExhaustedError(text, scope="model", **facts)
    if status < 400:
        # Followed, it would take the key to wherever it points.
        return MalformedResponseError(f"HTTP {status}: a redirect is not followed; check base_url", **facts)
    if status == 402 and wait is not None:
        # OpenRouter: the credit is there, but held by requests in flight.
        return RateLimitError(text, **facts)
    if status == 402:
        return QuotaExhaustedError(text, scope="provider", **facts)
    if said.code in _FILTER_CODES or said.is_flagged or (status == 400 and any(w in message for w in _FILTER_WORDS)):
        return ContentFilterError(text, **facts)
    if status == 403 and _NO_ACCESS_TO_MODEL in message:
        return UnsupportedRequestError(text, **facts)
    if status == 401 or (status == 403 and said.code not in _UNSUPPORTED_CODES):
        return AuthenticationError(text, **facts)
    if status in (429, 498):  # 498: Groq's flexible tier has no room
        return RateLimitError(text, **facts)
    if status in (408, 504):
        return ProviderTimeoutError(text, **facts)
    # 424: a model behind Azure or Bedrock failed. 499: somebody on the provider's side gave up.
    if status in (409, 424, 425, 499) or status >= 500:
        return ProviderServerError(text, **facts)
    return _client_error(status, said, text, facts)


def _client_error(status: int, said: ErrorBody, text: str, facts: dict[str, Any]) -> ProviderError:
    message = said.message.lower()
    if said.code in _KEY_CODES or (status == 400 and any(words in message for words in _KEY_WORDS)):
        return AuthenticationError(text, **facts)
    # Groq: more tokens in one request than this model may take in a minute.
    too_large = status == 413 and said.code == "rate_limit_exceeded"
    if too_large or said.code in _CONTEXT_CODES or any(words in message for words in _CONTEXT_WORDS):
        return ContextLengthError(text, **facts)
    if said.code in _UNSUPPORTED_CODES or (
        status in (400, 422) and any(words in message for words in _UNSUPPORTED_WORDS)
    ):
        return UnsupportedRequestError(text, **facts)
    if status == 404 and any(word in message for word in _MODEL_WORDS):
        return UnsupportedRequestError(text, **facts)
    return InvalidRequestError(text, **facts)


def error_in_band(error: object, headers: Mapping[str, str]) -> ProviderError:
    """Return the error that an ``error`` object inside a successful answer means (OpenRouter and gateways do this)."""
    fields = error if isinstance(error, Mapping) else {"message": error}
    said = read_error_body({"error": fields})
    status = _status_in(fields) or _status_of(said.code)
    return error_from_status(status, headers, {"error": fields})


def _status_in(fields: Mapping[str, Any]) -> int | None:
    """Return the HTTP status that an error gives as its code, or None."""
    for name in ("code", "status"):
        raw = str(fields.get(name))
        if len(raw) == 3 and raw.isascii() and raw.isdecimal() and raw[0] in "45":
            return int(raw)
    return None


def _status_of(code: str) -> int:
    """Guess the status an error would have had, from its code."""
    if ("rate" in code and "limit" in code) or code in _QUOTA_CODES:
        return 429
    if "throttl" in code or code in ("too_many_requests", "resource_exhausted"):
        return 429
    if "not_found" in code and code not in _UNSUPPORTED_CODES:
        return 404
    if "timeout" in code or code == "deadline_exceeded":
        return 504
    if "auth" in code or "permission" in code:
        return 401
    if code in _KEY_CODES:
        return 401
    if code.startswith("invalid") or code in _CONTEXT_CODES | _FILTER_CODES | _UNSUPPORTED_CODES:
        return 400
    return 503 if "overload" in code or "unavailable" in code else 500


def _google_details(details: object) -> tuple[float | None, bool, bool]:
    """Read Google's error details (https://cloud.google.com/apis/design/errors): wait, quota of zero, per day."""
    wait: float | None = None
    zero = per_day = False
    for detail in details if isinstance(details, list) else ():
        if not isinstance(detail, Mapping):
            continue
        kind = str(detail.get("@type", ""))
        if kind.endswith("RetryInfo"):
            asked = parse_go_duration(str(detail.get("retryDelay", "")))
            wait = None if asked is None else clamped(asked)
        elif kind.endswith("ErrorInfo"):
            metadata = detail.get("metadata")
            if isinstance(metadata, Mapping):
                per_day = per_day or "perday" in str(metadata.get("quota_limit", "")).lower()
        elif kind.endswith("QuotaFailure"):
            violations = detail.get("violations")
            for violation in violations if isinstance(violations, list) else ():
                if isinstance(violation, Mapping):
                    per_day = per_day or "perday" in str(violation.get("quotaId", "")).lower()
                    zero = zero or str(violation.get("quotaValue", "")) == "0"
    return wait, zero, per_day


def _is_flagged(error: Mapping[str, Any]) -> bool:
    metadata = error.get("metadata")
    return isinstance(metadata, Mapping) and "flagged_input" in metadata


def _message(error: object, depth: int = 0) -> str:
    """Return the message of an error, in a line.

    Validators (FastAPI's, so vLLM's and Mistral's) answer with lists that repeat the input, which may be a prompt:
    of structures only the fields known to speak of the error are taken.
    """
    if isinstance(error, str):
        return error
    if isinstance(error, list) and depth < MAX_DEPTH:
        return "; ".join(filter(None, (_message(each, depth + 1) for each in error[:MAX_PARTS])))
    if not isinstance(error, Mapping) or depth >= MAX_DEPTH:
        return ""
    for name in ("message", "detail", "msg"):
        text = _message(error.get(name), depth + 1)
        if text:
            place = error.get("loc")
            return f"{'.'.join(map(str, place))}: {text}" if isinstance(place, list) else text
    return ""


def _plain_text(body: bytes) -> str:
    text = body[:2_000].decode(errors="replace").strip()
    # A page for a browser (a gateway's, mostly) tells a person nothing.
    return "(an HTML page)" if text[:1] == "<" else _short(text)


def _short(text: str, length: int = MAX_MESSAGE) -> str:
    line = " ".join(Redactor().text(text).split())
    return line if len(line) <= length else f"{line[:length]}…"
