"""BaseProvider: a provider connector is one method that answers; everything else has a safe default.

`BaseProvider` knows nothing of HTTP, so it serves in-process models and vendors' own SDKs as well. For REST APIs
inherit `HttpProvider`, for those that speak OpenAI's language ``OpenAICompatibleProvider``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeGuard, TypeVar, cast

from pydantic import BaseModel, ConfigDict

from modelmesh.errors import ProviderError
from modelmesh.hookspecs import hookimpl
from modelmesh.interfaces.observability import Severity
from modelmesh.interfaces.provider import (
    ErrorClassificationResult,
    FreeTier,
    ModelInfo,
    ModelPricing,
    ProviderChunk,
    ProviderRequest,
    ProviderResponse,
    QuotaStatus,
    RateLimitStatus,
    TokenUsage,
)
from modelmesh.interfaces.runtime import ConnectorContext

CHAT = "generation.text-generation.chat-completion"


class BaseProviderConfig(BaseModel):
    """Settings of a provider; inherit it and add fields. Unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


ConfigT = TypeVar("ConfigT", bound=BaseProviderConfig)


class BaseProvider(ABC, Generic[ConfigT]):
    """Inherit this and write `complete`, and `stream` where the provider can.

    Attributes:
        config_model: Settings the connector reads from its entry under ``providers``.
        connector_id: Set it only when one plugin offers several connectors; else the entry point's name is the ID.
        environment_variables: Where ``create()`` finds the key; the first that is set switches the provider on.
        known_models: Models it is known to offer, by the provider's own names, with prices.
        free_tier: What the provider gives away in a period, with the day it said so; None if nothing, or not known.
        capabilities: Work it does.
        config: The settings.
        context: Clock, randomness and trace, once bound.
    """

    config_model: ClassVar[type[BaseProviderConfig]] = BaseProviderConfig
    connector_id: ClassVar[str] = ""
    environment_variables: ClassVar[tuple[str, ...]] = ()
    known_models: ClassVar[Mapping[str, ModelInfo]] = {}
    free_tier: ClassVar[FreeTier | None] = None
    capabilities: ClassVar[tuple[str, ...]] = (CHAT,)
    context: ConnectorContext | None = None

    def __init__(self, config: ConfigT | None = None) -> None:
        self.config = config if config is not None else cast("ConfigT", self.config_model())
        self._requests = 0
        self._rate_limits: RateLimitStatus | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    @classmethod
    @hookimpl
    def modelmesh_providers(cls) -> Mapping[str, type[BaseProvider[Any]]]:
        """Offer this class under its entry point's name."""
        return {cls.connector_id: cls}

    @classmethod
    def detect(cls, environ: Mapping[str, str]) -> Mapping[str, Any] | None:
        """Return the configuration ``create()`` uses when the environment holds a key; None when it does not.

        Returns:
            ``provider``, settings with a reference to the secret and never its value, and ``models`` by ID.
        """
        for name in cls.environment_variables:
            if environ.get(name):
                return {"provider": cls._detected_settings(name, environ), "models": cls._detected_models()}
        return None

    @classmethod
    def _detected_settings(cls, variable: str, environ: Mapping[str, str]) -> Mapping[str, Any]:
        return {"api_key": f"${{secrets:{variable}}}"}

    @classmethod
    def _detected_models(cls) -> Mapping[str, Any]:
        return {
            name: {
                "capabilities": list(info.capabilities),
                "delivery": dict(info.delivery),
                "features": dict(info.features),
                "constraints": {
                    key: value
                    for key, value in (
                        ("context_window", info.context_window),
                        ("max_output_tokens", info.max_output_tokens),
                    )
                    if value is not None
                },
            }
            for name, info in cls.known_models.items()
        }

    def bind(self, context: ConnectorContext) -> None:
        """Receive clock, randomness and trace."""
        self.context = context

    # --- answering ----------------------------------------------------------------

    @abstractmethod
    async def complete(self, request: ProviderRequest) -> ProviderResponse:
        """Answer the request whole.

        Raises:
            ProviderError: See `modelmesh.errors`; the subclass says whose fault it is.
        """

    async def stream(self, request: ProviderRequest) -> AsyncGenerator[ProviderChunk, None]:
        """Answer in chunks; by default the whole answer of `complete` in one."""
        response = await self.complete(request)
        for chunk in chunks_of(response.data):
            yield chunk

    # --- what it is ------------------------------------------------------------------

    def get_capabilities(self) -> Sequence[str]:
        """Capability paths of the work it does."""
        return self.capabilities

    def supports(self, capability: str) -> bool:
        """Whether it does this work: the capability itself, or one below or above it."""
        return any(
            own == capability or own.startswith(f"{capability}.") or capability.startswith(f"{own}.")
            for own in self.get_capabilities()
        )

    async def list_models(self) -> Sequence[ModelInfo]:
        """Models it offers; by default the known ones."""
        return list(self.known_models.values())

    async def get_model_info(self, model_id: str) -> ModelInfo:
        """Describe one model.

        Raises:
            KeyError: It is not known.
        """
        for info in await self.list_models():
            if info.id == model_id:
                return info
        raise KeyError(f"{type(self).__name__} knows no model {model_id!r}")

    async def get_pricing(self, model_id: str) -> ModelPricing:
        """Prices of one model.

        Raises:
            KeyError: They are not known.
        """
        info = await self.get_model_info(model_id)
        if info.pricing is None:
            raise KeyError(f"{type(self).__name__} knows no price of {model_id!r}")
        return info.pricing

    async def check_quota(self) -> QuotaStatus:
        """Requests made so far; limits are not known by default."""
        return QuotaStatus(used=self._requests)

    async def get_rate_limits(self) -> RateLimitStatus:
        """The last figures the provider sent."""
        return self._rate_limits or RateLimitStatus()

    def report_usage(self, model_id: str, usage: TokenUsage) -> None:
        """Count a finished request."""
        self._requests += 1

    # --- failing -----------------------------------------------------------------------

    def classify_error(self, error: Exception) -> ErrorClassificationResult:
        """Say what an exception means; override it where the provider's own exceptions say more."""
        if isinstance(error, ProviderError):
            return ErrorClassificationResult(
                error.retryable, error.category, error.retry_after, error.status_code, error.message
            )
        if isinstance(error, TimeoutError):
            return ErrorClassificationResult(True, "timeout")
        if isinstance(error, OSError):
            return ErrorClassificationResult(True, "network")
        return ErrorClassificationResult(False, "unknown")

    def is_retryable(self, error: Exception) -> bool:
        """Whether the same call may succeed a moment later."""
        return self.classify_error(error).retryable

    async def close(self) -> None:
        """Release connections."""

    def _trace(self, severity: Severity, message: str) -> None:
        """Write one line to the mesh's trace; never a secret or a prompt."""
        if self.context is not None:
            self.context.trace(severity, message)


def chunks_of(data: Mapping[str, Any]) -> list[ProviderChunk]:
    """Return a whole answer as the chunks of a stream: its content, then its end with the usage."""
    base = {
        "id": data.get("id", ""),
        "object": "chat.completion.chunk",
        "created": data.get("created", 0),
        "model": data.get("model", ""),
    }
    chunks: list[ProviderChunk] = []
    finish: str | None = None
    ends: list[dict[str, Any]] = []
    for choice in data.get("choices") or ():
        message = dict(choice.get("message") or {})
        for place, call in enumerate(message.get("tool_calls") or ()):
            call.setdefault("index", place)
        text = message.get("content")
        index = choice.get("index", 0)
        content = {**base, "choices": [{"index": index, "delta": message, "finish_reason": None}]}
        chunks.append(
            ProviderChunk(
                content, text=text if isinstance(text, str) and index == 0 else "", commits=has_content(message)
            )
        )
        finish = choice.get("finish_reason") or "stop"
        ends.append({"index": index, "delta": {}, "finish_reason": finish})
    end: dict[str, Any] = {**base, "choices": ends}
    usage = usage_of(data.get("usage"))
    if usage is not None:
        end["usage"] = data["usage"]
    chunks.append(ProviderChunk(end, finish_reason=finish, usage=usage))
    return chunks


def has_content(delta: Mapping[str, Any]) -> bool:
    """Whether a message or delta carries something the caller would notice missing."""
    return any(
        delta.get(name)
        for name in ("content", "tool_calls", "function_call", "refusal", "reasoning_content", "reasoning", "audio")
    )


def usage_of(raw: object) -> TokenUsage | None:
    """Return the usage of an OpenAI-shaped answer, or None when there is none that can be read.

    None means "not known", and limits then book an estimate; an answer that names neither count has not been free.
    """
    if not isinstance(raw, Mapping):
        return None
    if not any(_is_count(raw.get(name)) for name in ("prompt_tokens", "completion_tokens")):
        return None
    tokens_in, tokens_out = _count(raw.get("prompt_tokens")), _count(raw.get("completion_tokens"))
    usage = TokenUsage(tokens_in, tokens_out, _count(raw.get("total_tokens")) or tokens_in + tokens_out)
    details = raw.get("prompt_tokens_details")
    usage.cached_tokens = _count(
        details.get("cached_tokens") if isinstance(details, Mapping) else raw.get("prompt_cache_hit_tokens")
    )
    details = raw.get("completion_tokens_details")
    if isinstance(details, Mapping):
        usage.reasoning_tokens = _count(details.get("reasoning_tokens"))
    return usage


_MOST_TOKENS = 2**53
"""What JSON can say exactly; more than that nobody has counted."""


def _count(value: object) -> int:
    return value if _is_count(value) else 0


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST_TOKENS
