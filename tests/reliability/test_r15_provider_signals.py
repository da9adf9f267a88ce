"""R15: what providers really answer is understood: what it means, how long to wait, and who must rest.

A golden table of answers as providers send them, shaped after their documentation and after reports of their users
(November 2026). Texts are in the manner of the originals; names, numbers and requests are made up.
"""

from __future__ import annotations

import json
import random
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelmesh import ModelMesh
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
from modelmesh.router import CompletionRequest
from modelmesh_cdk.provider_errors import error_from_status, error_in_band
from modelmesh_cdk.rate_limits import MAX_RETRY_AFTER, parse_rate_limits, parse_retry_after
from modelmesh_cdk.testing import FakeClock, ScriptedProvider

RATE, SERVER, SLOW = "rate limit: model", "server error: model", "time-out: model"
DAY, EMPTY, AUTH = "quota: model", "quota: provider", "credential: provider"
CLIENT, CONTEXT, LACKS, FILTER = "client error: nobody", "too long: nobody", "unsupported: nobody", "filtered: nobody"
BROKEN = "malformed: model"


def verdict(error: ProviderError) -> str:
    """Say what an error means and who rests for it."""
    if isinstance(error, QuotaExhaustedError):
        return f"quota: {error.scope}"
    return {
        RateLimitError: RATE,
        ProviderServerError: SERVER,
        ProviderTimeoutError: SLOW,
        AuthenticationError: AUTH,
        InvalidRequestError: CLIENT,
        ContextLengthError: CONTEXT,
        UnsupportedRequestError: LACKS,
        ContentFilterError: FILTER,
        MalformedResponseError: BROKEN,
    }[type(error)]


def oai(message: str = "", kind: str | None = None, code: Any = None) -> dict[str, Any]:
    """OpenAI's body, and that of Groq, Azure, Mistral's gateway and others."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def ant(kind: str, message: str = "") -> dict[str, Any]:
    """Anthropic's body."""
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_011"}


def goo(code: int, status: str, message: str = "", *details: dict[str, Any]) -> dict[str, Any]:
    """Google's body."""
    return {"error": {"code": code, "message": message, "status": status, "details": list(details)}}


def violation(quota: str, value: str = "15") -> dict[str, Any]:
    """Google's detail that names a quota."""
    return {
        "@type": "type.googleapis.com/google.rpc.QuotaFailure",
        "violations": [
            {
                "quotaMetric": "generativelanguage.googleapis.com/generate_content_free_tier_requests",
                "quotaId": quota,
                "quotaDimensions": {"model": "gemini-flash", "location": "global"},
                "quotaValue": value,
            }
        ],
    }


def delay(text: str) -> dict[str, Any]:
    """Google's detail that names a wait."""
    return {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": text}


def info(reason: str, **metadata: str) -> dict[str, Any]:
    """Google's detail that names a reason."""
    return {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason, "metadata": metadata}


def rou(code: int, message: str, **metadata: Any) -> dict[str, Any]:
    """OpenRouter's body."""
    return {"error": {"code": code, "message": message, "metadata": metadata}, "user_id": "user_1"}


def aws(message: str, kind: str = "") -> tuple[dict[str, Any], dict[str, str]]:
    """Bedrock's body and the header that names its exception."""
    return {"message": message}, {"x-amzn-errortype": f"{kind}:http://internal.amazon.com/coral/"} if kind else {}


def wait(seconds: float) -> dict[str, str]:
    """The common header."""
    return {"retry-after": f"{seconds:g}"}


Row = tuple[int, Any, dict[str, str], str, float | None]
HTML = b"<html><head><title>502 Bad Gateway</title></head><body><center>nginx</center></body></html>"
MINUTE = violation("GenerateRequestsPerMinutePerProjectPerModel-FreeTier")
DAILY = violation("GenerateRequestsPerDayPerProjectPerModel-FreeTier", "50")
LONG = "This model's maximum context length is 128000 tokens. However, your messages resulted in 140012 tokens."
RPM = "Rate limit reached for gpt-4o in organization org-1 on requests per min (RPM): Limit 500, Used 500, Requested 1."
TPM = "Rate limit reached for gpt-4o in organization org-1 on tokens per min (TPM): Limit 30000, Used 29999."

OPENAI: list[Row] = [
    (429, oai(RPM, "requests", "rate_limit_exceeded"), {**wait(1), "retry-after-ms": "120"}, RATE, 0.12),
    (429, oai(TPM, "tokens", "rate_limit_exceeded"), {"retry-after-ms": "20500"}, RATE, 20.5),
    (429, oai("on requests per day (RPD): Limit 200", "requests", "rate_limit_exceeded"), wait(432), RATE, 432.0),
    (429, oai("Request too large for gpt-4o on TPM", "tokens", "rate_limit_exceeded"), {}, RATE, None),
    (429, oai("You exceeded your current quota", "insufficient_quota", "insufficient_quota"), {}, EMPTY, None),
    (429, oai("You exceeded your current quota", "insufficient_quota", None), wait(3), EMPTY, 3.0),
    (429, oai("Your credit balance is exhausted", "billing", "credit_balance_exhausted"), wait(5), EMPTY, 5.0),
    (429, oai("Your account is not active", "billing_not_active", "billing_not_active"), {}, EMPTY, None),
    (400, oai("Billing hard limit has been reached", "i", "billing_hard_limit_reached"), {}, EMPTY, None),
    (401, oai("Incorrect API key provided: sk-***.", "invalid_request_error", "invalid_api_key"), {}, AUTH, None),
    (401, oai("You must be a member of an organization", "invalid_request_error"), {}, AUTH, None),
    (401, oai("You didn't provide an API key."), {}, AUTH, None),
    (403, oai("Country not supported", "request_forbidden", "unsupported_country_region_territory"), {}, AUTH, None),
    (403, oai("Project does not have access to model gpt-5", "i", "model_not_found"), {}, LACKS, None),
    (404, oai("The model `gpt-9` does not exist", "invalid_request_error", "model_not_found"), {}, LACKS, None),
    (404, oai("Invalid URL (POST /v1/chat/completion)", "invalid_request_error"), {}, CLIENT, None),
    (400, oai(LONG, "invalid_request_error", "context_length_exceeded"), {}, CONTEXT, None),
    (400, oai("string too long", "invalid_request_error", "string_above_max_length"), {}, CONTEXT, None),
    (400, oai("Unsupported parameter: 'max_tokens'", "i", "unsupported_parameter"), {}, LACKS, None),
    (400, oai("'temperature' does not support 0.2", "i", "unsupported_value"), {}, LACKS, None),
    (400, oai("Invalid 'messages[0].role'", "invalid_request_error", "invalid_value"), {}, CLIENT, None),
    (400, oai("We could not parse the JSON body of your request."), {}, CLIENT, None),
    (400, oai("Your request was rejected by our safety system", "i", "content_policy_violation"), {}, FILTER, None),
    (400, oai("", "image_generation_user_error", "moderation_blocked"), {}, FILTER, None),
    (413, oai("Request Entity Too Large"), {}, CLIENT, None),
    (500, oai("The server had an error while processing your request", "server_error"), {}, SERVER, None),
    (502, HTML, {"content-type": "text/html"}, SERVER, None),
    (503, oai("That model is currently overloaded", "server_error"), wait(8), SERVER, 8.0),
    (503, oai("Slow Down", "service_unavailable"), {}, SERVER, None),
    (504, b"upstream request timeout", {}, SLOW, None),
    (408, b"", {}, SLOW, None),
    (409, oai("Resource is locked"), {}, SERVER, None),
    (520, HTML, {}, SERVER, None),
    (524, b"error code: 524", {}, SERVER, None),
]
AZURE: list[Row] = [
    (
        429,
        oai("Requests have exceeded call rate limit of your current OpenAI S0 pricing tier", None, "429"),
        {**wait(26), "retry-after-ms": "25998", "x-ratelimit-remaining-requests": "-1"},
        RATE,
        25.998,
    ),
    (429, oai("exceeded token rate limit", None, "429"), wait(60), RATE, 60.0),
    (429, oai("The system is currently experiencing high demand", None, "NoCapacity"), {}, RATE, None),
    (429, oai("", None, "too_many_requests"), wait(7), RATE, 7.0),
    (403, oai("Out of call volume quota. Quota will be replenished in 12 days", None, "403"), {}, EMPTY, None),
    (400, oai("The response was filtered", None, "content_filter"), {}, FILTER, None),
    (
        400,
        {"error": {"code": "content_filter", "innererror": {"code": "ResponsibleAIPolicyViolation"}}},
        {},
        FILTER,
        None,
    ),
    (401, oai("Access denied due to invalid subscription key", None, "401"), {}, AUTH, None),
    (401, {"statusCode": 401, "message": "Unauthorized. Access token is missing, invalid or expired."}, {}, AUTH, None),
    (403, oai("Access denied due to Virtual Network/Firewall rules.", None, "AccessDenied"), {}, AUTH, None),
    (404, oai("The API deployment for this resource does not exist.", None, "DeploymentNotFound"), {}, LACKS, None),
    (404, oai("Resource not found", None, "404"), {}, CLIENT, None),
    (
        400,
        oai("The chatCompletion operation does not work with the model", None, "OperationNotSupported"),
        {},
        LACKS,
        None,
    ),
    (400, oai(LONG, "invalid_request_error", "context_length_exceeded"), {}, CONTEXT, None),
    (408, oai("The operation was timeout.", None, "Timeout"), {}, SLOW, None),
    (500, oai("", None, "InternalServerError"), {}, SERVER, None),
    (503, {"error": {"code": "ServiceUnavailable", "message": "try later"}}, wait(10), SERVER, 10.0),
    (424, oai("Failed Dependency", None, "424"), {}, SERVER, None),
]
ANTHROPIC: list[Row] = [
    (
        429,
        ant("rate_limit_error", "This request would exceed your rate limit of 50,000 input tokens"),
        wait(37),
        RATE,
        37.0,
    ),
    (429, ant("rate_limit_error", "Number of concurrent connections has exceeded your rate limit"), {}, RATE, None),
    (429, ant("rate_limit_error", "acceleration limits"), {"x-should-retry": "true", **wait(2)}, RATE, 2.0),
    (429, ant("enforced_spend_limit_reached", "You have reached your spend limit"), wait(86), EMPTY, 86.0),
    (400, ant("invalid_request_error", "Your credit balance is too low to access the Anthropic API."), {}, EMPTY, None),
    (402, ant("billing_error", "There is an issue with your billing"), {}, EMPTY, None),
    (401, ant("authentication_error", "invalid x-api-key"), {}, AUTH, None),
    (403, ant("permission_error", "Your API key does not have permission"), {}, AUTH, None),
    (404, ant("not_found_error", "model: claude-9"), {}, LACKS, None),
    (404, ant("not_found_error", "Not found"), {}, CLIENT, None),
    (413, ant("request_too_large", "Request exceeds the maximum size"), {}, CONTEXT, None),
    (400, ant("invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum"), {}, CONTEXT, None),
    (
        400,
        ant("invalid_request_error", "input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000"),
        {},
        CONTEXT,
        None,
    ),
    (400, ant("invalid_request_error", "messages.0.role: Input should be 'user'"), {}, CLIENT, None),
    (400, ant("invalid_request_error", "Output blocked by content filtering policy"), {}, FILTER, None),
    (500, ant("api_error", "Internal server error"), {}, SERVER, None),
    (504, ant("timeout_error", "Request timed out"), {}, SLOW, None),
    (529, ant("overloaded_error", "Overloaded"), {}, SERVER, None),
    (529, ant("overloaded_error", "Overloaded"), {"x-should-retry": "true"}, SERVER, None),
]
GROQ: list[Row] = [
    (429, oai("on tokens per minute (TPM): Limit 6000", "tokens", "rate_limit_exceeded"), wait(7.66), RATE, 7.66),
    (
        429,
        oai("on requests per day (RPD): Limit 1000", "requests", "rate_limit_exceeded"),
        wait(86_400),
        RATE,
        86_400.0,
    ),
    (429, oai("on tokens per day (TPD): Limit 100000", "tokens", "rate_limit_exceeded"), wait(754), RATE, 754.0),
    (
        413,
        oai("Request too large on TPM: Limit 6000, Requested 9000", "tokens", "rate_limit_exceeded"),
        {},
        CONTEXT,
        None,
    ),
    (400, oai("The model `x` has been decommissioned", "i", "model_decommissioned"), {}, LACKS, None),
    (404, oai("The model `x` does not exist", "invalid_request_error", "model_not_found"), {}, LACKS, None),
    (400, oai("Failed to call a function", "invalid_request_error", "tool_use_failed"), {}, CLIENT, None),
    (400, oai("Please reduce the length of the messages", "i", "context_length_exceeded"), {}, CONTEXT, None),
    (400, oai("Failed to generate JSON", "invalid_request_error", "json_validate_failed"), {}, CLIENT, None),
    (401, oai("Invalid API Key", "invalid_request_error", "invalid_api_key"), {}, AUTH, None),
    (400, oai("Organization has been restricted", "i", "organization_restricted"), {}, AUTH, None),
    (498, oai("Flex tier capacity exceeded", "capacity_exceeded", "capacity_exceeded"), {}, RATE, None),
    (499, b"", {}, SERVER, None),
    (500, oai("Internal Server Error", "internal_server_error"), {}, SERVER, None),
    (503, oai("is currently over capacity", "internal_server_error"), wait(3), SERVER, 3.0),
]
GEMINI: list[Row] = [
    (429, goo(429, "RESOURCE_EXHAUSTED", "quota", MINUTE, delay("46s")), {}, RATE, 46.0),
    (429, goo(429, "RESOURCE_EXHAUSTED", "quota", MINUTE, delay("46.837906245s")), {}, RATE, 46.837906245),
    (429, goo(429, "RESOURCE_EXHAUSTED", "quota", DAILY, delay("37020s")), {}, DAY, 37_020.0),
    (429, goo(429, "RESOURCE_EXHAUSTED", "quota", DAILY, delay("10h17m")), {}, DAY, 37_020.0),
    (429, goo(429, "RESOURCE_EXHAUSTED", "quota", DAILY), {}, DAY, None),
    (429, [goo(429, "RESOURCE_EXHAUSTED", "quota", DAILY, delay("9s"))], {}, DAY, 9.0),
    (429, goo(429, "RESOURCE_EXHAUSTED", "Quota exceeded for metric: x, limit: 0, model: pro"), {}, DAY, None),
    (429, goo(429, "RESOURCE_EXHAUSTED", "q", violation("PerMinute", "0"), delay("20s")), {}, DAY, 20.0),
    (429, goo(429, "RESOURCE_EXHAUSTED", "Resource has been exhausted (e.g. check quota)."), {}, RATE, None),
    (
        429,
        goo(429, "RESOURCE_EXHAUSTED", "", info("RATE_LIMIT_EXCEEDED", quota_limit="RequestsPerMinute")),
        {},
        RATE,
        None,
    ),
    (429, goo(429, "RESOURCE_EXHAUSTED", "", info("RATE_LIMIT_EXCEEDED", quota_limit="RequestsPerDay")), {}, DAY, None),
    (400, goo(400, "INVALID_ARGUMENT", "API key not valid.", info("API_KEY_INVALID")), {}, AUTH, None),
    (400, goo(400, "INVALID_ARGUMENT", "API key expired. Please renew the API key."), {}, AUTH, None),
    (400, goo(400, "FAILED_PRECONDITION", "User location is not supported for the API use."), {}, AUTH, None),
    (400, goo(400, "INVALID_ARGUMENT", "Invalid JSON payload received. Unknown name"), {}, CLIENT, None),
    (
        400,
        goo(400, "INVALID_ARGUMENT", "The input token count (1200000) exceeds the maximum number"),
        {},
        CONTEXT,
        None,
    ),
    (400, goo(400, "INVALID_ARGUMENT", "Function calling is not enabled for this model"), {}, LACKS, None),
    (403, goo(403, "PERMISSION_DENIED", "Method doesn't allow unregistered callers"), {}, AUTH, None),
    (403, goo(403, "PERMISSION_DENIED", "Your API key was reported as leaked."), {}, AUTH, None),
    (401, goo(401, "UNAUTHENTICATED", "Request had invalid authentication credentials."), {}, AUTH, None),
    (404, goo(404, "NOT_FOUND", "models/gemini-9 is not found for API version v1beta"), {}, LACKS, None),
    (500, goo(500, "INTERNAL", "An internal error has occurred."), {}, SERVER, None),
    (503, goo(503, "UNAVAILABLE", "The model is overloaded. Please try again later."), {}, SERVER, None),
    (504, goo(504, "DEADLINE_EXCEEDED", "Deadline expired"), {}, SLOW, None),
    (499, goo(499, "CANCELLED", "The operation was cancelled."), {}, SERVER, None),
]
BEDROCK: list[Row] = [
    (429, *aws("Too many requests, please wait before trying again.", "ThrottlingException"), RATE, None),
    (429, *aws("Too many tokens, please wait before trying again.", "ThrottlingException"), RATE, None),
    (429, *aws("Too many tokens per day, please wait before trying again.", "ThrottlingException"), DAY, None),
    (429, *aws("Model is not ready for inference.", "ModelNotReadyException"), RATE, None),
    (400, *aws("You have exceeded the service quota.", "ServiceQuotaExceededException"), DAY, None),
    (400, *aws("Input is too long for requested model.", "ValidationException"), CONTEXT, None),
    (400, *aws("Malformed input request: #/messages", "ValidationException"), CLIENT, None),
    (400, *aws("The provided model identifier is invalid.", "ValidationException"), LACKS, None),
    (
        400,
        *aws("Invocation of model ID x with on-demand throughput isn\u2019t supported.", "ValidationException"),
        LACKS,
        None,
    ),
    (
        403,
        *aws("You don't have access to the model with the specified model ID.", "AccessDeniedException"),
        LACKS,
        None,
    ),
    (403, *aws("User is not authorized to perform: bedrock:InvokeModel", "AccessDeniedException"), AUTH, None),
    (403, *aws("The security token included in the request is invalid.", "UnrecognizedClientException"), AUTH, None),
    (403, *aws("The security token included in the request is expired", "ExpiredTokenException"), AUTH, None),
    (404, *aws("Could not resolve the foundation model", "ResourceNotFoundException"), LACKS, None),
    (408, *aws("Model has timed out in processing the request.", "ModelTimeoutException"), SLOW, None),
    (424, *aws("The system encountered an unexpected error", "ModelErrorException"), SERVER, None),
    (500, *aws("The system encountered an unexpected error.", "InternalServerException"), SERVER, None),
    (503, *aws("Bedrock is unable to process your request.", "ServiceUnavailableException"), SERVER, None),
    (529, *aws("overloaded"), SERVER, None),
]
MISTRAL: list[Row] = [
    (429, {"message": "Requests rate limit exceeded"}, {}, RATE, None),
    (
        429,
        {"object": "error", "message": "Rate limit exceeded", "type": "rate_limited", "code": "1300"},
        {},
        RATE,
        None,
    ),
    (429, {"object": "error", "message": "Service tier capacity exceeded", "code": "3505"}, {}, RATE, None),
    (401, {"message": "Unauthorized", "request_id": "1"}, {}, AUTH, None),
    (401, {"detail": "Invalid API Key"}, {}, AUTH, None),
    (402, {"detail": "You cannot use this API: no active subscription"}, {}, EMPTY, None),
    (400, {"object": "error", "message": "Invalid model: x", "type": "invalid_model", "code": "1500"}, {}, LACKS, None),
    (422, {"detail": [{"type": "extra_forbidden", "loc": ["body", "x"], "msg": "Extra inputs"}]}, {}, CLIENT, None),
    (
        400,
        {
            "object": "error",
            "message": "Prompt contains 40000 tokens, too large for model with 32768 maximum context length",
        },
        {},
        CONTEXT,
        None,
    ),
    (500, {"object": "error", "message": "Internal", "type": "internal_server_error"}, {}, SERVER, None),
    (503, {"message": "overflow upstream connect error"}, {}, SERVER, None),
    (520, b"", {}, SERVER, None),
]
OPENROUTER: list[Row] = [
    (429, rou(429, "Rate limit exceeded: free-models-per-min.", headers={"X-RateLimit-Limit": "20"}), {}, RATE, None),
    (429, rou(429, "Rate limit exceeded: free-models-per-day. Add 10 credits to unlock"), {}, DAY, None),
    (
        429,
        rou(429, "Provider returned error", provider_name="X", raw="is temporarily rate-limited"),
        wait(4),
        RATE,
        4.0,
    ),
    (402, rou(402, "This request requires more credits, or fewer max_tokens."), {}, EMPTY, None),
    (402, rou(402, "Insufficient credits"), {}, EMPTY, None),
    (402, rou(402, "in-flight requests hold the remaining budget"), wait(12), RATE, 12.0),
    (401, rou(401, "No auth credentials found"), {}, AUTH, None),
    (401, rou(401, "User not found."), {}, AUTH, None),
    (
        403,
        rou(403, "Input was flagged", reasons=["violence"], flagged_input="…", provider_name="OpenAI"),
        {},
        FILTER,
        None,
    ),
    (403, rou(403, "Key limit exceeded (total limit)"), {}, EMPTY, None),
    (404, rou(404, "No endpoints found that support tool use."), {}, LACKS, None),
    (404, rou(404, "No endpoints found matching your data policy"), {}, LACKS, None),
    (400, rou(400, "x/y is not a valid model ID"), {}, LACKS, None),
    (400, rou(400, "This endpoint's maximum context length is 8192 tokens."), {}, CONTEXT, None),
    (408, rou(408, "Request timed out"), {}, SLOW, None),
    (502, rou(502, "Provider returned error"), {}, SERVER, None),
    (503, rou(503, "No instances available"), {}, SERVER, None),
]
VLLM: list[Row] = [
    (400, {"object": "error", "message": LONG, "type": "BadRequestError", "code": 400}, {}, CONTEXT, None),
    (400, oai(LONG, "BadRequestError", 400), {}, CONTEXT, None),
    (400, {"object": "error", "message": '"auto" tool choice requires --enable-auto-tool-choice'}, {}, LACKS, None),
    (404, {"object": "error", "message": "The model `x` does not exist.", "type": "NotFoundError"}, {}, LACKS, None),
    (401, {"error": "Unauthorized"}, {}, AUTH, None),
    (404, {"detail": "Not Found"}, {}, CLIENT, None),
    (422, {"detail": [{"loc": ["body", "messages"], "msg": "field required"}]}, {}, CLIENT, None),
    (500, b"Internal Server Error", {}, SERVER, None),
    (503, {"detail": "Service Unavailable"}, wait(1), SERVER, 1.0),
]
OLLAMA: list[Row] = [
    (404, oai("model 'x' not found, try pulling it first", "api_error"), {}, LACKS, None),
    (404, {"error": "model 'x' not found"}, {}, LACKS, None),
    (400, oai("registry.ollama.ai/library/x does not support tools", "api_error"), {}, LACKS, None),
    (400, oai("invalid message content type", "invalid_request_error"), {}, CLIENT, None),
    (401, {"error": "unauthorized"}, {}, AUTH, None),
    (500, oai("model requires more system memory (9 GiB) than is available", "api_error"), {}, SERVER, None),
    (500, {"error": "llama runner process has terminated: exit status 2"}, {}, SERVER, None),
    (503, {"error": "server busy, please try again. maximum pending requests exceeded"}, {}, SERVER, None),
]
GATEWAYS: list[Row] = [
    (301, b"", {"location": "https://elsewhere.test"}, BROKEN, None),
    (307, HTML, {}, BROKEN, None),
    (402, oai("Insufficient Balance", "unknown_error", "invalid_request_error"), {}, EMPTY, None),
    (403, HTML, {"server": "cloudflare"}, AUTH, None),
    (405, b"Method Not Allowed", {}, CLIENT, None),
    (425, b"Too Early", {}, SERVER, None),
    (
        429,
        b"slow down",
        {"retry-after": "Sat, 21 Nov 2026 00:01:00 GMT", "date": "Sat, 21 Nov 2026 00:00:00 GMT"},
        RATE,
        60.0,
    ),
    (429, b"", {"retry-after": "-5"}, RATE, None),
    (429, b"", {"retry-after": "NaN"}, RATE, None),
    (429, b"", {"retry-after": "1e308"}, RATE, MAX_RETRY_AFTER),
    (429, b"", {"retry-after": "soon"}, RATE, None),
    (429, b"", {"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT", "date": "Sat, 21 Nov 2026 00:00:00 GMT"}, RATE, None),
    (429, b"", {"retry-after": "36000"}, RATE, 36_000.0),
    (429, b"", {"retry-after": "Fri, 31 Dec 9999 23:59:59 GMT"}, RATE, MAX_RETRY_AFTER),
    (503, {"error": "Model x/y is currently loading", "estimated_time": 20.0}, {}, SERVER, None),
    (503, b"", {"retry-after": "120"}, SERVER, 120.0),
]
TABLE = {
    f"{provider} {place}: {row[0]} {row[3]}": row
    for provider, rows in {
        "openai": OPENAI,
        "azure": AZURE,
        "anthropic": ANTHROPIC,
        "groq": GROQ,
        "gemini": GEMINI,
        "bedrock": BEDROCK,
        "mistral": MISTRAL,
        "openrouter": OPENROUTER,
        "vllm": VLLM,
        "ollama": OLLAMA,
        "gateway": GATEWAYS,
    }.items()
    for place, row in enumerate(rows)
}


def encoded(body: Any) -> bytes:
    """Write a body as it comes."""
    return body if isinstance(body, bytes) else json.dumps(body).encode()


def test_the_table_is_as_long_as_promised(figures: Any) -> None:
    """At least 150 answers."""
    assert len(TABLE) >= 150
    figures.add("R15", "golden table", f"{len(TABLE)} answers of 10 providers and their gateways: all understood")


@pytest.mark.parametrize("name", TABLE)
def test_an_answer_is_understood(name: str) -> None:
    """What it means, whom it concerns, and how long to wait."""
    status, body, headers, meaning, seconds = TABLE[name]

    error = error_from_status(status, headers, encoded(body))

    assert (verdict(error), error.retry_after) == (meaning, seconds)


IN_BAND: dict[str, tuple[Any, str]] = {
    "openrouter 429": (rou(429, "Provider returned error")["error"], RATE),
    "openrouter 502": (rou(502, "Provider disconnected unexpectedly", error_type="x")["error"], SERVER),
    "openrouter 400": (rou(400, "bad request")["error"], CLIENT),
    "anthropic overloaded": (ant("overloaded_error", "Overloaded")["error"], SERVER),
    "anthropic rate limit": (ant("rate_limit_error", "slow")["error"], RATE),
    "openai server": (oai("The server had an error", "server_error")["error"], SERVER),
    "openai quota": (oai("", "insufficient_quota", "insufficient_quota")["error"], EMPTY),
    "gemini": (goo(503, "UNAVAILABLE", "overloaded")["error"], SERVER),
    "gemini quota": (goo(429, "RESOURCE_EXHAUSTED", "q", DAILY)["error"], DAY),
    "bedrock throttling": ({"type": "throttlingException", "message": "Too many requests"}, RATE),
    "bedrock stream": ({"type": "modelStreamErrorException", "message": "broke"}, SERVER),
    "vllm": ({"object": "error", "message": "engine died", "type": "InternalServerError", "code": 500}, SERVER),
    "text": ("upstream connect error", SERVER),
    "context": (oai(LONG, "invalid_request_error", "context_length_exceeded")["error"], CONTEXT),
    "filter": (oai("filtered", None, "content_filter")["error"], FILTER),
}


@pytest.mark.parametrize("name", IN_BAND)
def test_an_error_inside_a_success_is_understood(name: str) -> None:
    """Status 200 is not success."""
    error, meaning = IN_BAND[name]

    assert verdict(error_in_band(error, {})) == meaning


HEADERS: dict[str, tuple[dict[str, str], tuple[Any, ...]]] = {
    # requests left, tokens left, seconds to the next reset, limits of requests and tokens
    "openai": (
        {
            "x-ratelimit-limit-requests": "500",
            "x-ratelimit-limit-tokens": "30000",
            "x-ratelimit-remaining-requests": "499",
            "x-ratelimit-remaining-tokens": "29000",
            "x-ratelimit-reset-requests": "120ms",
            "x-ratelimit-reset-tokens": "6m0s",
        },
        (499, 29_000, 0.12, 500, 30_000),
    ),
    "azure placeholders": (
        {
            "x-ratelimit-remaining-requests": "-1",
            "x-ratelimit-limit-requests": "0",
            "x-ratelimit-remaining-tokens": "99",
        },
        (None, 99, None, None, None),
    ),
    "anthropic": (
        {
            "date": "Sat, 21 Nov 2026 12:00:00 GMT",
            "anthropic-ratelimit-requests-limit": "50",
            "anthropic-ratelimit-requests-remaining": "49",
            "anthropic-ratelimit-requests-reset": "2026-11-21T12:00:02Z",
            "anthropic-ratelimit-tokens-limit": "40000",
            "anthropic-ratelimit-tokens-remaining": "39000",
            "anthropic-ratelimit-tokens-reset": "2026-11-21T12:01:00Z",
        },
        (49, 39_000, 2.0, 50, 40_000),
    ),
    "groq": (
        {
            "x-ratelimit-limit-requests": "14400",
            "x-ratelimit-remaining-requests": "14370",
            "x-ratelimit-reset-requests": "2m59.56s",
            "x-ratelimit-reset-tokens": "7.66s",
        },
        (14_370, None, 7.66, 14_400, None),
    ),
    "plain": (
        {"x-ratelimit-limit": "20", "x-ratelimit-remaining": "0", "x-ratelimit-reset": "30"},
        (0, None, 30.0, 20, None),
    ),
}


@pytest.mark.parametrize("name", HEADERS)
def test_headers_are_understood(name: str) -> None:
    """Each family's, in one shape."""
    headers, (requests, tokens, reset, most_requests, most_tokens) = HEADERS[name]

    status = parse_rate_limits(headers)

    assert status is not None
    assert (status.requests_remaining, status.tokens_remaining) == (requests, tokens)
    assert status.reset_seconds == (reset if reset is None else pytest.approx(reset))
    assert (status.requests_limit, status.tokens_limit) == (most_requests, most_tokens)


NAMES = st.sampled_from(
    [
        "retry-after",
        "retry-after-ms",
        "date",
        "x-should-retry",
        "x-amzn-errortype",
        "x-ratelimit-limit",
        "x-ratelimit-remaining",
        "x-ratelimit-reset",
        *(f"x-ratelimit-{part}-{unit}" for part in ("limit", "remaining", "reset") for unit in ("requests", "tokens")),
        *(
            f"anthropic-ratelimit-{unit}-{part}"
            for part in ("limit", "remaining", "reset")
            for unit in ("requests", "tokens")
        ),
    ]
)
VALUES = st.one_of(
    st.text(max_size=40),
    st.floats().map(repr),
    st.integers().map(str),
    st.sampled_from(
        [
            "NaN",
            "inf",
            "-inf",
            "1e308",
            "1e-308",
            "٣",
            "1_000",
            "0x10",
            "9" * 400,
            "6m0s",
            "-1s",
            "1h1h",
            "1ms1",
            " ",
            "",
        ]
    ),
    st.datetimes().map(lambda moment: moment.isoformat()),
    st.datetimes().map(lambda moment: moment.strftime("%a, %d %b %Y %H:%M:%S GMT")),
    st.binary(max_size=20).map(lambda raw: raw.decode("latin-1")),
)
BODIES = st.one_of(
    st.binary(max_size=60),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["error", "code", "type", "message", "status", "details", "detail", "@type", "metadata"]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    ).map(encoded),
)


def test_nothing_on_the_wire_raises(figures: Any) -> None:
    """Any headers, any body, any status: an error of ours, a wait between nothing and a day."""
    count = figures.scale(700, 15_000)

    @settings(max_examples=count, derandomize=True, database=None)
    @given(st.lists(st.dictionaries(NAMES, VALUES, max_size=6), max_size=4), BODIES, st.integers(300, 599))
    def check(many: list[dict[str, str]], body: bytes, status: int) -> None:
        for headers in many:
            wait = parse_retry_after(headers)
            assert wait is None or 0.0 <= wait <= MAX_RETRY_AFTER
            found = parse_rate_limits(headers)
            if found is not None:
                assert found.reset_seconds is None or 0.0 <= found.reset_seconds <= MAX_RETRY_AFTER
                assert all(left is None or left >= 0 for left in (found.requests_remaining, found.tokens_remaining))
            error = error_from_status(status, headers, body)
            assert error.retry_after is None or 0.0 <= error.retry_after <= MAX_RETRY_AFTER
            verdict(error)

    check()
    figures.add("R15", f"fuzz: {count:,} examples of up to four sets of headers with a body each", "0 exceptions")


LETTERS = '0123456789.,:;-+ eEinfNaNsmhdT Z\u0663\u00fc\x00\t%"\\'


def test_no_header_raises(figures: Any) -> None:
    """As many as are promised: whole values, cut, spliced and with characters put in at random."""
    count = 1_000_000
    lot = random.Random(15)
    names = [
        "retry-after",
        "retry-after-ms",
        "date",
        "x-ratelimit-limit",
        "x-ratelimit-remaining",
        "x-ratelimit-reset",
        *(f"x-ratelimit-{part}-{unit}" for part in ("limit", "remaining", "reset") for unit in ("requests", "tokens")),
        *(f"anthropic-ratelimit-tokens-{part}" for part in ("limit", "remaining", "reset")),
    ]
    seeds = [value for headers, _ in HEADERS.values() for value in headers.values()]
    seeds += ["NaN", "-inf", "1e308", "9" * 400, "-1s", "1h1h", "Wed, 21 Oct 2026 07:28:00 GMT", "10h17m", "", "0"]

    def value() -> str:
        text = lot.choice(seeds)
        for _ in range(lot.randrange(4)):
            place = lot.randrange(len(text) + 1)
            how = lot.randrange(3)
            put = lot.choice(LETTERS) if how else lot.choice(seeds)
            text = text[:place] + put + text[place + (how == 1) :]
        return text

    done = 0
    while done < count:
        headers = {name: value() for name in lot.sample(names, 8)}
        done += len(headers)
        wait = parse_retry_after(headers)
        assert wait is None or 0.0 <= wait <= MAX_RETRY_AFTER, headers
        found = parse_rate_limits(headers)
        assert found is None or found.reset_seconds is None or 0.0 <= found.reset_seconds <= MAX_RETRY_AFTER, headers

    figures.add("R15", f"fuzz: {done:,} headers made of real ones", "0 exceptions, no wait outside of a day")


RESTS = {CLIENT: [], FILTER: [], LACKS: [], CONTEXT: [], RATE: ["a"], DAY: ["a"], EMPTY: ["a", "b"], AUTH: ["a", "b"]}


@pytest.mark.parametrize("meaning", RESTS)
def test_who_is_meant_is_who_rests(meaning: str) -> None:
    """Nobody, the one model, or everything behind the key; the models of another provider go on."""
    status, body, headers, *_ = next(row for row in TABLE.values() if row[3] == meaning and (row[4] or meaning != RATE))
    provider = ScriptedProvider([error_from_status(status, headers, encoded(body))])
    mesh = ModelMesh(clock=FakeClock(auto_advance=True), environ={})
    mesh.initialize(
        {
            "providers": {"first": {"instance": provider}, "second": {"instance": ScriptedProvider()}},
            "models": {
                name: {"provider": owner, "capabilities": ["chat-completion"]}
                for name, owner in (("a", "first"), ("b", "first"), ("c", "second"))
            },
            "pools": {"chat": {"capability": "chat-completion"}},
        }
    )

    with suppress(InvalidRequestError, ContentFilterError):
        mesh.get_router().complete("chat", CompletionRequest([{"role": "user", "content": "hi"}]))
    members = mesh.get_router().get_pool("chat").members
    resting = [name for name, member in members.items() if not member.active]
    mesh.shutdown()

    assert resting == RESTS[meaning]
