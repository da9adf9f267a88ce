"""What crosses the border between the engine and a provider connector.

Payloads are plain dicts in the shape of OpenAI's chat completions API
(https://platform.openai.com/docs/api-reference/chat), whatever the provider speaks on the wire: a connector
translates in both directions. They are parsed once, and never copied into models on the way.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import pairwise
from typing import Any, Literal, Protocol, runtime_checkable

from modelmesh.errors import Category
from modelmesh.interfaces.runtime import ConnectorContext


class AuthMethod(Enum):
    """How a provider is told who calls."""

    API_KEY = "api_key"
    OAUTH = "oauth"
    SERVICE_ACCOUNT = "service_account"


@dataclass(frozen=True, slots=True)
class Timeouts:
    """The clocks of one attempt, in seconds; None means no limit.

    Attributes:
        connect: Until a connection stands.
        first_token: Until the first content of a stream. Keep-alive comments do not count.
        idle: Between two pieces of content of a stream. Keep-alive comments do not count.
        total: The whole attempt.
    """

    connect: float | None = 5.0
    first_token: float | None = 60.0
    idle: float | None = 30.0
    total: float | None = 600.0


@dataclass(slots=True)
class TokenUsage:
    """Tokens of one request, as OpenAI counts them.

    Attributes:
        prompt_tokens: Input, cached tokens included.
        completion_tokens: Output, reasoning tokens included.
        total_tokens: Their sum, unless the provider says otherwise.
        cached_tokens: The part of the input that the provider read from its cache.
        reasoning_tokens: The part of the output that was not shown.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0


@dataclass(frozen=True, slots=True)
class ModelPricing:
    """Prices in USD: per 1,000 tokens, and per request."""

    input_per_1k_tokens: float = 0.0
    output_per_1k_tokens: float = 0.0
    per_request: float | None = None

    def cost(self, usage: TokenUsage) -> float:
        """Return the price of this usage, in USD."""
        return (
            usage.prompt_tokens * self.input_per_1k_tokens + usage.completion_tokens * self.output_per_1k_tokens
        ) / 1000.0 + (self.per_request or 0.0)


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model as its provider describes it.

    Attributes:
        id: The provider's own name for it.
        name: For people.
        capabilities: What work it does: paths or leaf names of the capability tree.
        context_window: Tokens, input and output together; None if not known.
        max_output_tokens: Tokens; None if not known.
        pricing: None if not known.
        features: What it supports inside that work, such as ``tool_calling`` or ``vision``.
        delivery: Which of ``synchronous``, ``streaming`` and ``batch`` it offers.
    """

    id: str
    name: str
    capabilities: Sequence[str]
    context_window: int | None = None
    max_output_tokens: int | None = None
    pricing: ModelPricing | None = None
    features: Mapping[str, bool] = field(default_factory=dict)
    delivery: Mapping[str, bool] = field(default_factory=lambda: {"synchronous": True, "streaming": True})


@dataclass(frozen=True, slots=True)
class RateLimitStatus:
    """What the provider last said about its rate limits; None wherever it said nothing.

    A negative figure on the wire (Azure sends -1 as a placeholder) is None here.

    Attributes:
        requests_limit: Requests per window.
        requests_remaining: Requests left in it.
        tokens_limit: Tokens per window.
        tokens_remaining: Tokens left in it.
        reset_seconds: Seconds from the answer until the first of the windows is fresh again.
    """

    requests_remaining: int | None = None
    tokens_remaining: int | None = None
    reset_seconds: float | None = None
    requests_limit: int | None = None
    tokens_limit: int | None = None


@dataclass(frozen=True, slots=True)
class FreeTier:
    """What a provider gives away in a period, as it said on a day.

    A connector states it as its class's ``free_tier``; ``quota: {free_tier: true}`` makes it the provider's quota.

    Attributes:
        as_of: The day it was looked up, as ``2026-11-21``: such offers change.
        requests: In a period; None when requests are not limited.
        tokens: In a period; None when tokens are not limited.
        schedule: When it is full again.
        timezone: Where days and months begin, such as ``America/Los_Angeles``.
        source: Where it is written: an address, or a few words.
    """

    as_of: str
    requests: int | None = None
    tokens: int | None = None
    schedule: Literal["monthly", "daily"] = "daily"
    timezone: str = "UTC"
    source: str = ""


@dataclass(frozen=True, slots=True)
class QuotaStatus:
    """Use of the provider's quota, in requests; ``resets_at`` is a Unix timestamp."""

    used: int = 0
    remaining: int | None = None
    limit: int | None = None
    resets_at: float | None = None


@dataclass(frozen=True, slots=True)
class ErrorClassificationResult:
    """What a connector makes of an exception.

    Attributes:
        retryable: Whether the same call may succeed a moment later.
        category: See `modelmesh.errors.Category`.
        retry_after: Seconds the provider asked to wait, or None.
        status_code: HTTP status, or None.
        message: For people; no secrets.
    """

    retryable: bool
    category: Category
    retry_after: float | None = None
    status_code: int | None = None
    message: str = ""


ErrorClassification = ErrorClassificationResult

Operation = Literal["chat", "embeddings", "speech", "transcription", "image"]


@dataclass(frozen=True, slots=True, repr=False)
class Upload:
    """A file that goes along with a request, as ``payload["file"]`` of a transcription.

    Attributes:
        content: Its bytes.
        name: With the suffix that says what it is; some providers go by that.
        content_type: MIME type; empty when not known.
    """

    content: bytes
    name: str = "audio.wav"
    content_type: str = ""

    def __repr__(self) -> str:
        # Logs show requests: a recording is neither readable nor short.
        return f"Upload({self.name!r}, {len(self.content)} bytes)"


@dataclass(slots=True)
class ProviderRequest:
    """One attempt's request, ready for a connector.

    Attributes:
        model: The model, as the provider names it.
        payload: Body in OpenAI's shape without ``model`` and ``stream``: ``messages`` and whatever else the
            caller passed, unknown keys included. Shared between the attempts of a request: read, never write.
        operation: What kind of call this is. A transcription has an `Upload` as ``payload["file"]``.
        stream: Whether chunks are asked for.
        timeouts: The clocks of this attempt.
        headers: Extra headers to pass on (trace context); never credentials.
        metadata: The caller's metadata; not sent to the provider.
        request_id: The same for all attempts of one request.
    """

    model: str
    payload: Mapping[str, Any]
    operation: Operation = "chat"
    stream: bool = False
    timeouts: Timeouts = field(default_factory=Timeouts)
    headers: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    request_id: str = ""

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The conversation, oldest first."""
        messages: list[dict[str, Any]] = self.payload["messages"]
        return messages

    @property
    def last_text(self) -> str:
        """Text of the last message, or an empty string when it has none."""
        content = self.messages[-1].get("content") if self.payload.get("messages") else None
        if isinstance(content, str):
            return content
        if isinstance(content, list):
            return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
        return ""


@dataclass(slots=True)
class ProviderResponse:
    """A whole answer.

    Attributes:
        data: In OpenAI's shape: ``id``, ``object``, ``created``, ``model``, ``choices``, ``usage``. Of speech:
            ``audio`` in base64, and ``content_type``. Of a transcription at least ``text``.
        usage: Tokens, or None when the provider did not say.
        rate_limits: From the answer's headers, or None.
        headers: The answer's headers that are worth passing on; no cookies, no credentials.
        cost: USD; filled in by the mesh for middleware, None when the price is not known.
    """

    data: dict[str, Any]
    usage: TokenUsage | None = None
    rate_limits: RateLimitStatus | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    cost: float | None = None

    @classmethod
    def text(
        cls,
        content: str,
        *,
        model: str,
        prompt_tokens: int = 0,
        completion_tokens: int = 0,
        finish_reason: str = "stop",
        response_id: str = "chatcmpl-local",
        created: int = 0,
    ) -> ProviderResponse:
        """Build the answer of a connector that has nothing but text."""
        usage = TokenUsage(prompt_tokens, completion_tokens, prompt_tokens + completion_tokens)
        return cls(
            {
                "id": response_id,
                "object": "chat.completion",
                "created": created,
                "model": model,
                "choices": [
                    {
                        "index": 0,
                        "message": {"role": "assistant", "content": content},
                        "finish_reason": finish_reason,
                    }
                ],
                "usage": {
                    "prompt_tokens": usage.prompt_tokens,
                    "completion_tokens": usage.completion_tokens,
                    "total_tokens": usage.total_tokens,
                },
            },
            usage=usage,
        )


@dataclass(slots=True)
class ProviderChunk:
    """One piece of a streamed answer.

    Attributes:
        data: A ``chat.completion.chunk`` in OpenAI's shape.
        text: The content it adds (first choice); empty for role, tool-call and lifecycle chunks.
        commits: Whether it carries content (text, reasoning, refusal or a tool call): from the first such chunk
            on, the request stays with this stream.
        finish_reason: Why the answer ended, in the chunk that says so. The stream's terminal signal.
        usage: Tokens, in the chunk that reports them.
        raw: The JSON bytes as they came, when they can be passed on unchanged; else None.
    """

    data: dict[str, Any]
    text: str = ""
    commits: bool = False
    finish_reason: str | None = None
    usage: TokenUsage | None = None
    raw: bytes | None = None


@dataclass(slots=True)  # not frozen: one is made for each attempt, and freezing would cost five times as much
class AttemptRecord:
    """One call to one provider, in a receipt.

    Attributes:
        model_id: As configured.
        provider_id: As configured.
        outcome: ``success``, the error's category, or ``cancelled``.
        reason: Why it failed, for people; None on success.
        status_code: HTTP status; 200 on success; None when there was none.
        latency_ms: From the call to its end.
        time_to_first_token_ms: Streams only; None when no content came.
        tokens_in: Input tokens.
        tokens_out: Output tokens.
        cost: USD, or None when the price is not known.
    """

    model_id: str
    provider_id: str
    outcome: str
    reason: str | None = None
    status_code: int | None = None
    latency_ms: float = 0.0
    time_to_first_token_ms: float | None = None
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float | None = None


@dataclass(slots=True)
class Receipt:
    """What a request took: in ``CompletionResponse.metadata["receipt"]`` and on errors.

    Attributes:
        request_id: Shared by logs, traces and events of the request.
        pool_id: The pool that served it.
        attempts: In the order they were made; the last one succeeded unless the request failed.
        overhead_us: Microseconds the router itself took, waiting for providers and backoff excluded.
    """

    request_id: str
    pool_id: str
    attempts: list[AttemptRecord] = field(default_factory=list)
    overhead_us: float = 0.0

    @property
    def rotations(self) -> int:
        """How often the request moved from one model to another."""
        ids = [attempt.model_id for attempt in self.attempts]
        return sum(1 for before, after in pairwise(ids) if before != after)

    @property
    def retries(self) -> int:
        """How often the same model was called again."""
        return max(0, len(self.attempts) - 1 - self.rotations)

    @property
    def cost(self) -> float:
        """USD of all attempts together; unknown prices count 0."""
        return sum(attempt.cost or 0.0 for attempt in self.attempts)


@runtime_checkable
class BatchConnector(Protocol):
    """What a provider connector has besides, if it can hand whole batches to its provider; each method is optional.

    Without ``submit_batch`` the mesh asks for each request of a batch by itself. What the other three leave out nobody
    can do: without ``get_batch_results`` a batch counts as it was estimated.
    """

    async def submit_batch(self, model: str, payloads: Sequence[Mapping[str, Any]]) -> str:
        """Hand a batch over and return the provider's ID of the job.

        Args:
            model: As the provider names it.
            payloads: Bodies as in `ProviderRequest.payload`; read, never write.

        Raises:
            ProviderError: It was not taken, or nobody knows.
        """
        ...

    async def get_batch(self, job_id: str) -> Mapping[str, Any]:
        """Say how far a job is.

        Returns:
            ``status``: ``queued``, ``in_progress``, ``completed``, ``failed``, ``cancelled`` or ``expired``, the last
            four only once nothing more is done; ``completed`` and ``failed``: requests so far, left out where the
            provider does not say. A job that has ended with ``completed`` 0 is taken to cost nothing.

        Raises:
            ProviderError: It cannot be asked, or knows no such job.
        """
        ...

    async def get_batch_results(self, job_id: str) -> Sequence[Mapping[str, Any] | None]:
        """Return what came of each request so far, in the order of the payloads.

        Returns:
            ``response``, a whole answer in OpenAI's shape with its ``usage``; or ``error`` with ``message`` and, if
            known, ``type``; None for a request that was not carried out, or is not yet.

        Raises:
            ProviderError: It cannot be asked, or knows no such job.
        """
        ...

    async def cancel_batch(self, job_id: str) -> None:
        """Carry out no more of a job. It may go on for a while; `get_batch` says when it has ended.

        Raises:
            ProviderError: It cannot be asked, or knows no such job.
        """
        ...


@runtime_checkable
class ProviderConnector(Protocol):
    """What the engine needs of a provider. Inherit ``modelmesh_cdk.BaseProvider`` rather than writing it all.

    One instance serves all models of one configured provider, many requests at a time. A connector translates
    and maps failures to `modelmesh.errors`; it does not retry, log requests, count tokens or choose.
    """

    def bind(self, context: ConnectorContext) -> None:
        """Receive clock, randomness and trace; called once, before the first request."""
        ...

    async def complete(self, request: ProviderRequest) -> ProviderResponse:
        """Answer the request whole.

        Raises:
            ProviderError: The subclass says whose fault it is; the engine decides what to do.
        """
        ...

    def stream(self, request: ProviderRequest) -> AsyncIterator[ProviderChunk]:
        """Answer in chunks. Closing the iterator closes the provider's connection.

        Raises:
            ProviderError: At any point; `StreamInterruptedError` when it ends without a terminal signal.
        """
        ...

    def get_capabilities(self) -> Sequence[str]:
        """Capability names of the work this provider does."""
        ...

    def supports(self, capability: str) -> bool:
        """Whether it does this work."""
        ...

    async def list_models(self) -> Sequence[ModelInfo]:
        """Models it offers; a cheap call, used as a health probe as well."""
        ...

    async def get_model_info(self, model_id: str) -> ModelInfo:
        """Describe one model.

        Raises:
            KeyError: It has no such model.
        """
        ...

    async def check_quota(self) -> QuotaStatus:
        """Use of its quota as far as known."""
        ...

    async def get_rate_limits(self) -> RateLimitStatus:
        """The last rate-limit figures it gave."""
        ...

    async def get_pricing(self, model_id: str) -> ModelPricing:
        """Prices of one model.

        Raises:
            KeyError: They are not known.
        """
        ...

    def report_usage(self, model_id: str, usage: TokenUsage) -> None:
        """Take note of a finished request's tokens."""
        ...

    def classify_error(self, error: Exception) -> ErrorClassificationResult:
        """Say what an exception of this connector means."""
        ...

    def is_retryable(self, error: Exception) -> bool:
        """Shorthand for ``classify_error(error).retryable``."""
        ...

    async def close(self) -> None:
        """Release connections. Called once, at shutdown; may be called on another loop than requests were."""
        ...
