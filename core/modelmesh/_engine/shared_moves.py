"""What one process learns about the health of models and providers, others are told: moves to standby and back.

A provider's outage is one fact, however many models it has. What is told is a hint: a process takes nobody away
whom it could not do without, and learns by its own calls what it was not told.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from modelmesh._engine.member import NEVER
from modelmesh.interfaces.strategy import RecoveryTrigger

if TYPE_CHECKING:
    from modelmesh._engine.member import Member
    from modelmesh._engine.pool import CapabilityPool
    from modelmesh._engine.provider_service import ProviderService
    from modelmesh._engine.shared_facts import Fact, SharedFacts
    from modelmesh.interfaces.runtime import Clock

_SHARED_RECOVERIES = frozenset(
    {RecoveryTrigger.MANUAL, RecoveryTrigger.PROBE_SUCCESS, RecoveryTrigger.STARTUP_PROBE, RecoveryTrigger.QUOTA_RESET}
)
"""Recoveries that are news to others; a rest that is over, each of them notices by itself."""


class SharedMoves:
    """Tells other processes of moves, and takes theirs over."""

    def __init__(
        self,
        facts: SharedFacts,
        pools: Mapping[str, CapabilityPool],
        providers: Mapping[str, ProviderService],
        clock: Clock,
    ) -> None:
        self._facts = facts
        self._pools = pools
        self._providers = providers
        self._clock = clock

    def attach(self) -> None:
        """Hear of every move from now on."""
        for pool in self._pools.values():
            pool.on_move = self._tell_member
        for provider in self._providers.values():
            provider.on_move = self._tell_provider
        self._facts.on("member", self._take_member)
        self._facts.on("provider", self._take_provider)

    # --- telling ----------------------------------------------------------------

    def _tell_member(self, member: Member, trigger: RecoveryTrigger | None) -> None:
        if member.model.provider.is_moving or (trigger is not None and trigger not in _SHARED_RECOVERIES):
            return

        def fact() -> Fact | None:
            if member.active is (trigger is None):
                return None  # it has moved again
            said = {
                "pool": member.pool.name,
                "model": member.model_id,
                "active": member.active,
                "ago": self._since(member.decided_at),
            }
            if trigger is not None:
                return {**said, "trigger": trigger.value}
            limits = member.limits_behind(member.reason or "")
            return {
                **said,
                "reason": member.reason,
                "rest": self._left(member.due),
                **({"limits": limits} if limits else {}),
            }

        self._facts.tell("member", f"{member.pool.name}\n{member.model_id}", fact, kept=True)

    def _tell_provider(self, provider: ProviderService, trigger: RecoveryTrigger | None, due: float) -> None:
        if trigger is not None and trigger not in _SHARED_RECOVERIES:
            return

        def fact() -> Fact | None:
            if (provider.deactivated is not None) is (trigger is not None):
                return None
            said = {
                "provider": provider.name,
                "active": provider.deactivated is None,
                "ago": self._since(provider.decided_at),
            }
            if trigger is not None:
                return {**said, "trigger": trigger.value}
            return {
                **said,
                "cause": provider.deactivated,
                "auth": not provider.state.auth_valid,
                "rest": self._left(due),
            }

        self._facts.tell("provider", provider.name, fact, kept=True)

    def _left(self, due: float) -> float | None:
        return None if due == NEVER else max(0.0, due - self._clock.monotonic())

    def _since(self, moment: float) -> float:
        return max(0.0, self._clock.monotonic() - moment)

    # --- taking over ------------------------------------------------------------

    def _take_member(self, said: Fact) -> None:
        pool = self._pools[said["pool"]]
        member = pool.members[said["model"]]
        now = self._clock.monotonic()
        since = now - float(said["ago"])
        if member.decided_at > since and (member.active or said["active"]):
            return  # what is known here is younger than the news
        if said["active"]:
            trigger = RecoveryTrigger(said["trigger"])
            if member.is_ended_by(trigger):
                pool.recover_member(member, trigger, now=now, told=False, since=since)
        elif said.get("limits") not in (None, member.limits_behind(str(said["reason"]))):
            return  # it has used up another limit than there is here
        elif not (member.would_heal(str(said["reason"])) and pool.is_last_active(member)):
            pool.deactivate_member(member, str(said["reason"]), rest=said["rest"], now=now, told=False, since=since)

    def _take_provider(self, said: Fact) -> None:
        provider = self._providers[said["provider"]]
        now = self._clock.monotonic()
        since = now - float(said["ago"])
        if provider.decided_at > since:
            return
        if said["active"]:
            if provider.deactivated is not None:
                provider.recover(RecoveryTrigger(said["trigger"]), now, told=False, since=since)
        elif provider.deactivated is None and not _is_all_there_is(provider):
            cause, rest = str(said["cause"]), said["rest"]
            provider.deactivate(
                cause,
                auth=bool(said["auth"]),
                rest=NEVER if rest is None else float(rest),
                now=now,
                told=False,
                since=since,
            )


def _is_all_there_is(provider: ProviderService) -> bool:
    """Whether some pool would be left without anybody: the trouble may be the other process's own network or key."""
    pools = {member.pool.name: member.pool for model in provider.models for member in model.members if member.active}
    return any(
        all(member.provider_id == provider.name for member in pool.members.values() if member.active)
        for pool in pools.values()
    )
