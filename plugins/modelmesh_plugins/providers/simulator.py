"""A provider in this process: no key, no network, and any trouble you script.

It answers like a chat API, counts tokens by four characters each, and takes as long as it is told. With a seed the same
requests meet the same failures. It is what ``modelmesh serve`` offers when nothing else is configured, and what
examples and tests run on.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncGenerator, Mapping, Sequence
from copy import deepcopy
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from modelmesh.config.durations import Duration
from modelmesh.errors import (
    AuthenticationError,
    Category,
    InvalidRequestError,
    MalformedResponseError,
    ProviderConnectionError,
    ProviderError,
    ProviderServerError,
    ProviderTimeoutError,
    QuotaExhaustedError,
    RateLimitError,
)
from modelmesh.interfaces.provider import (
    ModelInfo,
    ModelPricing,
    ProviderChunk,
    ProviderRequest,
    ProviderResponse,
    RateLimitStatus,
    TokenUsage,
)
from modelmesh_cdk.provider import CHAT, BaseProvider, BaseProviderConfig, chunks_of
from modelmesh_plugins.simulated_media import IMAGE, SPEECH, TRANSCRIPTION, simulated_media

EMBEDDINGS = "representation.embeddings.text-embeddings"
_DIMENSIONS = 8
_MOST_CHOICES = 128


class Latency(BaseModel):
    """How long an answer takes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mean: Duration = Field(default=0.0, description="Seconds on average.")
    jitter: Duration = Field(default=0.0, description="Seconds it may be more or less, evenly spread.")


class Failure(BaseModel):
    """One kind of trouble and when it comes; give one of ``every``, ``rate`` or ``after``."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    error: Literal["rate_limit", "server_error", "timeout", "network", "auth", "quota", "malformed"] = "server_error"
    every: int | None = Field(default=None, ge=1, description="Each n-th request.")
    rate: float | None = Field(default=None, ge=0, le=1, description="Share of requests, drawn from the seed.")
    after: int | None = Field(default=None, ge=0, description="From the request after this many.")
    lasting: int | None = Field(default=None, ge=1, alias="for", description="How many requests, counted from after.")
    status: int | None = Field(default=None, ge=400, le=599, description="HTTP status to claim.")
    retry_after: Duration | None = Field(default=None, description="Wait to ask for.")

    @model_validator(mode="after")
    def _has_one_trigger(self) -> Failure:
        if sum(value is not None for value in (self.every, self.rate, self.after)) != 1:
            raise ValueError("a failure needs exactly one of every, rate and after")
        return self

    def strikes(self, number: int, draw: float) -> bool:
        """Whether the request of this 1-based number fails."""
        if self.every is not None:
            return number % self.every == 0
        if self.rate is not None:
            return draw < self.rate
        first = (self.after or 0) + 1
        return number >= first and (self.lasting is None or number < first + self.lasting)


class Allowance(BaseModel):
    """A free allowance that runs out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    requests: int = Field(ge=0, description="Requests in a period.")
    period: Duration | None = Field(default=None, description="After which it is full again; never by default.")


class CutStreams(BaseModel):
    """Streams that end in the middle."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    every: int = Field(ge=1, description="Each n-th stream.")
    after_tokens: int = Field(default=3, ge=0, description="Words that still come.")


class SimulatorConfig(BaseProviderConfig):
    """Settings of a simulator."""

    latency: Latency | Duration = Field(default=0.0, description="Of whole answers, or until a stream begins.")
    tokens_per_second: float | None = Field(default=None, gt=0, description="Pace of streams; at once by default.")
    failures: list[Failure] = Field(default=[], description="What goes wrong, and when.")
    allowance: Allowance | None = Field(default=None, description="An allowance that runs out.")
    cut_streams: CutStreams | None = Field(default=None, description="Streams that end in the middle.")
    seed: int = Field(default=0, description="Of everything that is drawn.")
    reply: str = Field(default="echo", description="echo repeats the last message; any other text is the answer.")


_FAILURES: Mapping[str, tuple[type[ProviderError], int | None]] = {
    "rate_limit": (RateLimitError, 429),
    "server_error": (ProviderServerError, 500),
    "timeout": (ProviderTimeoutError, None),
    "network": (ProviderConnectionError, None),
    "auth": (AuthenticationError, 401),
    "quota": (QuotaExhaustedError, 429),
    "malformed": (MalformedResponseError, 200),
}


class SimulatorProvider(BaseProvider[SimulatorConfig]):
    """Answers in process, as slowly and as badly as configured."""

    config_model: ClassVar[type[BaseProviderConfig]] = SimulatorConfig
    capabilities = (CHAT, EMBEDDINGS, SPEECH, TRANSCRIPTION, IMAGE)
    known_models: ClassVar[Mapping[str, ModelInfo]] = {
        info.id: info
        for info in (
            ModelInfo("simulator-fast", "Simulator, fast", (CHAT,), 32_000, 4_096, ModelPricing(0.0001, 0.0004)),
            ModelInfo("simulator-large", "Simulator, large", (CHAT,), 128_000, 16_384, ModelPricing(0.002, 0.008)),
        )
    }

    def __init__(self, config: SimulatorConfig | None = None) -> None:
        super().__init__(config)
        latency = self.config.latency
        self._latency = latency if isinstance(latency, Latency) else Latency(mean=latency)
        self._random = random.Random(self.config.seed)  # noqa: S311 (a script of failures, nothing secret)
        self._number = 0
        self._streams = 0
        self._period_start = 0.0
        self._used = 0
        self._scripted = bool(self.config.failures) or self.config.allowance is not None

    async def list_models(self) -> Sequence[ModelInfo]:
        """Models with figures of their own; any other name is answered as well."""
        return list(self.known_models.values())

    async def complete(self, request: ProviderRequest) -> ProviderResponse:
        """Answer after the configured latency, or fail as scripted."""
        self._number += 1
        if self._scripted:
            self._fail_if_scripted()
        if self._latency.mean or self._latency.jitter:
            await self._sleep(self._draw_latency())
        if request.operation == "chat":
            return self._answer(request)
        if request.operation == "embeddings":
            return self._embed(request)
        made = simulated_media(request, reply=self.config.reply, now=self._now())
        made.rate_limits = self._rate_limits
        return made

    async def stream(self, request: ProviderRequest) -> AsyncGenerator[ProviderChunk, None]:
        """Answer word by word."""
        response = await self.complete(request)
        self._streams += 1
        *wholes, end = chunks_of(response.data)
        whole, places = wholes[0], range(len(wholes))
        if not whole.text:
            for each in wholes:
                yield each
            yield end
            return
        cut = self.config.cut_streams
        cut_after = cut.after_tokens if cut is not None and self._streams % cut.every == 0 else None
        for index in places:
            yield _piece(whole.data, {"role": "assistant", "content": ""}, index=index)
        pace = self.config.tokens_per_second
        for place, word in enumerate(_words(whole.text)):
            if cut_after is not None and place >= cut_after:
                return
            if pace is not None and place:
                await self._sleep(1.0 / pace)
            for index in places:
                yield _piece(whole.data, {"content": word}, index=index, text=word)
        yield end

    # --- trouble --------------------------------------------------------------------

    def _fail_if_scripted(self) -> None:
        for failure in self.config.failures:
            if failure.strikes(self._number, self._random.random()):
                raise self._error(failure)
        allowance = self.config.allowance
        if allowance is None:
            return
        now = self.context.clock.monotonic() if self.context is not None else 0.0
        if allowance.period is not None and now - self._period_start >= allowance.period:
            self._period_start, self._used = now, 0
        if self._used >= allowance.requests:
            left = None if allowance.period is None else max(0.0, self._period_start + allowance.period - now)
            raise QuotaExhaustedError("the simulated quota is used up", status_code=429, retry_after=left)
        self._used += 1
        self._rate_limits = RateLimitStatus(allowance.requests - self._used, requests_limit=allowance.requests)

    def _error(self, failure: Failure) -> ProviderError:
        kind, status = _FAILURES[failure.error]
        category: Category = kind.category
        return kind(
            f"a simulated {category.replace('_', ' ')} failure",
            status_code=failure.status if failure.status is not None else status,
            retry_after=failure.retry_after,
        )

    def _draw_latency(self) -> float:
        spread = self._latency.jitter
        return max(0.0, self._latency.mean + self._random.uniform(-spread, spread))

    async def _sleep(self, seconds: float) -> None:
        if self.context is not None:
            await self.context.clock.sleep(seconds)
        else:
            await asyncio.sleep(seconds)

    # --- answers ------------------------------------------------------------------------

    def _answer(self, request: ProviderRequest) -> ProviderResponse:
        payload = request.payload
        asked = request.last_text
        tokens_in = max(1, sum(len(str(each.get("content") or "")) for each in request.messages) // 4)
        call = _tool_call(payload)
        if call is not None:
            return self._tool_response(request, call, tokens_in)
        text = asked if self.config.reply == "echo" else self.config.reply
        shape = payload.get("response_format")
        if isinstance(shape, dict) and shape.get("type") in ("json_object", "json_schema"):
            text = json.dumps({"reply": text})
        limit = payload.get("max_tokens") or payload.get("max_completion_tokens")
        finish, count = "stop", _choices(payload)
        if isinstance(limit, int) and len(text) > 4 * limit:
            text, finish = text[: 4 * limit], "length"
        response = ProviderResponse.text(
            text or "…",
            model=request.model,
            prompt_tokens=tokens_in,
            completion_tokens=count * max(1, -(-len(text) // 4)),
            finish_reason=finish,
            response_id=f"chatcmpl-sim-{self._number}",
            created=self._now(),
        )
        _repeat(response, count)
        response.rate_limits = self._rate_limits
        return response

    def _tool_response(self, request: ProviderRequest, call: dict[str, Any], tokens_in: int) -> ProviderResponse:
        count = _choices(request.payload)
        call["id"] = f"call_sim_{self._number}"
        response = ProviderResponse.text(
            "",
            model=request.model,
            prompt_tokens=tokens_in,
            completion_tokens=count * 8,
            finish_reason="tool_calls",
            response_id=f"chatcmpl-sim-{self._number}",
            created=self._now(),
        )
        response.data["choices"][0]["message"] = {"role": "assistant", "content": None, "tool_calls": [call]}
        _repeat(response, count)
        return response

    def _embed(self, request: ProviderRequest) -> ProviderResponse:
        """Return vectors drawn from each text: equal texts have equal ones, of length 1."""
        given = request.payload.get("input", "")
        texts = [given] if isinstance(given, str) else list(given)
        data = [
            {"object": "embedding", "index": place, "embedding": _vector(str(text))} for place, text in enumerate(texts)
        ]
        tokens = sum(max(1, len(str(text)) // 4) for text in texts)
        usage = TokenUsage(tokens, 0, tokens)
        return ProviderResponse(
            {
                "object": "list",
                "model": request.model,
                "data": data,
                "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
            },
            usage=usage,
        )

    def _now(self) -> int:
        return int(self.context.clock.time()) if self.context is not None else 0


def _piece(base: Mapping[str, Any], delta: dict[str, Any], *, index: int, text: str = "") -> ProviderChunk:
    data = {**base, "choices": [{"index": index, "delta": delta, "finish_reason": None}]}
    return ProviderChunk(data, text="" if index else text, commits=bool(text))


def _choices(payload: Mapping[str, Any]) -> int:
    """Return how many answers a request asks for."""
    count = payload.get("n")
    if count is None:
        return 1
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= _MOST_CHOICES:
        raise InvalidRequestError(f"n must be a whole number from 1 to {_MOST_CHOICES}", status_code=400)
    return count


def _repeat(response: ProviderResponse, count: int) -> None:
    """Give the one answer of a response ``count`` times."""
    (first,) = response.data["choices"]
    response.data["choices"] = [{**deepcopy(first), "index": index} for index in range(count)]


def _words(text: str) -> list[str]:
    """Cut a text after its spaces; joined, the parts are the text."""
    parts = text.split(" ")
    return [f"{part} " for part in parts[:-1]] + [parts[-1]]


def _tool_call(payload: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the call of the tool that a request demands; None when it leaves the choice."""
    tools, choice = payload.get("tools"), payload.get("tool_choice")
    if not tools or choice in (None, "auto", "none"):
        return None
    named = choice.get("function", {}).get("name") if isinstance(choice, dict) else None
    name = named or tools[0].get("function", {}).get("name", "tool")
    return {"id": "", "type": "function", "function": {"name": name, "arguments": "{}"}}


def _vector(text: str) -> list[float]:
    drawn = random.Random(text)  # noqa: S311 (a repeatable vector, nothing secret)
    vector = [drawn.uniform(-1.0, 1.0) for _ in range(_DIMENSIONS)]
    length = sum(value * value for value in vector) ** 0.5 or 1.0
    return [value / length for value in vector]
