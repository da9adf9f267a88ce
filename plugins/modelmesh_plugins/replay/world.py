"""Where a replay takes place: an event loop whose time jumps, and a mesh whose providers answer from a log."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import AsyncGenerator, Mapping

from modelmesh.interfaces.provider import ModelInfo, ProviderChunk, ProviderRequest, ProviderResponse
from modelmesh_cdk.provider import BaseProvider, BaseProviderConfig, chunks_of
from modelmesh_cdk.provider_errors import error_from_status
from modelmesh_plugins.replay.evidence import Evidence, Outcome

_STEP = 0.5
"""Seconds between the chunks of a replayed stream, so that no clock for silence strikes where none was recorded."""
_MOST_STEPS = 200


class _JumpingSelector(selectors.DefaultSelector):
    """Never waits: where a loop would, its time moves on instead."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            return super().select(None)  # only another thread can wake it
        ready = super().select(0)
        if not ready and timeout > 0:
            self.now += timeout
        return ready


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop on which an hour of waiting takes no time."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Seconds since the replay began."""
        return self._jumping.now


class ReplayClock:
    """The recorded time, as a replay goes through it.

    Args:
        loop: Whose time it is.
        began: Unix time at which the recording begins.
    """

    def __init__(self, loop: JumpingLoop, began: float) -> None:
        self._loop = loop
        self._began = began

    def monotonic(self) -> float:
        """Seconds since the replay began."""
        return self._loop.time()

    def time(self) -> float:
        """Unix time within the recording."""
        return self._began + self._loop.time()

    async def sleep(self, seconds: float) -> None:
        """Let recorded time go by; whoever sleeps elsewhere, as background work does, sleeps until it is cancelled."""
        if asyncio.get_running_loop() is self._loop:
            await asyncio.sleep(seconds)
        else:
            await asyncio.Event().wait()


class ReplayProvider(BaseProvider[BaseProviderConfig]):
    """Answers as a log says the provider did, and sends nothing anywhere.

    Args:
        evidence: What the log says.
        known_models: The real connector's catalogue, for prices.
    """

    def __init__(self, evidence: Evidence, known_models: Mapping[str, ModelInfo]) -> None:
        super().__init__()
        self._evidence = evidence
        self.known_models = known_models  # type: ignore[misc]  # of this one, not of the class
        self.model_ids: dict[str, str] = {}
        self.met: list[tuple[str, str, Outcome]] = []

    async def complete(self, request: ProviderRequest) -> ProviderResponse:
        """Answer, or fail, after the recorded time."""
        outcome = self._meet(request)
        await self._pass(outcome.latency)
        if outcome.status >= 400:
            raise error_from_status(outcome.status, {}, {"error": {"message": outcome.error or ""}})
        return _response(request, outcome)

    async def stream(self, request: ProviderRequest) -> AsyncGenerator[ProviderChunk, None]:
        """Answer in chunks spread over the recorded time; when its first one came, the log does not say."""
        outcome = self._meet(request)
        failed = outcome.status >= 400
        first, *rest = chunks_of(_response(request, outcome).data)
        if failed and not outcome.tokens_out:
            await self._pass(outcome.latency)
        else:
            steps = min(_MOST_STEPS, int(outcome.latency / _STEP) + 1)
            for _ in range(steps):
                yield first
                await self._pass(outcome.latency / steps)
        if failed:
            raise error_from_status(outcome.status, {}, {"error": {"message": outcome.error or ""}})
        for chunk in rest:
            yield chunk

    def _meet(self, request: ProviderRequest) -> Outcome:
        assert self.context is not None
        assert request.request_id is not None
        model_id = self.model_ids.get(request.model, request.model)
        outcome = self._evidence.outcome(request.request_id, self.context.name, model_id, self.context.clock.time())
        self.met.append((request.request_id, model_id, outcome))
        return outcome

    async def _pass(self, seconds: float) -> None:
        assert self.context is not None
        if seconds > 0:
            await self.context.clock.sleep(seconds)


def _response(request: ProviderRequest, outcome: Outcome) -> ProviderResponse:
    return ProviderResponse.text(
        "…",
        model=request.model,
        prompt_tokens=outcome.tokens_in,
        completion_tokens=outcome.tokens_out,
        finish_reason="stop",
        response_id="replayed",
        created=0,
    )
