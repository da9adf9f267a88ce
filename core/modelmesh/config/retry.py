"""The parts of a pool that say how a model is called again, how often, and how long each call may take."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from modelmesh.config.durations import Duration, PositiveDuration
from modelmesh.config.section import Number, Section, StatusCode, Whole


class RetryConfig(Section):
    """Calling the same model again."""

    max_attempts: Annotated[Whole, Field(ge=0)] = Field(
        default=3, description="Retries of one model after its first call; 0 for none."
    )
    backoff: Literal["fixed", "exponential_jitter", "retry_after"] = Field(
        default="exponential_jitter", description="How the wait grows from one retry to the next."
    )
    initial_delay: Duration = Field(default=0.5, description="First wait (duration).")
    max_delay: Duration = Field(default=10.0, description="Longest wait (duration).")
    retryable_codes: tuple[StatusCode, ...] = Field(
        default=(429, 500, 502, 503), description="Statuses worth a retry; wins over the connector's opinion."
    )
    non_retryable_codes: tuple[StatusCode, ...] = Field(
        default=(400, 401, 403), description="Statuses never retried; wins over the connector's opinion."
    )
    scope: Literal["same_model", "same_provider", "any"] = Field(
        default="same_model", description="Where a retry may go."
    )
    honor_retry_after: bool = Field(
        default=True, description="Wait as long as the provider asks; longer than max_delay means rotate instead."
    )
    prefer: Literal["rotate", "retry"] = Field(
        default="rotate",
        description="rotate: go to the next candidate at once, and wait and retry only when nobody is left."
        " retry: try the same model first, max_attempts times, and rotate then.",
    )

    @model_validator(mode="after")
    def _makes_sense(self) -> RetryConfig:
        if self.initial_delay > self.max_delay:
            raise ValueError("initial_delay is longer than max_delay")
        both = sorted(set(self.retryable_codes) & set(self.non_retryable_codes))
        if both:
            raise ValueError(f"{both[0]} stands in retryable_codes and in non_retryable_codes; keep one")
        return self


class RetryBudgetConfig(Section):
    """How much retrying a pool may do at once, so that an outage is not amplified."""

    percent: Annotated[Number, Field(ge=0, le=100)] = Field(
        default=20.0, description="Share of the pool's active requests that may be retrying, in percent."
    )
    minimum: Annotated[Whole, Field(ge=0)] = Field(
        default=3, description="Retries that may run at once however few requests there are."
    )


class TimeoutsConfig(Section):
    """The clocks of one attempt; null switches one off."""

    connect: PositiveDuration | None = Field(default=5.0, description="Until a connection stands (duration).")
    first_token: PositiveDuration | None = Field(
        default=60.0, description="Until the first content of a stream (duration)."
    )
    idle: PositiveDuration | None = Field(
        default=30.0, description="Between two pieces of a stream's content (duration)."
    )
    total: PositiveDuration | None = Field(default=600.0, description="The whole attempt (duration).")
