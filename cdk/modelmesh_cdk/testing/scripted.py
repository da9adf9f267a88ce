"""ScriptedProvider: a provider in this process that does what a test wrote down, step by step."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from modelmesh.errors import ProviderConnectionError
from modelmesh.interfaces.provider import (
    ModelInfo,
    ProviderChunk,
    ProviderRequest,
    ProviderResponse,
    RateLimitStatus,
    TokenUsage,
)
from modelmesh_cdk.provider import CHAT, BaseProvider, BaseProviderConfig, chunks_of


@dataclass(frozen=True, slots=True)
class Answer:
    """A step: answer with a text; see `answer`."""

    text: str = "Hello."
    prompt_tokens: int = 1
    completion_tokens: int = 1
    finish_reason: str = "stop"
    delay: float = 0.0
    rate_limits: RateLimitStatus | None = None


@dataclass(frozen=True, slots=True)
class Fail:
    """A step: raise; see `fail`."""

    error: BaseException
    delay: float = 0.0


@dataclass(frozen=True, slots=True)
class Hang:
    """A step: never answer; see `hang`."""


@dataclass(frozen=True, slots=True)
class Pieces:
    """A step: stream pieces, then end in some way; see `pieces`."""

    texts: tuple[str, ...]
    end: Literal["done", "cut", "stall"] | BaseException = "done"
    pause: float = 0.0
    usage: TokenUsage | None = field(default=None)


Step = Answer | Fail | Hang | Pieces


def answer(
    text: str = "Hello.",
    tokens: int = 1,
    *,
    prompt_tokens: int = 1,
    finish_reason: str = "stop",
    delay: float = 0.0,
    rate_limits: RateLimitStatus | None = None,
) -> Answer:
    """Answer with a text.

    Args:
        text: Streamed word by word when a stream is asked for.
        tokens: Output tokens to report.
        prompt_tokens: Input tokens to report.
        finish_reason: Why it ends.
        delay: Seconds to sleep first, on the context's clock.
        rate_limits: What the provider says about its limits.
    """
    return Answer(text, prompt_tokens, tokens, finish_reason, delay, rate_limits)


def fail(error: BaseException, *, delay: float = 0.0) -> Fail:
    """Raise an error, after a sleep on the context's clock if ``delay`` says so; streams fail before any chunk."""
    return Fail(error, delay)


def hang() -> Hang:
    """Never answer: until cancelled, or until `ScriptedProvider.release` lets it answer by default."""
    return Hang()


def pieces(
    *texts: str,
    end: Literal["done", "cut", "stall"] | BaseException = "done",
    pause: float = 0.0,
    usage: TokenUsage | None = None,
) -> Pieces:
    """Stream these texts, a chunk each, and then end.

    Args:
        texts: Content, in order.
        end: ``done`` ends properly, ``cut`` stops without a terminal signal, ``stall`` sends nothing more and stays
            open; an exception is raised.
        pause: Seconds to sleep before each piece but the first, on the context's clock.
        usage: Reported with a proper end; by default a token a piece.
    """
    return Pieces(texts, end, pause, usage)


class ScriptedProvider(BaseProvider[BaseProviderConfig]):
    """Answers each request with the next step of its script, and with ``default`` when the script is over.

    Pass it to a mesh as an instance: ``providers: {name: {instance: provider}}``.

    Args:
        script: Steps; a string stands for `answer`, an exception for `fail`.
        default: What follows the script.
        models: Names `list_models` gives.

    Attributes:
        requests: What it was asked, in order.
        usage_reports: What `report_usage` was told, as pairs of model and tokens.
        closed: Streams that their reader closed or cancelled before they were over.
        cancelled: Whole answers that were cancelled while they were waited for.
        active: Calls running now.
        most_active: The most calls that ever ran at once.
        is_closed: Whether the provider itself was closed.
    """

    capabilities = (CHAT,)

    def __init__(
        self,
        script: Iterable[Step | str | BaseException] = (),
        *,
        default: Step | str | BaseException | None = None,
        models: Sequence[str] = ("scripted-model",),
    ) -> None:
        super().__init__()
        self._script = deque(_step(step) for step in script)
        self.default: Step = _step(default) if default is not None else answer()
        self._models = tuple(ModelInfo(name, name, self.capabilities) for name in models)
        self._hanging: set[asyncio.Future[None]] = set()
        self.requests: list[ProviderRequest] = []
        self.usage_reports: list[tuple[str, TokenUsage]] = []
        self.closed = 0
        self.cancelled = 0
        self.active = 0
        self.most_active = 0
        self.is_closed = False

    def script(self, *steps: Step | str | BaseException) -> None:
        """Add steps to the end of the script."""
        self._script.extend(_step(step) for step in steps)

    @property
    def steps_left(self) -> int:
        """Steps of the script that no request has met yet."""
        return len(self._script)

    def release(self) -> None:
        """Let all calls that hang now go on: they answer by default, stalled streams end properly."""
        for waiting in list(self._hanging):
            waiting.get_loop().call_soon_threadsafe(_finish, waiting)

    # --- answering ------------------------------------------------------------------

    async def complete(self, request: ProviderRequest) -> ProviderResponse:
        """Do the next step as a whole answer."""
        step = self._begin(request)
        try:
            return await self._whole(step, request)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.active -= 1

    async def stream(self, request: ProviderRequest) -> AsyncGenerator[ProviderChunk, None]:
        """Do the next step as a stream."""
        step = self._begin(request)
        try:
            if not isinstance(step, Pieces):
                response = await self._whole(step, request)
                words = _words(response.data["choices"][0]["message"]["content"])
                step = Pieces(words, "done", 0.0, response.usage)
                finish = str(response.data["choices"][0]["finish_reason"])
            else:
                finish = "stop"
            yield _chunk(request, {"role": "assistant", "content": ""})
            for place, text in enumerate(step.texts):
                if place and step.pause:
                    await self._sleep(step.pause)
                yield _chunk(request, {"content": text}, text=text)
            if isinstance(step.end, BaseException):
                raise step.end
            if step.end == "cut":
                return
            if step.end == "stall":
                await self._hang()
            yield _end(request, finish, step.usage or TokenUsage(1, len(step.texts), 1 + len(step.texts)))
        except (asyncio.CancelledError, GeneratorExit):
            self.closed += 1
            raise
        finally:
            self.active -= 1

    def _begin(self, request: ProviderRequest) -> Step:
        self.requests.append(request)
        self.active += 1
        self.most_active = max(self.most_active, self.active)
        return self._script.popleft() if self._script else self.default

    async def _whole(self, step: Step, request: ProviderRequest) -> ProviderResponse:
        if isinstance(step, Hang):
            await self._hang()
            step = self.default if isinstance(self.default, Answer) else answer()
        if isinstance(step, Pieces):
            return await self._joined(step, request)
        if step.delay:
            await self._sleep(step.delay)
        if isinstance(step, Fail):
            raise step.error
        return _response(step, request)

    async def _joined(self, step: Pieces, request: ProviderRequest) -> ProviderResponse:
        """Answer a script of pieces to somebody who wants the answer whole."""
        if isinstance(step.end, BaseException):
            raise step.end
        if step.end == "cut":
            raise ProviderConnectionError("the connection broke: cut by the script")
        if step.end == "stall":
            await self._hang()
        return _response(answer("".join(step.texts), len(step.texts)), request)

    async def _hang(self) -> None:
        waiting = asyncio.get_running_loop().create_future()
        self._hanging.add(waiting)
        try:
            await waiting
        finally:
            self._hanging.discard(waiting)

    async def _sleep(self, seconds: float) -> None:
        if self.context is None:
            await asyncio.sleep(seconds)
        else:
            await self.context.clock.sleep(seconds)

    # --- the rest -----------------------------------------------------------------------

    async def list_models(self) -> Sequence[ModelInfo]:
        """Models as named in the constructor."""
        return list(self._models)

    def report_usage(self, model_id: str, usage: TokenUsage) -> None:
        """Keep the report."""
        super().report_usage(model_id, usage)
        self.usage_reports.append((model_id, usage))

    async def close(self) -> None:
        """Note that it was closed."""
        self.is_closed = True


def _step(given: Step | str | BaseException) -> Step:
    if isinstance(given, str):
        return answer(given)
    if isinstance(given, BaseException):
        return fail(given)
    return given


def _response(step: Answer, request: ProviderRequest) -> ProviderResponse:
    response = ProviderResponse.text(
        step.text,
        model=request.model,
        prompt_tokens=step.prompt_tokens,
        completion_tokens=step.completion_tokens,
        finish_reason=step.finish_reason,
    )
    response.rate_limits = step.rate_limits
    return response


def _words(text: str) -> tuple[str, ...]:
    """Cut a text after its spaces; joined, the parts are the text."""
    parts = text.split(" ")
    return (*(f"{part} " for part in parts[:-1]), parts[-1])


def _chunk(request: ProviderRequest, delta: dict[str, Any], *, text: str = "") -> ProviderChunk:
    data = {
        "id": "chatcmpl-scripted",
        "object": "chat.completion.chunk",
        "created": 0,
        "model": request.model,
        "choices": [{"index": 0, "delta": delta, "finish_reason": None}],
    }
    return ProviderChunk(data, text=text, commits=bool(text))


def _end(request: ProviderRequest, finish: str, usage: TokenUsage) -> ProviderChunk:
    whole = ProviderResponse.text(
        "",
        model=request.model,
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        finish_reason=finish,
        response_id="chatcmpl-scripted",
    )
    return chunks_of(whole.data)[-1]


def _finish(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)
