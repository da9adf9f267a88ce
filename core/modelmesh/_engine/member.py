"""A model's place in a pool: whether it takes traffic, and if not, why and for how long."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from modelmesh._engine.limit_rules import pool_limits
from modelmesh._engine.model import Model
from modelmesh._engine.policies import RATE_LIMITED
from modelmesh.interfaces.provider import ModelPricing, RateLimitStatus
from modelmesh.interfaces.strategy import DeactivationReason, ModelStatus, RecoveryTrigger

if TYPE_CHECKING:
    from modelmesh._engine.pool import CapabilityPool

NEVER = float("inf")
"""Due time of a rest that only a person, a probe or a calendar ends."""

_HEALING = frozenset({DeactivationReason.ERROR_THRESHOLD.value, RATE_LIMITED})
"""Reasons under which a model may be fine again before its rest is over."""

IN_DOUBT = _HEALING | {DeactivationReason.PROVIDER_UNAVAILABLE.value}
"""Reasons under which a model, or its provider, may still be failing when its rest is over."""

CALENDAR = frozenset(
    {
        DeactivationReason.BUDGET_EXCEEDED.value,
        DeactivationReason.TOKEN_LIMIT.value,
        DeactivationReason.REQUEST_LIMIT.value,
    }
)
"""Reasons that end with a day or a month: the model itself was never in doubt."""


class Member:
    """A model's place in one pool: the live, read-only view strategies see, and the pool's own notes on it.

    Attributes:
        active: Whether it takes traffic from this pool.
        reason: Why it does not.
        due: Monotonic time at which it may return.
        until: Unix time at which it may return in any case: the end of a day, a month or a maintenance window. Clocks
            on the wall are put right, and monotonic ones stand still while a machine sleeps; whichever of the two gets
            there first ends the rest.
        limits: What its calls are claimed from first.
        rested_at: Monotonic time since when it rests, or did last.
        decided_at: Monotonic time of what last put it to rest, made its rest longer, or ended it by more than time.
        ejections: Rests in a row.
        probation: Whether it has just come back and not yet answered: one failure sends it off again.
        tried_until: Monotonic time until which another process is taken to make its first call after a rest.
    """

    __slots__ = (
        "active",
        "decided_at",
        "due",
        "ejections",
        "limits",
        "model",
        "model_id",
        "pool",
        "probation",
        "provider_id",
        "reason",
        "rested_at",
        "tried_until",
        "until",
    )

    def __init__(self, model: Model, pool: CapabilityPool) -> None:
        self.model = model
        self.pool = pool
        self.model_id = model.name
        self.provider_id = model.provider.name
        self.active = True
        self.reason: str | None = None
        self.due = 0.0
        self.until = NEVER
        self.ejections = 0
        self.probation = False
        self.rested_at = 0.0
        self.decided_at = -NEVER
        self.tried_until = 0.0
        self.limits = (*model.provider.limits, *pool_limits(pool.name, model.name, pool.policy.deactivation))

    @property
    def is_limited(self) -> bool:
        """Whether a call needs a claim before it is made."""
        return bool(self.limits) or self.model.provider.concurrency is not None

    def __repr__(self) -> str:
        return f"Member({self.model_id!r}, pool={self.pool.name!r}, {self.status})"

    def take_place_of(self, other: Member) -> None:
        """Go on where the member of an earlier definition of the model stood."""
        self.active = other.active
        self.reason = other.reason
        self.due = other.due
        self.until = other.until
        self.ejections = other.ejections
        self.probation = other.probation
        self.rested_at = other.rested_at
        self.decided_at = other.decided_at

    @property
    def status(self) -> str:
        """``active`` or ``standby`` in this pool."""
        return ModelStatus.ACTIVE.value if self.active else ModelStatus.STANDBY.value

    @property
    def failure_count(self) -> int:
        """Consecutive failures."""
        return self.model.state.failure_count

    @property
    def error_rate(self) -> float:
        """0.0-1.0."""
        return self.model.state.error_rate

    @property
    def cooldown_remaining(self) -> float | None:
        """Seconds, or None when no cooldown runs."""
        if self.active or self.due == NEVER:
            return None
        left = self.due - self.pool.clock.monotonic()
        if self.until != NEVER:
            left = min(left, self.until - self.pool.clock.time())
        return max(0.0, left)

    @property
    def quota_used(self) -> int:
        """Requests in the period."""
        return self.model.state.quota_used

    @property
    def tokens_used(self) -> int:
        """Tokens in the period."""
        return self.model.state.tokens_used

    @property
    def cost_accumulated(self) -> float:
        """USD in the period."""
        return self.model.state.cost_accumulated

    @property
    def latency_history(self) -> Sequence[float]:
        """Seconds."""
        return self.model.state.latency_history

    @property
    def latency_avg(self) -> float | None:
        """Mean seconds."""
        history = self.model.state.latency_history
        return sum(history) / len(history) if history else None

    @property
    def last_request(self) -> datetime | None:
        """The last success."""
        moment = self.model.state.last_request
        return None if moment is None else datetime.fromtimestamp(moment, UTC)

    @property
    def last_failure(self) -> datetime | None:
        """The last failure."""
        moment = self.model.state.last_failure
        return None if moment is None else datetime.fromtimestamp(moment, UTC)

    @property
    def deactivation_reason(self) -> str | None:
        """Why it is standby."""
        return self.reason

    @property
    def in_flight(self) -> int:
        """Attempts running."""
        return self.model.in_flight

    @property
    def pricing(self) -> ModelPricing | None:
        """As declared or as the provider says."""
        return self.model.definition.pricing

    @property
    def rate_limits(self) -> RateLimitStatus | None:
        """What the provider last said."""
        return self.model.provider.rate_limits

    @property
    def features(self) -> Mapping[str, bool]:
        """As declared."""
        return self.model.definition.features

    @property
    def constraints(self) -> Mapping[str, Any]:
        """As declared."""
        return self.model.definition.constraints

    def rest_until(self, due: float, now: float) -> None:
        """Set when it may return: at this monotonic time, and after a rest that has a date by the calendar as well."""
        self.due = due
        dated = due != NEVER and self.reason not in _HEALING
        self.until = self.pool.clock.time() + (due - now) if dated else NEVER

    def is_on_trial(self) -> bool:
        """Whether it came back a moment ago and its first call is still running: others wait for what comes of it."""
        if not self.probation:
            return False
        model = self.model
        return model.in_flight > 0 or model.asking > 0 or self.pool.clock.monotonic() < self.tried_until

    def would_heal(self, reason: str) -> bool:
        """Whether a rest for this reason is one that an answer ends."""
        return reason in _HEALING

    def is_ended_by(self, trigger: RecoveryTrigger) -> bool:
        """Whether what ended the model's rest elsewhere ends the rest it has here, which may be for something else."""
        if trigger is RecoveryTrigger.MANUAL:
            return True
        return self.reason in (CALENDAR if trigger is RecoveryTrigger.QUOTA_RESET else IN_DOUBT)

    def limits_behind(self, reason: str) -> dict[str, int]:
        """Return the limits that a rest for this reason may be for: where they are others, that rest says nothing.

        Those of a day or month are of the present one: a process whose clock is ahead may have used up the next.
        """
        now = self.pool.clock.time()
        return {
            limit.account if limit.window is None else f"{limit.account}/{limit.window.at(now)[0]}": limit.amount
            for limit in self.limits
            if limit.enforce and limit.kind != "rate_limit" and limit.reason == reason
        }

    def may_have_healed(self) -> bool:
        """Whether it rests only because calls failed, so that a request with nobody else may try it."""
        return not self.active and self.reason in _HEALING
