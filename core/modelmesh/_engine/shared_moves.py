"""What one process learns about a model's health, others are told: moves between active and standby, over the store.

Messages are hints. One that is lost costs a process a failed call, by which it learns the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any

from modelmesh._engine.pool import NEVER
from modelmesh.errors import ModelMeshError
from modelmesh.interfaces.observability import Severity
from modelmesh.interfaces.strategy import RecoveryTrigger

if TYPE_CHECKING:
    from modelmesh._engine.loop_thread import LoopThread
    from modelmesh._engine.pool import CapabilityPool, Member
    from modelmesh._engine.telemetry import Telemetry
    from modelmesh.interfaces.runtime import Clock, Random
    from modelmesh.interfaces.state_store import StateStore

CHANNEL = "moves"

_SHARED_RECOVERIES = frozenset(
    {RecoveryTrigger.MANUAL, RecoveryTrigger.PROBE_SUCCESS, RecoveryTrigger.STARTUP_PROBE, RecoveryTrigger.QUOTA_RESET}
)
"""Recoveries that are news to others; a rest that is over, each of them notices by itself."""


class SharedMoves:
    """Tells other processes of moves, and takes theirs over."""

    def __init__(
        self,
        store: StateStore,
        pools: Mapping[str, CapabilityPool],
        clock: Clock,
        random: Random,
        telemetry: Telemetry,
        loop: LoopThread,
    ) -> None:
        self._store = store
        self._pools = pools
        self._clock = clock
        self._telemetry = telemetry
        self._loop = loop
        self._own = f"{int(random.random() * 2**48):012x}"

    def attach(self) -> None:
        """Hear of every move from now on."""
        for pool in self._pools.values():
            pool.on_move = self._tell

    def _tell(self, member: Member, trigger: RecoveryTrigger | None) -> None:
        """Tell of a move: to standby, or by ``trigger`` to active. Called on any thread; returns at once."""
        if trigger is not None and trigger not in _SHARED_RECOVERIES:
            return
        rest = None if member.due == NEVER else max(0.0, member.due - self._clock.monotonic())
        message = {
            "from": self._own,
            "pool": member.pool.name,
            "model": member.model_id,
            "active": member.active,
            "reason": member.reason,
            "rest": rest,
            "trigger": None if trigger is None else trigger.value,
        }
        with suppress(ModelMeshError):  # the mesh is being shut down: there is nobody left to tell
            self._loop.start(self._publish(json.dumps(message).encode()))

    async def _publish(self, message: bytes) -> None:
        try:
            await self._store.publish(CHANNEL, message)
        except ModelMeshError as error:
            self._telemetry.trace(Severity.WARNING, "storage", "others could not be told of a move", error=str(error))

    async def run(self) -> None:
        """Take over what others tell, for as long as it runs; a lost connection is tried again."""
        while True:
            try:
                async with aclosing(self._store.subscribe(CHANNEL)) as messages:
                    async for message in messages:
                        self._take(message)
            except ModelMeshError as error:
                self._telemetry.trace(Severity.WARNING, "storage", "moves of others are not heard", error=str(error))
            await self._clock.sleep(1.0)

    def _take(self, message: bytes) -> None:
        try:
            said: dict[str, Any] = json.loads(message)
            pool = self._pools[said["pool"]]
            member = pool.members[said["model"]]
            if said["from"] == self._own:
                return
            now = self._clock.monotonic()
            if said["active"]:
                trigger = RecoveryTrigger(said["trigger"])
                if member.is_ended_by(trigger):
                    pool.recover_member(member, trigger, now=now, told=False)
            elif not (member.would_heal(str(said["reason"])) and pool.is_last_active(member)):
                pool.deactivate_member(member, str(said["reason"]), rest=said["rest"], now=now, told=False)
        except (KeyError, ValueError, TypeError):
            return  # of a process with another configuration, or another version
