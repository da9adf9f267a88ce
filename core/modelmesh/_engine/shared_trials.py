"""One trial at a time over all processes: the first call to a model after a rest is made under a lock of the store.

Only models that have just come back pay for it. A process that does not get the lock asks its other models first, and
this one only when nobody else is left, as within one process. While the store is down each process tries for itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from modelmesh._engine.attempt import TriedElsewhereError
from modelmesh.errors import ModelMeshError, StateStoreError

if TYPE_CHECKING:
    from modelmesh._engine.call import Call
    from modelmesh._engine.guarded_ledger import GuardedLedger
    from modelmesh._engine.loop_thread import LoopThread
    from modelmesh._engine.member import Member
    from modelmesh._engine.pool import CapabilityPool
    from modelmesh._engine.shared_facts import Fact, SharedFacts
    from modelmesh.interfaces.runtime import Clock
    from modelmesh.interfaces.state_store import StateStore, StoreLock

TRIAL_SECONDS = 30.0
"""How long a trial keeps other processes away, should this one die or its call take longer."""

ELSEWHERE_SECONDS = 1.0
"""How long a model that another process tries is passed by without asking again."""

NEWS_SECONDS = 0.5
"""Between a trial's end and its lock's: what came of it is known everywhere before anybody else may try."""


class SharedTrials:
    """Takes and gives back the locks of this process's trials."""

    def __init__(
        self,
        store: StateStore,
        guard: GuardedLedger,
        facts: SharedFacts,
        pools: Mapping[str, CapabilityPool],
        clock: Clock,
        loop: LoopThread,
    ) -> None:
        self._store = store
        self._guard = guard
        self._facts = facts
        self._pools = pools
        self._clock = clock
        self._loop = loop
        self._held: dict[str, tuple[Member, StoreLock]] = {}

    def attach(self) -> None:
        """Hear of trials that others made and that were answered."""
        self._facts.on("trial", self._take)

    async def begin(self, call: Call, member: Member) -> TriedElsewhereError | None:
        """Take the lock of a member on probation for a request that is about to call it.

        Returns:
            The error that stands for the call if another process makes it; None to go on.
        """
        self.end(call)
        if member.is_on_trial() or self._guard.is_down:
            return None  # this process tries it already, or it is known to be tried elsewhere: nobody else is left
        model = member.model
        model.asking += 1  # for the other requests of this process, it is on trial from now on
        try:
            lock = await self._guard.within(self._store.lock(f"trial/{model.name}", expires_in=TRIAL_SECONDS))
        except StateStoreError:
            return None
        finally:
            model.asking -= 1
        if lock is not None:
            self._held[call.unique_id] = member, lock
            if member.active:
                return None
        elif member.probation:
            member.tried_until = self._clock.monotonic() + ELSEWHERE_SECONDS
        return TriedElsewhereError(
            f"{member.model_id} has just come back and another process tries it",
            provider_id=member.provider_id,
            model_id=member.model_id,
        )

    def end(self, call: Call) -> None:
        """Say what came of the request's trial, if it made one, and give its lock back."""
        if not self._held:
            return
        member, lock = self._held.pop(call.unique_id, (None, None))
        if member is None or lock is None:
            return
        if member.active and not member.probation:
            said = {"model": member.model_id}
            self._facts.tell("trial", member.model_id, lambda: said)
        with suppress(ModelMeshError):  # the mesh is being shut down: the lock lapses
            self._loop.start(self._give_back(lock))

    async def _give_back(self, lock: StoreLock) -> None:
        await self._clock.sleep(NEWS_SECONDS)
        with suppress(StateStoreError):  # it lapses
            await self._guard.within(self._store.unlock(lock))

    def _take(self, said: Fact) -> None:
        """Another process's trial was answered: here the model needs none."""
        for pool in self._pools.values():
            member = pool.members.get(said["model"])
            if member is not None and member.active:
                member.probation = False
