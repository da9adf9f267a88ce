"""All that processes with one store share of routing, beside limits: moves, headroom, trials and sessions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelmesh._engine.shared_facts import SharedFacts
from modelmesh._engine.shared_headroom import SharedHeadroom
from modelmesh._engine.shared_moves import SharedMoves
from modelmesh._engine.shared_trials import SharedTrials

if TYPE_CHECKING:
    from collections.abc import Mapping

    from modelmesh._engine.driver import Driver
    from modelmesh._engine.guarded_ledger import GuardedLedger
    from modelmesh._engine.loop_thread import LoopThread
    from modelmesh._engine.pool import CapabilityPool
    from modelmesh._engine.provider_service import ProviderService
    from modelmesh._engine.telemetry import Telemetry
    from modelmesh.interfaces.runtime import Clock, Random
    from modelmesh.interfaces.state_store import StateStore


class SharedRouting:
    """One process's part in it."""

    def __init__(
        self,
        store: StateStore,
        guard: GuardedLedger,
        pools: Mapping[str, CapabilityPool],
        providers: Mapping[str, ProviderService],
        clock: Clock,
        random: Random,
        telemetry: Telemetry,
        loop: LoopThread,
    ) -> None:
        self._facts = SharedFacts(store, clock, random, telemetry, loop)
        self._moves = SharedMoves(self._facts, pools, providers, clock, telemetry)
        self._headroom = SharedHeadroom(self._facts, providers)
        self._trials = SharedTrials(store, guard, self._facts, pools, clock, loop)

    def attach(self, driver: Driver) -> None:
        """Hear of everything that is to be told from now on."""
        self._moves.attach()
        self._headroom.attach()
        self._trials.attach()
        driver.trials = self._trials

    async def run(self) -> None:
        """Take over what others tell, for as long as it runs."""
        await self._facts.run()
