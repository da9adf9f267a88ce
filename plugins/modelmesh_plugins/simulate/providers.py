"""Providers of a scenario: they answer nobody's prompt, take their time, and fail when the scenario says so."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from modelmesh.errors import ProviderConnectionError, QuotaExhaustedError
from modelmesh.interfaces.provider import ModelInfo, ProviderChunk, ProviderRequest, ProviderResponse
from modelmesh_cdk.provider import BaseProvider, BaseProviderConfig, chunks_of
from modelmesh_cdk.provider_errors import error_from_status
from modelmesh_plugins.simulate.scenario import Behaviour, Event

if TYPE_CHECKING:
    from modelmesh_cdk.testing.simulation.clock import SimulatedClock

_REFUSED = 0.02
"""Seconds until a connection is refused."""
_PIECES = 20
"""Into how many chunks a stream is cut at most: the pace is what matters, not each token."""


class ScenarioProvider(BaseProvider[BaseProviderConfig]):
    """Stands for one provider of the configuration.

    Args:
        known_models: The real connector's catalogue, for prices.
        capabilities: What the real connector can do.

    Attributes:
        calls: Calls that reached it.
        failures: Calls that it did not answer.
        taken: Requests of the present period that count towards its quota.
        most_taken: The most of any period.
    """

    def __init__(self, known_models: Mapping[str, ModelInfo], capabilities: tuple[str, ...]) -> None:
        super().__init__()
        self.known_models = known_models  # type: ignore[misc]  # of this one, not of the class
        self.capabilities = capabilities  # type: ignore[misc]
        self.calls = 0
        self.failures = 0
        self.most_taken = 0
        self.taken: dict[str, int] = {}
        self._behaviour = Behaviour()
        self._events: tuple[Event, ...] = ()
        self._lot = random.Random(0)  # noqa: S311 (repeatable draws)
        self._clock: SimulatedClock | None = None
        self._began = 0.0

    def take_part(
        self, behaviour: Behaviour, events: tuple[Event, ...], clock: SimulatedClock, lot: random.Random
    ) -> None:
        """Learn how to behave, and what will happen."""
        self._behaviour, self._events, self._clock, self._lot = behaviour, events, clock, lot
        self._began = clock.monotonic()

    @property
    def quota(self) -> int | None:
        """What it gives in a period now; None for any number."""
        event = self._now("quota")
        if event is not None:
            return event.quota
        return None if self._behaviour.quota is None else self._behaviour.quota.requests

    @property
    def price_factor(self) -> float:
        """What its price is multiplied by now."""
        event = self._now("price")
        return 1.0 if event is None or event.price is None else event.price

    async def complete(self, request: ProviderRequest) -> ProviderResponse:
        """Answer, or fail, as the scenario has it now."""
        await self._arrive()
        assert self._clock is not None
        await self._clock.sleep(self._latency())
        self._fail_perhaps()
        return self._answer(request)

    async def stream(self, request: ProviderRequest) -> AsyncGenerator[ProviderChunk, None]:
        """Answer in chunks, at the provider's pace."""
        await self._arrive()
        assert self._clock is not None
        await self._clock.sleep(self._latency())
        self._fail_perhaps()
        response = self._answer(request)
        first, *rest = chunks_of(response.data)
        tokens = response.usage.completion_tokens if response.usage is not None else 1
        pieces = min(_PIECES, tokens)
        for piece in range(pieces):
            if piece:
                await self._clock.sleep(tokens / self._behaviour.tokens_per_second / pieces)
                self._fail_if_out()
            yield first
        for chunk in rest:
            yield chunk

    # --- trouble ------------------------------------------------------------------------

    async def _arrive(self) -> None:
        self.calls += 1
        if self._now("outage") is not None:
            assert self._clock is not None
            await self._clock.sleep(_REFUSED)
            self._fail_if_out()
        quota = self.quota
        if quota is None:
            return
        period = self._period()
        taken = self.taken.get(period, 0)
        if taken >= quota:
            self.failures += 1
            raise QuotaExhaustedError("the quota of the scenario is used up", status_code=429)
        self.taken[period] = taken + 1
        self.most_taken = max(self.most_taken, taken + 1)

    def _fail_if_out(self) -> None:
        if self._now("outage") is not None:
            self.failures += 1
            raise ProviderConnectionError("the scenario's outage", sent=False)

    def _fail_perhaps(self) -> None:
        self._fail_if_out()
        event = self._now("error_rate")
        share = self._behaviour.error_rate if event is None or event.error_rate is None else event.error_rate
        if share and self._lot.random() < share:
            self.failures += 1
            raise error_from_status(500, {}, {"error": {"message": "the scenario's error rate"}})

    def _now(self, kind: str) -> Event | None:
        """Return the last event of a kind that lasts now."""
        if not self._events or self._clock is None:
            return None
        now = self._clock.monotonic() - self._began
        return next((event for event in self._events if event.kind == kind and event.at <= now < event.ends), None)

    def _latency(self) -> float:
        event = self._now("latency")
        latency = self._behaviour.latency if event is None or event.latency is None else event.latency
        return max(0.0, latency + self._lot.uniform(-1.0, 1.0) * min(self._behaviour.jitter, latency))

    def _period(self) -> str:
        assert self._clock is not None
        allowance = self._behaviour.quota
        zone = ZoneInfo("UTC" if allowance is None else allowance.timezone)
        moment = datetime.fromtimestamp(self._clock.time(), UTC).astimezone(zone)
        return f"{moment:%Y-%m}" if allowance is not None and allowance.per == "month" else f"{moment:%Y-%m-%d}"

    def _answer(self, request: ProviderRequest) -> ProviderResponse:
        most = request.payload.get("max_tokens")
        wanted = self._behaviour.answer_tokens
        return ProviderResponse.text(
            "…",
            model=request.model,
            prompt_tokens=sum(len(str(message.get("content", ""))) for message in request.messages) // 4,
            completion_tokens=min(wanted, most) if isinstance(most, int) else wanted,
        )
