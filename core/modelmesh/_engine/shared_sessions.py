"""Sessions that stay with their model whichever process their next request goes to.

Which model a session is bound to is told when it is bound, and again while it is used, over the same messages as
moves; a choice never asks the store. Two processes that bind one session at the same moment end with the binding that
the store passed on last, both of them.

A process that starts asks the others, and one of them answers. Until then it takes their word over its own: what it
bound in its first moments, knowing nothing, must not lead the sessions of all others away from their models.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from modelmesh._engine.shared_facts import PACE_SECONDS
from modelmesh.errors import ModelMeshError, StateStoreError
from modelmesh.interfaces.strategy import SharesSessions

if TYPE_CHECKING:
    from modelmesh._engine.guarded_ledger import GuardedLedger
    from modelmesh._engine.loop_thread import LoopThread
    from modelmesh._engine.pool import CapabilityPool
    from modelmesh._engine.shared_facts import Fact, SharedFacts
    from modelmesh.interfaces.runtime import Clock, Random
    from modelmesh.interfaces.state_store import StateStore

LISTENING_SECONDS = 0.1
"""After which a process that has started has begun to listen; a store passes on nothing before it is heard here."""

ASK_SECONDS = 1.0
"""How long an answer, or the next part of it, may let itself be waited for."""

ASKS = 2
"""How often a newcomer asks; the first time, an answer to somebody else may have been half over."""

SPREAD_SECONDS = 0.2
"""Within which the others answer, so that most of them hear an answer before they would ask for the lock."""

ANSWER_SECONDS = 0.5
"""How long an answer keeps other processes from answering, too, beside the time it takes."""

PORTION = 1_000
"""Sessions of one message: some hundred kilobytes, read and taken over in a few milliseconds."""

MOST_UNTOLD = 10_000
"""Bindings of one pool that wait to be told; while more than this come, some are not told."""

LONGEST_SESSION = 256
"""Letters of a session's ID; a longer one stays unknown to others."""


class SharedSessions:
    """Tells other processes of bindings, and takes theirs over; does nothing where no strategy keeps sessions."""

    def __init__(
        self,
        store: StateStore,
        guard: GuardedLedger,
        facts: SharedFacts,
        pools: Mapping[str, CapabilityPool],
        lock: threading.RLock,
        clock: Clock,
        random: Random,
        loop: LoopThread,
    ) -> None:
        self._store = store
        self._guard = guard
        self._facts = facts
        self._pools = pools
        self._lock = lock
        self._clock = clock
        self._random = random
        self._loop = loop
        # Under the lock: bindings that wait to be told.
        self._untold: dict[str, dict[str, str]] = {}
        # On the mesh's loop: pools whose sessions it is still asking for, with the parts of an answer heard so far,
        # those it is giving an answer for, and when a part of somebody's answer was last heard.
        self._asking: dict[str, int] = {}
        self._answering: set[str] = set()
        self._heard_at: dict[str, float] = {}

    def attach(self) -> None:
        """Hear what others tell from now on, and of every binding here."""
        self._facts.on("session", self._take, own=True)
        self._facts.on("sessions", self._take_answer)
        self._facts.on("newcomer", self._greet)
        self.attach_strategies()

    def attach_strategies(self) -> None:
        """Hear of every binding from now on; once more after strategies have changed places.

        One that knows sessions already, of an earlier configuration, need not ask for them.
        """
        self._asking.clear()
        for name in self._pools:
            strategy = self._strategy(name)
            if strategy is not None:
                strategy.share_sessions(partial(self._note, name))
                if not strategy.bound_sessions():
                    self._asking[name] = 0

    def detach_strategies(self) -> None:
        """Hear of no more bindings."""
        for name in self._pools:
            strategy = self._strategy(name)
            if strategy is not None:
                strategy.share_sessions(None)

    def _strategy(self, pool: str) -> SharesSessions | None:
        strategy = self._pools[pool].rotation.strategy
        return strategy if isinstance(strategy, SharesSessions) else None

    # --- telling ----------------------------------------------------------------

    def _note(self, pool: str, session: str, model: str) -> None:
        """Note a binding that is to be told; called under the lock."""
        untold = self._untold.setdefault(pool, {})
        if len(session) > LONGEST_SESSION or (len(untold) >= MOST_UNTOLD and session not in untold):
            return
        untold[session] = model
        if pool not in self._asking:
            self._tell(pool)

    def _tell(self, pool: str) -> None:
        self._facts.tell("session", pool, partial(self._portion, pool), lost=self._tell_again)

    def _portion(self, pool: str) -> Fact | None:
        """Return what is to be told next, and see that the rest follows."""
        with self._lock:
            untold = self._untold.get(pool, {})
            bound = {session: untold.pop(session) for session in list(islice(untold, PORTION))}
            if untold:
                self._tell(pool)
        return {"pool": pool, "bound": bound} if bound else None

    def _tell_again(self, said: Fact) -> None:
        """Tell bindings that others may not have heard; not those that have become others since."""
        pool: str = said["pool"]
        strategy = self._strategy(pool)
        if strategy is None:
            return
        with self._lock:
            bound = strategy.bound_sessions()
            untold = self._untold.setdefault(pool, {})
            for session, model in said["bound"].items():
                if session in bound and bound[session][0] == model and len(untold) < MOST_UNTOLD:
                    untold.setdefault(session, model)
        if untold and pool not in self._asking:
            self._tell(pool)

    def _take(self, said: Fact) -> None:
        self._bind(said["pool"], {session: (model, 0.0) for session, model in said["bound"].items()})

    def _bind(self, pool: str, bound: Mapping[str, Any]) -> None:
        strategy = self._strategy(pool)
        if strategy is None:
            return
        with self._lock:  # a strategy is called by one thread at a time
            for session, (model, idle) in bound.items():
                strategy.take_session(str(session), str(model), float(idle))
                if pool in self._asking:
                    self._untold.get(pool, {}).pop(session, None)

    # --- asking -----------------------------------------------------------------

    async def run(self) -> None:
        """Ask the others for what they know, once this process can hear them."""
        if self._asking:
            await self._clock.sleep(LISTENING_SECONDS)
            await asyncio.gather(*map(self._ask, list(self._asking)))

    async def _ask(self, pool: str) -> None:
        asked = 0
        while pool in self._asking:
            if self._clock.monotonic() - self._heard_at.get(pool, float("-inf")) < ASK_SECONDS:
                await self._clock.sleep(PACE_SECONDS)  # more of it comes
            elif asked < ASKS:
                asked += 1
                self._facts.tell("newcomer", pool, partial(dict, pool=pool))
                await self._clock.sleep(ASK_SECONDS)
            else:
                self._settle(pool)

    def _take_answer(self, said: Fact) -> None:
        pool, part = said["pool"], int(said["part"])
        self._heard_at[pool] = self._clock.monotonic()
        if pool not in self._asking:
            return
        self._bind(pool, said["bound"])
        if part == 0 or part == self._asking[pool]:
            self._asking[pool] = part + 1
            if not said["left"]:
                self._settle(pool)

    def _settle(self, pool: str) -> None:
        """Be one of the others from now on."""
        with self._lock:
            del self._asking[pool]
            if self._untold.get(pool):
                self._tell(pool)

    # --- answering --------------------------------------------------------------

    def _greet(self, said: Fact) -> None:
        pool = said["pool"]
        if self._strategy(pool) is None or pool in self._asking or pool in self._answering:
            return
        self._answering.add(pool)
        with suppress(ModelMeshError):  # the mesh is being shut down
            self._loop.start(self._answer(pool, self._clock.monotonic()))

    async def _answer(self, pool: str, asked_at: float) -> None:
        try:
            await self._clock.sleep(self._random.uniform(0.0, SPREAD_SECONDS))
            if self._heard_at.get(pool, float("-inf")) < asked_at:
                with suppress(StateStoreError):
                    await self._tell_all(pool)
        finally:
            self._answering.discard(pool)

    async def _tell_all(self, pool: str) -> None:
        strategy = self._strategy(pool)
        assert strategy is not None
        with self._lock:
            bound = [
                (session, (model, round(idle, 1)))
                for session, (model, idle) in strategy.bound_sessions().items()
                if len(session) <= LONGEST_SESSION
            ]
        # An answer without any says that there are none, so that the newcomer need not wait for them.
        portions = [bound[begin : begin + PORTION] for begin in range(0, len(bound), PORTION)] or [[]]
        # Not given back: it lapses, and until then the others know that somebody answers.
        seconds = ANSWER_SECONDS + PACE_SECONDS * len(portions)
        if await self._guard.within(self._store.lock(f"sessions/{pool}", expires_in=seconds)) is None:
            return
        for part, portion in enumerate(portions):
            said = {"pool": pool, "part": part, "left": len(portions) - part - 1, "bound": dict(portion)}
            self._facts.tell("sessions", f"{pool}\n{part}", partial(dict, said))
            await self._clock.sleep(PACE_SECONDS)
