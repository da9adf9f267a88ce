"""The rules of one pool as plain values: what counts, when a model rests, how a request may go on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from modelmesh._engine.retry import RetryPolicy
from modelmesh.interfaces.provider import Timeouts

RATE_LIMITED = "rate_limited"
"""Reason of a model that rests for moments: because its provider said for how long, for a rate, or until others give
back what they hold of a limit."""


@dataclass(frozen=True, slots=True)
class DeactivationRules:
    """When a model goes standby.

    Attributes:
        retry_limit: Consecutive counted failures.
        error_rate_threshold: Share of failures, 0.0-1.0, over the window.
        error_rate_min_samples: Outcomes the window must hold before the rate means anything.
        error_codes: Statuses that count; failures without a status (timeouts, broken connections) count as well.
        request_limit: Requests, or None.
        token_limit: Tokens, or None.
        budget_limit: USD, or None.
        quota_window: ``daily`` or ``monthly``: when the three limits count anew; None for never.
        timezone: Where days and months begin.
        error_window: Outcomes the error rate is taken over.
        maintenance_window: Cron line (UTC) of when all models rest, or None.
        maintenance_duration: Seconds they then rest.
    """

    retry_limit: int = 3
    error_rate_threshold: float = 0.5
    error_rate_min_samples: int = 10
    error_codes: frozenset[int] = frozenset({429, 500, 503})
    request_limit: int | None = None
    token_limit: int | None = None
    budget_limit: float | None = None
    quota_window: Literal["daily", "monthly"] | None = None
    timezone: str = "UTC"
    error_window: int = 100
    maintenance_window: str | None = None
    maintenance_duration: float = 3600.0


@dataclass(frozen=True, slots=True)
class RecoveryRules:
    """When a model comes back.

    Attributes:
        cooldown: Seconds of the first rest; each further one in a row doubles it.
        max_cooldown: Seconds, the longest rest that growing leads to.
        probe_on_start: Whether providers are probed when the mesh starts.
        probe_interval: Seconds between probes of providers whose models rest; None for none.
        require_probe: Whether a rest ends only by a probe.
        quota_reset: ``daily`` or ``monthly`` (UTC): when quotas that providers report as used up begin anew; None when
            that is not known or not to be waited for.
    """

    cooldown: float = 60.0
    max_cooldown: float = 300.0
    probe_on_start: bool = False
    probe_interval: float | None = None
    require_probe: bool = False
    quota_reset: Literal["daily", "monthly"] | None = None


@dataclass(frozen=True, slots=True)
class PoolPolicy:
    """Everything a pool's configuration says about how its requests are carried out.

    Attributes:
        deactivation: When a model goes standby.
        recovery: When it comes back.
        retry: How often and how long to wait before calling a model again.
        timeouts: The clocks of each attempt.
        deadline: Seconds for the whole request, over all attempts and waits; None for no limit.
        max_attempts: Calls to providers per request; None for as many as candidates and retries allow.
        max_cost: USD per request that may have been spent before another attempt starts; None for no limit.
        retry_percent: Share of the pool's active requests that may be retrying at once, in percent.
        retry_minimum: Retries that may run at once however few requests there are.
        provider_deactivation: Which provider-level triggers act: ``on_auth_failure``, ``on_api_outage``.
        provider_recovery: ``on_probe_success`` or ``on_manual``.
        on_stream_failure: What happens when a stream breaks after its first content.
        hold_time: Seconds a stream's content is held back under ``hold``.
        on_budget_exceeded: ``rotate`` to the next model, or ``error`` to the caller.
    """

    deactivation: DeactivationRules = field(default_factory=DeactivationRules)
    recovery: RecoveryRules = field(default_factory=RecoveryRules)
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    timeouts: Timeouts = field(default_factory=Timeouts)
    deadline: float | None = 600.0
    max_attempts: int | None = None
    max_cost: float | None = None
    retry_percent: float = 20.0
    retry_minimum: int = 3
    provider_deactivation: frozenset[str] = frozenset({"on_auth_failure"})
    provider_recovery: str = "on_probe_success"
    on_stream_failure: Literal["error", "hold", "continue"] = "error"
    hold_time: float = 2.0
    on_budget_exceeded: Literal["rotate", "error"] = "rotate"
