"""A limit as configured, and which of them providers and pools have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from modelmesh._engine.policies import RATE_LIMITED
from modelmesh._engine.windows import CalendarWindow
from modelmesh.interfaces.ledger import LARGEST_AMOUNT, NANO_USD, Claim, RateClaim, WindowClaim
from modelmesh.interfaces.strategy import DeactivationReason
from modelmesh.money import in_dollars

Unit = Literal["requests", "tokens", "nano_usd"]

NO_LIMIT = 2**53 - 1
"""The limit of a claim on what is counted and stops nobody."""
_FOREVER = 400 * 86_400.0
"""Seconds an account without a window is kept after its last change."""
_AFTERWARDS = 3 * 86_400.0
"""Seconds a window's account is kept after its end: a clock that was put forward may be put back into it."""
_REQUESTS: Unit = "requests"
_TOKENS: Unit = "tokens"


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit as configured.

    Attributes:
        account: Its name in the ledger; the window's name follows it.
        unit: What is counted.
        amount: The most, in that unit.
        reason: Why a model rests when it is reached.
        subject: What it is a limit of, for people.
        provider_wide: Whether reaching it puts every model of the provider to rest.
        window: Calendar window, or None.
        period: Seconds over which a rate flows back; None for windows.
        burst: How much of a rate may go at once.
        budget: ``daily``, ``monthly`` or ``pool`` for limits on money.
        alert: Share of the limit at which it is traced, once a window.
        enforce: Whether it stops calls.
        unpriced: Nano-USD that a request without a price is counted as.
    """

    account: str
    unit: Unit
    amount: int
    reason: str
    subject: str
    provider_wide: bool = True
    window: CalendarWindow | None = None
    period: float | None = None
    burst: int = 1
    budget: str = ""
    alert: float | None = None
    enforce: bool = True
    unpriced: int = 0

    @property
    def kind(self) -> Literal["budget", "quota", "rate_limit"]:
        """What ``on_store_error`` knows it as."""
        if self.unit == "nano_usd":
            return "budget"
        return "rate_limit" if self.account.startswith("rate/") else "quota"

    def claim(self, amount: int, now: float, *, share: int = 1) -> Claim:
        """Return the claim on so much of it.

        Args:
            amount: In its unit; what a request asks for, however odd: it is taken for nothing, or for the most.
            now: Unix time, for the window.
            share: Into how many parts the limit is divided, of which one is claimed from.
        """
        amount = within_bounds(amount)
        if self.period is not None:
            burst = max(1, self.burst // share)
            # A rate cannot give more at once than its burst; a larger request takes all of it.
            return RateClaim(self.account, min(amount, burst), max(1, self.amount // share), self.period, burst)
        limit = self.amount // share if self.enforce else NO_LIMIT
        if self.window is None:
            return WindowClaim(self.account, amount, limit, _FOREVER)
        name, ends = self.window.at(now)
        return WindowClaim(f"{self.account}/{name}", amount, limit, ends - now + _AFTERWARDS)


def within_bounds(amount: int) -> int:
    """Return the nearest amount that can be claimed and settled."""
    return min(max(amount, 0), LARGEST_AMOUNT)


def provider_limits(name: str, budget: Any, quota: Any, rate: Any) -> tuple[Limit, ...]:
    """Return the limits of a provider's configuration sections, any of which may be None."""
    limits: list[Limit] = []
    if budget is not None:
        for kind, dollars in (("daily", budget.daily_limit), ("monthly", budget.monthly_limit)):
            if dollars is not None:
                limits.append(
                    Limit(
                        f"budget/provider/{name}/{kind}",
                        "nano_usd",
                        round(dollars * NANO_USD),
                        DeactivationReason.BUDGET_EXCEEDED.value,
                        f"the {kind} budget of {in_dollars(dollars)} for provider {name!r}",
                        window=CalendarWindow("daily" if kind == "daily" else "monthly", budget.timezone),
                        budget=kind,
                        alert=budget.alert_threshold,
                        enforce=budget.enforce,
                        unpriced=round((budget.unpriced_request or 0.0) * NANO_USD),
                    )
                )
    if quota is not None:
        limits += _quota_limits(name, quota)
    if rate is not None:
        limits += [
            Limit(
                f"rate/provider/{name}/{word}",
                unit,
                most,
                RATE_LIMITED,
                f"the rate limit of {most} {unit} a minute for provider {name!r}",
                provider_wide=False,
                period=60.0,
                # A product of large numbers is rounded, and may be rounded up.
                burst=min(most, max(1, round(most * rate.burst))),
            )
            for word, unit, most in (("rpm", _REQUESTS, rate.rpm), ("tpm", _TOKENS, rate.tpm))
            if most is not None
        ]
    return tuple(limits)


def _quota_limits(name: str, quota: Any) -> Sequence[Limit]:
    schedule = quota.reset_schedule
    rolling = quota.rolling_window if schedule == "rolling" else None
    return [
        Limit(
            f"quota/provider/{name}/{schedule}/{unit}",
            unit,
            most,
            DeactivationReason.QUOTA_EXHAUSTED.value,
            f"the {schedule} quota of {most} {unit} at provider {name!r}",
            window=None if schedule == "rolling" else CalendarWindow(schedule, quota.timezone),
            period=rolling,
            burst=most,
        )
        for unit, most in ((_REQUESTS, quota.requests), (_TOKENS, quota.tokens))
        if most is not None
    ]


def pool_limits(pool: str, model: str, rules: Any) -> tuple[Limit, ...]:
    """Return the limits that a pool's ``deactivation`` section sets for one of its models."""
    window = None if rules.quota_window is None else CalendarWindow(rules.quota_window, rules.timezone)
    span = "" if rules.quota_window is None else f"{rules.quota_window} "
    limits: list[Limit] = []
    for unit, most, reason in (
        (_REQUESTS, rules.request_limit, DeactivationReason.REQUEST_LIMIT),
        (_TOKENS, rules.token_limit, DeactivationReason.TOKEN_LIMIT),
    ):
        if most is not None:
            limits.append(
                Limit(
                    f"limit/pool/{pool}/{model}/{unit}",
                    unit,
                    most,
                    reason.value,
                    f"the {span}limit of {most} {unit} for {model!r} in pool {pool!r}",
                    provider_wide=False,
                    window=window,
                )
            )
    if rules.budget_limit is not None:
        limits.append(
            Limit(
                f"budget/pool/{pool}/{model}",
                "nano_usd",
                round(rules.budget_limit * NANO_USD),
                DeactivationReason.BUDGET_EXCEEDED.value,
                f"the {span}budget of {in_dollars(rules.budget_limit)} for {model!r} in pool {pool!r}",
                provider_wide=False,
                window=window,
                budget="pool",
            )
        )
    return tuple(limits)
