"""From an HTTP error to the error it means."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
from modelmesh_cdk.provider_errors import (
    MAX_CODE,
    MAX_MESSAGE,
    MAX_PARTS,
    ErrorBody,
    error_from_status,
    error_in_band,
    read_error_body,
)
from modelmesh_cdk.rate_limits import MAX_RETRY_AFTER

RETRYABLE = (RateLimitError, ProviderTimeoutError, ProviderServerError, MalformedResponseError)
TYPES = "type.googleapis.com/google.rpc."


def openai(message: str = "", code: str | None = None, kind: str = "invalid_request_error") -> dict[str, Any]:
    """Return a body of OpenAI's, Azure's, Groq's or xAI's."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def anthropic(kind: str, message: str = "") -> dict[str, Any]:
    """Return a body of Anthropic's."""
    return {"type": "error", "error": {"type": kind, "message": message}}


def google(status: str, *details: dict[str, Any], message: str = "", code: int = 429) -> dict[str, Any]:
    """Return a body of Google's, whose details name their types."""
    typed = [{**detail, "@type": TYPES + detail["@type"]} for detail in details]
    return {"error": {"code": code, "message": message, "status": status, "details": typed}}


def per(period: str, value: str = "50") -> dict[str, Any]:
    """Return the detail that says which quota was hit."""
    violation = {"quotaId": f"GenerateRequestsPer{period}PerProjectPerModel-FreeTier", "quotaValue": value}
    return {"@type": "QuotaFailure", "violations": [violation]}


def openrouter(code: int, message: str = "", **metadata: Any) -> dict[str, Any]:
    """Return a body of OpenRouter's."""
    return {"error": {"code": code, "message": message, "metadata": metadata}}


WAIT = {"retry-after": "20"}
TABLE: dict[str, tuple[int, Any, dict[str, str], type[ProviderError]]] = {
    # The status alone, where a body says nothing.
    "301": (301, b"", {}, MalformedResponseError),
    "307": (307, b"<html>moved</html>", {}, MalformedResponseError),
    "400": (400, b"", {}, InvalidRequestError),
    "401": (401, b"", {}, AuthenticationError),
    "402": (402, b"", {}, QuotaExhaustedError),
    "403": (403, b"", {}, AuthenticationError),
    "404": (404, b"", {}, InvalidRequestError),
    "405": (405, b"", {}, InvalidRequestError),
    "408": (408, b"", {}, ProviderTimeoutError),
    "409": (409, b"", {}, ProviderServerError),
    "413": (413, b"", {}, InvalidRequestError),
    "422": (422, b"", {}, InvalidRequestError),
    "425": (425, b"", {}, ProviderServerError),
    "429": (429, b"", {}, RateLimitError),
    "500": (500, b"", {}, ProviderServerError),
    "502 of a gateway": (502, b"<html><body>Bad Gateway</body></html>", {}, ProviderServerError),
    "503": (503, b"", {}, ProviderServerError),
    "504": (504, b"", {}, ProviderTimeoutError),
    "529": (529, b"", {}, ProviderServerError),
    # OpenAI: a 429 means three things.
    "openai rate limit": (429, openai("Rate limit reached", "rate_limit_exceeded", "tokens"), WAIT, RateLimitError),
    "openai quota": (429, openai("You exceeded", "insufficient_quota", "insufficient_quota"), {}, QuotaExhaustedError),
    "openai quota by type": (429, openai("You exceeded", None, "insufficient_quota"), {}, QuotaExhaustedError),
    "openai credit": (429, openai("", "credit_balance_exhausted"), WAIT, QuotaExhaustedError),
    "openai billing limit": (400, openai("", "billing_hard_limit_reached"), {}, QuotaExhaustedError),
    "openai billing inactive": (429, openai("", "billing_not_active"), {}, QuotaExhaustedError),
    "openai key": (401, openai("Incorrect API key provided", "invalid_api_key"), {}, AuthenticationError),
    "openai country": (403, openai("", "unsupported_country_region_territory"), {}, AuthenticationError),
    "openai model": (404, openai("The model does not exist", "model_not_found"), {}, UnsupportedRequestError),
    "openai model not allowed": (403, openai("", "model_not_found"), {}, UnsupportedRequestError),
    "openai context": (400, openai("", "context_length_exceeded"), {}, ContextLengthError),
    "openai long string": (400, openai("", "string_above_max_length"), {}, ContextLengthError),
    "openai parameter": (400, openai("", "unsupported_parameter"), {}, UnsupportedRequestError),
    "openai value": (400, openai("Unsupported value: 'temperature'", "unsupported_value"), {}, UnsupportedRequestError),
    "openai moderation": (400, openai("", "moderation_blocked"), {}, ContentFilterError),
    "openai policy": (400, openai("", "content_policy_violation"), {}, ContentFilterError),
    "openai bad value": (400, openai("Invalid type for 'messages'", "invalid_type"), {}, InvalidRequestError),
    "openai overloaded": (503, openai("The engine is overloaded", None, "server_error"), {}, ProviderServerError),
    # Azure.
    "azure rate limit": (429, openai("exceeded call rate limit", "429"), {"retry-after-ms": "1500"}, RateLimitError),
    "azure filter": (400, openai("", "content_filter"), {}, ContentFilterError),
    "azure filter 403": (403, openai("", "content_filter"), {}, ContentFilterError),
    "azure deployment": (404, openai("It does not exist", "DeploymentNotFound"), {}, UnsupportedRequestError),
    # Anthropic.
    "anthropic rate limit": (429, anthropic("rate_limit_error"), WAIT, RateLimitError),
    "anthropic spend limit": (429, anthropic("enforced_spend_limit_reached"), WAIT, QuotaExhaustedError),
    "anthropic billing": (402, anthropic("billing_error"), {}, QuotaExhaustedError),
    "anthropic credit": (
        400,
        anthropic("invalid_request_error", "Your credit balance is too low to access the API."),
        {},
        QuotaExhaustedError,
    ),
    "anthropic key": (401, anthropic("authentication_error"), {}, AuthenticationError),
    "anthropic permission": (403, anthropic("permission_error"), {}, AuthenticationError),
    "anthropic model": (404, anthropic("not_found_error", "model: claude-x"), {}, UnsupportedRequestError),
    "anthropic too large": (413, anthropic("request_too_large"), {}, ContextLengthError),
    "anthropic prompt": (
        400,
        anthropic("invalid_request_error", "prompt is too long: 210000 tokens"),
        {},
        ContextLengthError,
    ),
    "anthropic timeout": (504, anthropic("timeout_error"), {}, ProviderTimeoutError),
    "anthropic overloaded": (529, anthropic("overloaded_error"), {}, ProviderServerError),
    # Google: no headers, all in the details.
    "google per minute": (429, google("RESOURCE_EXHAUSTED", per("Minute")), {}, RateLimitError),
    "google per day": (429, google("RESOURCE_EXHAUSTED", per("Day")), {}, QuotaExhaustedError),
    "google quota value 0": (429, google("RESOURCE_EXHAUSTED", per("Minute", "0")), {}, QuotaExhaustedError),
    "google limit 0": (
        429,
        google("RESOURCE_EXHAUSTED", message="metric x, limit: 0, model: y"),
        {},
        QuotaExhaustedError,
    ),
    "google limit 0.5": (429, google("RESOURCE_EXHAUSTED", message="metric x, limit: 0.5"), {}, RateLimitError),
    "google info per day": (
        429,
        google("RESOURCE_EXHAUSTED", {"@type": "ErrorInfo", "metadata": {"quota_limit": "ProRequestsPerDay"}}),
        {},
        QuotaExhaustedError,
    ),
    "google in a list": (429, [google("RESOURCE_EXHAUSTED", per("Day"))], {}, QuotaExhaustedError),
    "google key": (
        400,
        google("INVALID_ARGUMENT", message="API key not valid. Please pass one."),
        {},
        AuthenticationError,
    ),
    "google argument": (400, google("INVALID_ARGUMENT", message="Unknown name"), {}, InvalidRequestError),
    "google denied": (403, google("PERMISSION_DENIED"), {}, AuthenticationError),
    "google model": (404, google("NOT_FOUND", message="models/x is not found"), {}, UnsupportedRequestError),
    "google internal": (500, google("INTERNAL"), {}, ProviderServerError),
    "google unavailable": (503, google("UNAVAILABLE", message="overloaded"), {}, ProviderServerError),
    "google deadline": (504, google("DEADLINE_EXCEEDED"), {}, ProviderTimeoutError),
    # Others.
    "groq too large": (413, openai("Request too large", "rate_limit_exceeded", "tokens"), {}, ContextLengthError),
    "xai key": (400, {"code": "Client error", "error": "Incorrect API key provided: xa***"}, {}, AuthenticationError),
    "openrouter credit": (402, openrouter(402, "Insufficient credits"), {}, QuotaExhaustedError),
    "openrouter in flight": (402, openrouter(402, "in-flight budget"), WAIT, RateLimitError),
    "openrouter moderation": (403, openrouter(403, flagged_input="…", reasons=["x"]), {}, ContentFilterError),
    "openrouter key": (401, openrouter(401, "No auth credentials found"), {}, AuthenticationError),
    "openrouter endpoints": (404, openrouter(404, "No endpoints found for x"), {}, UnsupportedRequestError),
    "openrouter down": (502, openrouter(502, "Provider returned error"), {}, ProviderServerError),
    "deepseek balance": (402, openai("Insufficient Balance", "invalid_request_error"), {}, QuotaExhaustedError),
    "mistral capacity": (
        429,
        {"object": "error", "message": "Service tier capacity exceeded", "type": "capacity", "code": "3505"},
        {},
        RateLimitError,
    ),
    "mistral field": (422, {"detail": [{"loc": ["body", "x"], "msg": "Extra inputs"}]}, {}, InvalidRequestError),
    "vllm context": (
        400,
        {"object": "error", "message": "This model's maximum context length is 4096 tokens.", "code": 400},
        {},
        ContextLengthError,
    ),
    "vllm path": (404, {"detail": "Not Found"}, {}, InvalidRequestError),
    "ollama model": (
        404,
        openai("model 'x' not found, try pulling it first", None, "api_error"),
        {},
        UnsupportedRequestError,
    ),
    "ollama tools": (400, openai("registry/x does not support tools", None, "api_error"), {}, UnsupportedRequestError),
    "huggingface loading": (
        503,
        {"error": "Model x is currently loading", "estimated_time": 20},
        {},
        ProviderServerError,
    ),
    "bedrock throttling": (429, {"message": "Too many requests, please wait"}, {}, RateLimitError),
    "too many with access": (429, {"message": "Wait before you get access to the model"}, {}, RateLimitError),
    "no JSON": (400, b"\xff\xfe{", {}, InvalidRequestError),
    "null error": (400, {"error": None, "message": "too many tokens"}, {}, ContextLengthError),
}


@pytest.mark.parametrize("name", TABLE)
def test_an_answer_means_one_error(name: str) -> None:
    """Kind and retryability of everything a provider is known to answer."""
    status, body, headers, kind = TABLE[name]
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()

    error = error_from_status(status, headers, raw)

    assert type(error) is kind
    assert error.retryable is issubclass(kind, RETRYABLE)
    assert error.status_code == status


@pytest.mark.parametrize(
    ("name", "scope"),
    [
        ("402", "provider"),
        ("openai quota", "provider"),
        ("openai credit", "provider"),
        ("anthropic credit", "provider"),
        ("anthropic spend limit", "provider"),
        ("openrouter credit", "provider"),
        ("google per day", "model"),
        ("google quota value 0", "model"),
        ("google limit 0", "model"),
    ],
)
def test_an_empty_account_is_the_providers_a_quota_the_models(name: str, scope: str) -> None:
    """What must rest until the quota returns: everything behind the key, or the one model."""
    status, body, headers, _ = TABLE[name]
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()

    error = error_from_status(status, headers, raw)

    assert isinstance(error, QuotaExhaustedError)
    assert error.scope == scope


@pytest.mark.parametrize(
    ("headers", "body", "seconds"),
    [
        ({"retry-after": "20"}, {}, 20.0),
        ({"retry-after-ms": "1500"}, {}, 1.5),
        ({}, google("X", {"@type": "RetryInfo", "retryDelay": "46s"}), 46.0),
        ({}, google("X", {"@type": "RetryInfo", "retryDelay": "46.5s"}), 46.5),
        ({}, google("X", per("Minute"), {"@type": "RetryInfo", "retryDelay": "10h17m"}), 37_020.0),
        ({}, google("X", {"@type": "RetryInfo", "retryDelay": "99999h"}), MAX_RETRY_AFTER),
        ({}, google("X", {"@type": "RetryInfo", "retryDelay": "soon"}), None),
        ({}, google("X", {"@type": "RetryInfo"}), None),
        ({"retry-after": "20"}, google("X", {"@type": "RetryInfo", "retryDelay": "46s"}), 20.0),
        ({"retry-after": "-1"}, {}, None),
        ({}, {}, None),
    ],
    ids=repr,
)
def test_the_wait_comes_from_the_headers_or_else_the_body(
    headers: dict[str, str], body: dict[str, Any], seconds: float | None
) -> None:
    """In seconds, at most a day."""
    assert error_from_status(429, headers, body).retry_after == seconds


@pytest.mark.parametrize(
    ("status", "told", "retryable"),
    [(500, "false", False), (429, "FALSE", False), (400, "true", True), (500, "maybe", True), (400, "", False)],
)
def test_a_provider_may_say_itself_whether_to_retry(status: int, told: str, retryable: bool) -> None:
    """``x-should-retry`` overrides what the status says."""
    assert error_from_status(status, {"x-should-retry": told}, b"").retryable is retryable


@pytest.mark.parametrize(
    ("body", "message", "code"),
    [
        (openai("bad", "Some_Code"), "bad", "some_code"),
        (openai("bad", None, "kind"), "bad", "kind"),
        (anthropic("overloaded_error", "Overloaded"), "Overloaded", "overloaded_error"),
        (google("NOT_FOUND", message="gone"), "gone", "not_found"),
        ({"error": "plain"}, "plain", ""),
        ({"message": "flat", "code": "c"}, "flat", "c"),
        ({"detail": "flat"}, "flat", ""),
        ({"error": {"message": "two\n  lines"}}, "two lines", ""),
        ({"error": {"code": 7, "message": 7}}, "", ""),
        ("a text", "a text", ""),
        ([], "", ""),
        (None, "", ""),
        (7, "", ""),
    ],
    ids=lambda value: json.dumps(value)[:40],
)
def test_a_body_is_read_in_every_shape(body: Any, message: str, code: str) -> None:
    """OpenAI's, Anthropic's, Google's, flat ones, and none."""
    said = read_error_body(json.dumps(body).encode())

    assert (said.message, said.code) == (message, code)


@pytest.mark.parametrize(
    ("body", "message"),
    [(b"Bad Gateway", "Bad Gateway"), (b" <!DOCTYPE html><p>x", "(an HTML page)"), (b"", ""), (b"\xff", "\ufffd")],
    ids=repr,
)
def test_a_body_that_is_no_json_is_text(body: bytes, message: str) -> None:
    """Except for pages, which are for browsers."""
    assert read_error_body(body) == ErrorBody(message=message)


def test_what_a_validator_repeats_of_the_input_is_left_out() -> None:
    """FastAPI's errors hold the rejected value, which may be a prompt; place and reason stay."""
    detail = [{"type": "string_type", "loc": ["body", "messages", 0], "msg": "Not a string", "input": "my diary"}]

    for body in ({"detail": detail}, {"message": {"detail": detail}}, {"error": {"message": detail}}):
        assert str(error_from_status(422, {}, body)) == "HTTP 422: body.messages.0: Not a string"
    assert str(error_in_band(detail, {})) == "HTTP 500: body.messages.0: Not a string"


def test_of_a_list_of_messages_the_first_are_kept() -> None:
    """They say what is wrong; the others say it again."""
    assert read_error_body({"detail": [{"msg": "x"}] * 1_000}).message == "; ".join(["x"] * MAX_PARTS)


def test_what_a_provider_says_is_kept_short() -> None:
    """Message and code come from outside, and go into logs."""
    error = error_from_status(500, {}, openai("m" * 10_000, "c" * 10_000))

    assert len(str(error)) <= MAX_MESSAGE + MAX_CODE + 20
    assert error.code is not None
    assert len(error.code) <= MAX_CODE + 1


KEY = "sk-canary-0123456789abcdefghijklmnop"


@pytest.mark.parametrize(
    "body",
    [
        openai(f"Incorrect API key provided: {KEY}."),
        openai("x", code=KEY),
        {"error": f"header authorization: Bearer {KEY}"},
        {"detail": [{"loc": ["header", KEY], "msg": f"bad {KEY}"}]},
        f"GET https://x/?key={KEY}",
    ],
    ids=lambda body: json.dumps(body).replace(KEY, "KEY")[:40],
)
def test_a_key_that_a_provider_repeats_goes_no_further(body: Any) -> None:
    """Neither into the message nor into the code."""
    error = error_from_status(401, {}, json.dumps(body).encode())

    assert "canary" not in f"{error} {error!r} {error.code} {error.details}".lower()


@pytest.mark.parametrize(
    ("error", "kind", "status"),
    [
        ({"code": 429}, RateLimitError, 429),
        ({"code": "429"}, RateLimitError, 429),
        ({"code": None, "status": 503}, ProviderServerError, 503),
        ({"code": "rate_limited"}, RateLimitError, 429),
        ({"type": "rate_limit_error"}, RateLimitError, 429),
        ({"code": "too_many_requests"}, RateLimitError, 429),
        ({"code": "ThrottlingException"}, RateLimitError, 429),
        ({"status": "RESOURCE_EXHAUSTED"}, RateLimitError, 429),
        ({"code": "insufficient_quota"}, QuotaExhaustedError, 429),
        ({"code": 402}, QuotaExhaustedError, 402),
        ({"type": "authentication_error"}, AuthenticationError, 401),
        ({"type": "permission_error"}, AuthenticationError, 401),
        ({"code": "Unauthorized"}, AuthenticationError, 401),
        ({"code": "invalid_api_key"}, AuthenticationError, 401),
        ({"type": "invalid_request_error"}, InvalidRequestError, 400),
        ({"code": "context_length_exceeded"}, ContextLengthError, 400),
        ({"code": "content_filter"}, ContentFilterError, 400),
        ({"code": "model_not_found"}, UnsupportedRequestError, 400),
        ({"type": "not_found_error", "message": "model: x"}, UnsupportedRequestError, 404),
        ({"type": "timeout_error"}, ProviderTimeoutError, 504),
        ({"type": "overloaded_error"}, ProviderServerError, 503),
        ({"type": "api_error"}, ProviderServerError, 500),
        ({"code": 200}, ProviderServerError, 500),
        ({"code": 999}, ProviderServerError, 500),
        ({"code": True}, ProviderServerError, 500),
        ("text", ProviderServerError, 500),
        (7, ProviderServerError, 500),
        ({}, ProviderServerError, 500),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, (dict, str)) else "",
)
def test_an_error_inside_a_200_has_the_status_it_claims_or_deserves(
    error: Any, kind: type[ProviderError], status: int
) -> None:
    """By its code where that is a number, by its word otherwise; nobody knows: the provider's own fault."""
    raised = error_in_band(error, {})

    assert type(raised) is kind
    assert raised.status_code == status


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["error", "code", "message", "detail", "loc", "msg", "details", "@type", "violations", "metadata"]
            )
            | st.text(max_size=3),
            inner | st.just(TYPES + "QuotaFailure") | st.just(TYPES + "RetryInfo") | st.just(TYPES + "ErrorInfo"),
            max_size=5,
        )
    ),
    max_leaves=15,
)


@given(st.integers(300, 599), JSON.map(lambda body: json.dumps(body).encode()) | st.binary())
def test_every_body_means_some_error(status: int, body: bytes) -> None:
    """Nothing a provider answers raises here."""
    assert error_from_status(status, {}, body).status_code == status


@given(JSON)
def test_every_error_inside_a_200_means_some_error(error: Any) -> None:
    """Nothing a provider puts there raises here."""
    assert error_in_band(error, {}).status_code in range(400, 600)


def test_a_body_nested_beyond_reason_is_no_json() -> None:
    """The parser's own limit ends in a short text, not in a crash."""
    assert len(read_error_body(b"[" * 200_000).message) <= MAX_MESSAGE + 1
