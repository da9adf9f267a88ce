"""The parts of a pool that say when one of its models goes standby, and when it takes traffic again."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from modelmesh.config.durations import Duration, PositiveDuration
from modelmesh.config.section import Count, Fraction, Money, Section, StatusCode, Zone


def _cron(line: str) -> str:
    try:
        from cronsim import CronSim, CronSimError
    except ImportError:
        raise ValueError("maintenance windows need the cron extra: pip install 'modelmesh-router[cron]'") from None
    try:
        next(CronSim(line, datetime(2024, 1, 1, tzinfo=UTC)))
    except CronSimError as error:
        raise ValueError(f"no cron line: {error}; write five fields such as '0 2 * * 0'") from None
    except StopIteration:
        raise ValueError("this cron line never fires: no such day ever comes") from None
    return line


class DeactivationConfig(Section):
    """When a model of the pool goes standby."""

    retry_limit: Count = Field(default=3, description="Consecutive counted failures.")
    error_rate_threshold: Fraction = Field(
        default=0.5, description="Share of failures among the last outcomes, 0.0 to 1.0."
    )
    error_rate_min_samples: Count = Field(default=10, description="Outcomes before the error rate means anything.")
    error_window: Count = Field(default=100, description="Outcomes the error rate is taken over.")
    error_codes: tuple[StatusCode, ...] = Field(
        default=(429, 500, 503),
        description="Statuses that count as failures; timeouts and broken connections count in any case.",
    )
    request_limit: Count | None = Field(default=None, description="Requests; none by default.")
    token_limit: Count | None = Field(default=None, description="Tokens; none by default.")
    budget_limit: Money | None = Field(default=None, description="USD; none by default.")
    quota_window: Literal["daily", "monthly"] | None = Field(
        default=None,
        description="Period of the three limits, after which they count anew; without it they hold until a person"
        " recovers the model.",
    )
    timezone: Zone = Field(default="UTC", description="Where days and months begin.")
    maintenance_window: Annotated[str, AfterValidator(_cron)] | None = Field(
        default=None, description="Cron line, in UTC, of when the pool's models begin to rest, such as '0 2 * * 0'."
    )
    maintenance_duration: PositiveDuration = Field(default=3600.0, description="How long they then rest (duration).")

    @model_validator(mode="after")
    def _can_be_reached(self) -> DeactivationConfig:
        if self.error_rate_min_samples > self.error_window:
            raise ValueError("error_rate_min_samples is larger than error_window, so the rate would never be looked at")
        return self


class RecoveryConfig(Section):
    """When a standby model takes traffic again."""

    cooldown: Duration = Field(default=60.0, description="Rest after a deactivation by errors (duration).")
    probe_on_start: bool = Field(
        default=False,
        description="Ask each provider whether it is there before the first call; takes 10 seconds at most.",
    )
    probe_interval: PositiveDuration | None = Field(
        default=None, description="How often providers of resting models are asked (duration); never by default."
    )
    require_probe: bool = Field(
        default=False, description="A rest that is over does not end before a probe has succeeded."
    )
    on_quota_reset: bool = Field(
        default=True,
        description="A used-up quota whose schedule is known waits for the reset rather than the cooldown.",
    )
    quota_reset_schedule: Literal["monthly", "daily_utc", "daily"] | None = Field(
        default=None,
        description="When quotas that providers report as used up begin anew (UTC); without it the cooldown decides.",
    )

    @model_validator(mode="after")
    def _makes_sense(self) -> RecoveryConfig:
        if self.require_probe and self.probe_interval is None:
            raise ValueError("require_probe needs a probe_interval, or nothing would ever come back")
        return self
