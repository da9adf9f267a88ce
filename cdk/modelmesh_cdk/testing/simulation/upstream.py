"""The providers of a simulation: one that is the same for all processes, and the connector each of them has to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from modelmesh.errors import ProviderConnectionError, ProviderError, QuotaExhaustedError
from modelmesh.interfaces.provider import (
    ModelInfo,
    ProviderChunk,
    ProviderRequest,
    ProviderResponse,
    RateLimitStatus,
    TokenUsage,
)
from modelmesh_cdk.provider import CHAT, BaseProvider, BaseProviderConfig
from modelmesh_cdk.provider_errors import error_from_status
from modelmesh_cdk.testing.simulation.world import Fault, ProviderSpec, World, drawn

if TYPE_CHECKING:
    from modelmesh_cdk.testing.simulation.clock import SimulatedClock
    from modelmesh_cdk.testing.simulation.loop import SimulationLoop
    from modelmesh_cdk.testing.simulation.watch import Watch


@dataclass(slots=True)
class UpstreamCall:
    """One call as the provider saw it.

    Attributes:
        number: Which one of the whole simulation.
        process: Who made it.
        provider: Whom it reached.
        model: By the provider's name.
        request_id: Whose attempt it is.
        stream: Whether chunks were asked for.
        began: In seconds of the simulation.
        text: The answer it is to get.
        sent: Words of a stream that were sent.
        outcome: ``running``, ``answered``, ``failed``, ``left``.
        ended: When it ended.
        billed: Tokens the provider charges.
    """

    number: int
    process: int
    provider: str
    model: str
    request_id: str
    stream: bool
    began: float
    text: tuple[str, ...] = ()
    sent: int = 0
    outcome: str = "running"
    ended: float = 0.0
    billed: int = 0


@dataclass(slots=True)
class Upstream:
    """A provider as it is, whoever calls it.

    Attributes:
        spec: How it behaves.
        faults: What goes wrong with it.
        refusals: Times at which it refused for its own quota or rate.
        by_day: Requests it took, by its own day.
        by_minute: Requests it took, by minute.
    """

    spec: ProviderSpec
    faults: tuple[Fault, ...]
    world: World
    loop: SimulationLoop
    began: float
    refusals: list[tuple[float, str]] = field(default_factory=list)
    by_day: dict[str, int] = field(default_factory=dict)
    by_minute: dict[int, int] = field(default_factory=dict)

    def now(self) -> float:
        """Seconds since the simulation began."""
        return self.loop.time() - self.began

    def fault(self, *kinds: str) -> Fault | None:
        """Return the first fault of these kinds that lasts now."""
        if not self.faults:
            return None
        now = self.now()
        return next((fault for fault in self.faults if fault.kind in kinds and fault.is_on(now)), None)

    def has_room(self) -> bool:
        """Whether it would let a call in, by its quota and its rate."""
        spec, moment = self.spec, self.world.epoch + self.now()
        day = f"{datetime.fromtimestamp(moment, UTC).astimezone(ZoneInfo(spec.zone)):%Y-%m-%d}"
        return (spec.quota is None or self.by_day.get(day, 0) < spec.quota) and (
            spec.rate is None or self.by_minute.get(int(moment // 60), 0) < spec.rate
        )

    def take(self, call: UpstreamCall) -> RateLimitStatus | None:
        """Let a call in, or raise what a provider answers whose allowance is used up."""
        spec, moment = self.spec, self.world.epoch + self.now()
        left: int | None = None
        reset = 0.0
        if spec.quota is not None:
            day = f"{datetime.fromtimestamp(moment, UTC).astimezone(ZoneInfo(spec.zone)):%Y-%m-%d}"
            used = self.by_day.get(day, 0)
            if used >= spec.quota:
                self.refusals.append((self.now(), "quota"))
                raise QuotaExhaustedError("the simulated quota of the day is used up", status_code=429)
            self.by_day[day] = used + 1
        if spec.rate is not None:
            minute = int(moment // 60)
            used = self.by_minute.get(minute, 0)
            reset = (minute + 1) * 60 - moment
            if used >= spec.rate:
                self.refusals.append((self.now(), "rate"))
                raise error_from_status(429, {"retry-after": f"{int(reset) + 1}"}, {"error": {"message": "slow down"}})
            self.by_minute[minute] = used + 1
            left = spec.rate - used - 1
        return RateLimitStatus(left, requests_limit=spec.rate, reset_seconds=reset) if spec.says_limits else None


class SimulatedProvider(BaseProvider[BaseProviderConfig]):
    """One process's connector to a provider of the simulation."""

    capabilities = (CHAT,)

    def __init__(self, upstream: Upstream, process: int, clock: SimulatedClock, watch: Watch) -> None:
        super().__init__()
        self.upstream = upstream
        self._process = process
        self._clock = clock
        self._watch = watch

    async def list_models(self) -> Sequence[ModelInfo]:
        """Answer a probe, as well as a call would be answered now."""
        await self._clock.sleep(self.upstream.spec.latency / 2)
        await self._trouble(None)
        return [ModelInfo(name, name, self.capabilities) for name in self.upstream.spec.model_names]

    async def complete(self, request: ProviderRequest) -> ProviderResponse:
        """Answer whole, or fail as the faults have it."""
        call = self._watch.call_begins(self._process, self.upstream, request)
        try:
            limits = await self._arrive(call)
            await self._clock.sleep(self._latency(call))
            await self._trouble(call)
            call.billed = _prompt_tokens(request) + len(call.text)
            self._watch.call_ends(call, "answered")
            response = ProviderResponse.text(
                "".join(call.text),
                model=request.model,
                prompt_tokens=_prompt_tokens(request),
                completion_tokens=len(call.text),
            )
            response.rate_limits = limits
            return response
        except asyncio.CancelledError:
            call.billed = _prompt_tokens(request) + len(call.text)  # the provider goes on, and charges for it
            self._watch.call_ends(call, "left")
            raise
        except Exception:
            self._watch.call_ends(call, "failed")
            raise

    async def stream(self, request: ProviderRequest) -> AsyncGenerator[ProviderChunk, None]:
        """Answer word by word, or break as the faults have it."""
        call = self._watch.call_begins(self._process, self.upstream, request)
        try:
            await self._arrive(call)
            yield _chunk(request, {"role": "assistant", "content": ""})
            await self._clock.sleep(self._latency(call))
            await self._trouble(call)
            pace = self.upstream.spec.pace
            broken = self.upstream.fault("cut", "stall", "break")
            for place, word in enumerate(call.text):
                if broken is not None and place >= broken.value and await self._break(broken):
                    self._watch.call_ends(call, "failed")
                    return
                if place:
                    await self._clock.sleep(pace)
                call.sent = place + 1
                call.billed = _prompt_tokens(request) + call.sent
                yield _chunk(request, {"content": word}, text=word)
            self._watch.call_ends(call, "answered")
            usage = TokenUsage(_prompt_tokens(request), len(call.text), _prompt_tokens(request) + len(call.text))
            yield _chunk(request, {}, finish="stop", usage=usage)
        except (asyncio.CancelledError, GeneratorExit):
            self._watch.call_ends(call, "left")
            raise
        except Exception:
            self._watch.call_ends(call, "failed")
            raise

    # --- trouble ------------------------------------------------------------------------

    async def _arrive(self, call: UpstreamCall) -> RateLimitStatus | None:
        """Reach the provider, and be let in."""
        down = self.upstream.fault("down", "flap")
        if down is not None and (down.kind == "down" or int((self.upstream.now() - down.at) // down.value) % 2 == 0):
            raise ProviderConnectionError("connection refused", sent=False)
        if self.upstream.fault("revoked"):
            await self._clock.sleep(0.01)
            raise error_from_status(401, {}, {"error": {"message": "no such key", "code": "invalid_api_key"}})
        limited = self.upstream.fault("limited")
        if limited is not None:
            raise error_from_status(429, {"retry-after": f"{limited.value:g}"}, {"error": {"message": "too many"}})
        return self.upstream.take(call)

    async def _trouble(self, call: UpstreamCall | None) -> None:
        """Fail, if a fault that concerns the answer lasts now."""
        fault = self.upstream.fault("error", "grey", "hang")
        if fault is None:
            return
        if fault.kind == "hang":
            await asyncio.get_running_loop().create_future()
        if fault.kind == "error":
            raise error_from_status(int(fault.value), {}, {"error": {"message": "simulated"}})
        if call is not None and drawn(self.upstream.world.seed, "grey", call.request_id, call.number) < fault.value:
            raise error_from_status(500, {}, {"error": {"message": "simulated"}})

    async def _break(self, fault: Fault) -> bool:
        """Break a stream; return whether it just ends."""
        if fault.kind == "stall":
            await asyncio.get_running_loop().create_future()
        if fault.kind == "break":
            raise ProviderConnectionError("the connection broke")
        return True

    def _latency(self, call: UpstreamCall) -> float:
        spec = self.upstream.spec
        slow = self.upstream.fault("slow")
        spread = 0.5 + drawn(self.upstream.world.seed, "latency", call.number)
        return spec.latency * spread * (1.0 if slow is None else slow.value)


def classified(error: BaseException) -> str:
    """Return a short name of what a request ended with."""
    return error.category if isinstance(error, ProviderError) else type(error).__name__


def answer_of(call: UpstreamCall, spec: ProviderSpec, most: int | None) -> tuple[str, ...]:
    """Return the words of an answer; each says whose it is, and where it stands, so that no splice goes unseen."""
    count = spec.words if most is None else min(spec.words, most)
    return tuple(f"{call.provider}{call.number}-{place} " for place in range(count))


def _prompt_tokens(request: ProviderRequest) -> int:
    return sum(len(str(message.get("content", ""))) for message in request.messages) // 4 + 1


def _chunk(
    request: ProviderRequest,
    delta: dict[str, str],
    *,
    text: str = "",
    finish: str | None = None,
    usage: TokenUsage | None = None,
) -> ProviderChunk:
    data = {
        "id": "chatcmpl-simulated",
        "object": "chat.completion.chunk",
        "created": 0,
        "model": request.model,
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
    }
    return ProviderChunk(data, text=text, commits=bool(text), finish_reason=finish, usage=usage)
