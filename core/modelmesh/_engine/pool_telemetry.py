"""What a pool says of itself, to statistics and to whoever watches: who came and went, who rests and who is back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from modelmesh._engine.policies import RATE_LIMITED
from modelmesh.interfaces.observability import EventType, Severity
from modelmesh.interfaces.strategy import DeactivationReason, RecoveryTrigger
from modelmesh.statistics import StatsScope

if TYPE_CHECKING:
    from modelmesh._engine.member import Member
    from modelmesh._engine.model import Model
    from modelmesh._engine.telemetry import Telemetry
    from modelmesh.statistics import StatisticsCollector

_SEVERITY: Mapping[str, Severity] = {
    DeactivationReason.MANUAL.value: Severity.INFO,
    DeactivationReason.MAINTENANCE_WINDOW.value: Severity.INFO,
    RATE_LIMITED: Severity.WARNING,
}
"""How bad it is that a model rests: somebody meant it to, or its provider asked for a pause. Else it is an error."""


class PoolTelemetry:
    """Statistics, events and traces of one pool; it changes nothing in the pool."""

    def __init__(self, pool: str, telemetry: Telemetry, statistics: StatisticsCollector) -> None:
        self._pool = pool
        self._telemetry = telemetry
        self._statistics = statistics

    def redact(self, text: str) -> str:
        """Return a text without what looks like a secret, or is one of this mesh."""
        return self._telemetry.dispatcher.redactor.text(text)

    def rests(self, member: Member, reason: str, rest: float | None) -> None:
        """Tell that a member was moved to standby, for so many seconds; None until it is recovered."""
        state = member.model.state
        self._moved(
            EventType.MODEL_DEACTIVATED,
            member,
            {
                "reason": str(reason),
                "failure_count": state.failure_count,
                "error_rate": state.error_rate,
                "cooldown": rest,
            },
        )
        severity = _SEVERITY.get(reason, Severity.ERROR)
        if self._telemetry.dispatcher.wants_trace(severity):
            self._trace(
                severity,
                f"{member.model_id} rests {'until it is recovered' if rest is None else f'for {rest:.0f} s'}: {reason}",
                {
                    "failure_count": state.failure_count,
                    "error_rate": round(state.error_rate, 3),
                    "active": member.pool.active_count,
                },
            )

    def is_back(self, member: Member, trigger: RecoveryTrigger, rested: float) -> None:
        """Tell that a member takes traffic again, after so many seconds."""
        seconds = round(rested, 3)
        self._moved(EventType.MODEL_ACTIVATED, member, {"trigger": trigger.value, "rested_seconds": seconds})
        if self._telemetry.wants_info:
            self._trace(
                Severity.INFO,
                f"{member.model_id} is active again: {trigger.value}",
                {"rested_seconds": seconds, "active": member.pool.active_count},
            )

    def membership_changed(self, before: Mapping[str, Member], after: Mapping[str, Member]) -> None:
        """Tell who came and who went; nothing when they are the same."""
        added = [name for name in after if name not in before]
        removed = [name for name in before if name not in after]
        moved = [*added, *removed]
        if moved:
            self._telemetry.event(
                EventType.POOL_MEMBERSHIP_CHANGED,
                pool_id=self._pool,
                model_id=moved[0] if len(moved) == 1 else None,
                metadata={"added": added, "removed": removed},
            )
        if self._telemetry.wants_debug:
            for name in added:
                member = after[name]
                facts = {"provider": member.provider_id, "status": member.status, "members": len(after)}
                self._trace(Severity.DEBUG, f"added {name}", facts)

    def note_reach(self, model: Model, *, active_count: int) -> None:
        """Tell statistics whether a model and this pool can be reached: downtime is standby in every pool it is in."""
        rests_everywhere = bool(model.members) and not any(member.active for member in model.members)
        model_note = self._statistics.record_down if rests_everywhere else self._statistics.record_up
        model_note(StatsScope.MODEL, model.name)
        pool_note = self._statistics.record_up if active_count else self._statistics.record_down
        pool_note(StatsScope.POOL, self._pool)

    def _moved(self, event_type: EventType, member: Member, metadata: dict[str, Any]) -> None:
        self._statistics.record_rotation(member.model_id, member.provider_id, self._pool)
        self._telemetry.event(
            event_type,
            model_id=member.model_id,
            provider_id=member.provider_id,
            pool_id=self._pool,
            metadata=metadata,
        )

    def _trace(self, severity: Severity, message: str, facts: dict[str, Any]) -> None:
        self._telemetry.trace(severity, f"pool.{self._pool}", message, facts)
