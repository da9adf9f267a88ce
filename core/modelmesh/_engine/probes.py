"""Probes: asks providers whether they are there, at start and while their models rest.

A probe lists the provider's models, which costs nothing and needs the key to be right. It runs on the mesh's own loop,
never on a request's path.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING

from modelmesh.errors import AuthenticationError
from modelmesh.interfaces.observability import Severity
from modelmesh.interfaces.strategy import DeactivationReason, RecoveryTrigger

if TYPE_CHECKING:
    from modelmesh._engine.pool import CapabilityPool
    from modelmesh._engine.provider_service import ProviderService
    from modelmesh._engine.telemetry import Telemetry
    from modelmesh.interfaces.runtime import Clock

PROBE_SECONDS = 10.0
"""What a probe may take."""

_ENDED_BY_PROBES = frozenset(
    {
        DeactivationReason.ERROR_THRESHOLD.value,
        DeactivationReason.PROVIDER_UNAVAILABLE.value,
    }
)
"""Reasons a provider that answers removes. A used-up quota, a rate limit and a person's decision it does not: it lists
its models all the same."""


class Prober:
    """Probes the providers of the pools that ask for it."""

    def __init__(
        self,
        providers: Mapping[str, ProviderService],
        pools: Mapping[str, CapabilityPool],
        clock: Clock,
        telemetry: Telemetry,
    ) -> None:
        self._providers = providers
        self._pools = pools
        self._clock = clock
        self._telemetry = telemetry
        self._has_begun = False

    @property
    def is_wanted(self) -> bool:
        """Whether any pool asks for probes."""
        return self.is_wanted_at_start or any(
            pool.policy.recovery.probe_interval is not None for pool in self._pools.values()
        )

    @property
    def is_wanted_at_start(self) -> bool:
        """Whether any pool asks for probes before the first call."""
        return any(pool.policy.recovery.probe_on_start for pool in self._pools.values())

    async def run(self) -> None:
        """Probe at start where that is asked for and was not done yet, then in intervals for as long as it runs."""
        if not self._has_begun:
            await self.probe_at_start()
        while True:
            intervals = [
                pool.policy.recovery.probe_interval
                for pool in self._pools.values()
                if pool.policy.recovery.probe_interval is not None
            ]
            if not intervals:
                return
            await self._clock.sleep(min(intervals))
            await self.probe_resting()

    async def probe_at_start(self) -> None:
        """Probe every provider of the pools with ``probe_on_start``: those that fail rest, those that answer return.

        Takes as long as the slowest of them, and `PROBE_SECONDS` at most.
        """
        self._has_begun = True
        pools = [pool for pool in self._pools.values() if pool.policy.recovery.probe_on_start]
        providers = {member.model.provider.name: pool for pool in pools for member in pool.members.values()}
        await asyncio.gather(
            *(self._at_start(self._providers[name], pool) for name, pool in providers.items()), return_exceptions=True
        )

    async def _at_start(self, provider: ProviderService, pool: CapabilityPool) -> None:
        error = await self._probe(provider)
        now = self._clock.monotonic()
        if error is None:
            self._return(provider, RecoveryTrigger.STARTUP_PROBE, now)
        elif provider.deactivated is None:
            rest = pool.rotation.recovery.rest_after(1)
            provider.deactivate("startup_probe", auth=isinstance(error, AuthenticationError), rest=rest, now=now)

    async def probe_resting(self) -> None:
        """Probe each provider that has a model resting for a reason that its answer would remove."""
        resting: dict[str, ProviderService] = {}
        for pool in self._pools.values():
            if pool.policy.recovery.probe_interval is None:
                continue
            for member in pool.members.values():
                provider = member.model.provider
                manual = provider.deactivated is not None and pool.policy.provider_recovery == "on_manual"
                if not member.active and member.reason in _ENDED_BY_PROBES and not manual:
                    resting[provider.name] = provider
        await asyncio.gather(*(self._while_resting(each) for each in resting.values()), return_exceptions=True)

    async def _while_resting(self, provider: ProviderService) -> None:
        if await self._probe(provider) is None:
            self._return(provider, RecoveryTrigger.PROBE_SUCCESS, self._clock.monotonic())

    async def _probe(self, provider: ProviderService) -> BaseException | None:
        started = self._clock.monotonic()
        error: BaseException | None = None
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                await provider.connector.list_models()
        except (Exception, SystemExit) as raised:
            error = raised
        latency = self._clock.monotonic() - started
        # The provider's own moves decide whether it is available; a probe only moves its score.
        before = provider.state.available
        provider.state.record_probe(error is None, latency)
        provider.state.available = before
        self._telemetry.trace(
            Severity.DEBUG if error is None else Severity.WARNING,
            f"provider.{provider.name}",
            "answers a probe" if error is None else "does not answer a probe",
            {
                "latency_ms": round(latency * 1000.0, 3),
                "availability_score": round(provider.state.availability_score, 3),
            },
            error=None if error is None else type(error).__name__,
        )
        return error

    def _return(self, provider: ProviderService, trigger: RecoveryTrigger, now: float) -> None:
        if provider.deactivated is not None:
            provider.recover(trigger, now)
        for model in provider.models:
            for member in model.members:
                if not member.active and member.reason in _ENDED_BY_PROBES:
                    member.pool.recover_member(member, trigger, now=now)
