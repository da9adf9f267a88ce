"""All that processes with one store share of routing, beside limits: moves, headroom, trials and sessions."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

from modelmesh._engine.shared_facts import SharedFacts
from modelmesh._engine.shared_headroom import SharedHeadroom
from modelmesh._engine.shared_moves import SharedMoves
from modelmesh._engine.shared_sessions import SharedSessions
from modelmesh._engine.shared_trials import SharedTrials

if TYPE_CHECKING:
    from collections.abc import Mapping

    from modelmesh._engine.driver import Driver
    from modelmesh._engine.guarded_ledger import GuardedLedger
    from modelmesh._engine.kept_headroom import KeptHeadroom
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
        lock: threading.RLock,
        kept: KeptHeadroom | None = None,
    ) -> None:
        self._facts = SharedFacts(store, clock, random, telemetry, loop)
        self._moves = SharedMoves(self._facts, pools, providers, clock)
        self._headroom = SharedHeadroom(self._facts, providers, kept)
        self._trials = SharedTrials(store, guard, self._facts, pools, clock, loop)
        self._sessions = SharedSessions(store, guard, self._facts, pools, lock, clock, random, loop)

    def attach(self, driver: Driver) -> None:
        """Hear of everything that is to be told from now on."""
        self._moves.attach()
        self._headroom.attach()
        self._trials.attach()
        self._sessions.attach()
        driver.trials = self._trials

    def take_strategies(self, before: SharedRouting | None) -> None:
        """Hear of the sessions of strategies that were taken over from an earlier configuration."""
        if before is not None:
            before.let_strategies_go()
        self._sessions.attach_strategies()

    def let_strategies_go(self) -> None:
        """Hear of no more sessions: another configuration has the strategies."""
        self._sessions.detach_strategies()

    async def run(self) -> None:
        """Take over what others tell, for as long as it runs."""
        await asyncio.gather(self._facts.run(), self._sessions.run())
