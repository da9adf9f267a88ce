"""The section of a provider: which connector reaches it, what may be spent there, and what it gives and takes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from pydantic.json_schema import SkipJsonSchema

from modelmesh.config.durations import PositiveDuration
from modelmesh.config.section import Count, Fraction, Money, Programmatic, Section, Zone


class BudgetConfig(Section):
    """What may be spent at a provider, in USD; checked before each call against what it may cost at most."""

    daily_limit: Money | None = Field(default=None, description="USD a calendar day.")
    monthly_limit: Money | None = Field(default=None, description="USD a calendar month.")
    timezone: Zone = Field(default="UTC", description="Where days and months begin.")
    alert_threshold: Annotated[Fraction, Field(gt=0)] | None = Field(
        default=0.8, description="Share of a limit at which one warning a period is traced; null for none."
    )
    enforce: bool = Field(default=True, description="Whether a limit stops calls; otherwise it is only traced.")
    unpriced_request: Money | None = Field(
        default=None,
        description="USD that a request to a model without a price is counted as; without it such a"
        " model is an error under a budget.",
    )

    @model_validator(mode="after")
    def _makes_sense(self) -> BudgetConfig:
        if self.daily_limit is None and self.monthly_limit is None:
            raise ValueError("a budget needs daily_limit or monthly_limit")
        if self.daily_limit is not None and self.monthly_limit is not None and self.daily_limit > self.monthly_limit:
            raise ValueError("daily_limit is larger than monthly_limit, which would never let it be reached")
        return self


class QuotaConfig(Section):
    """What a provider gives in a period, such as a free tier; used up, its models rest until the next one."""

    free_tier: bool = Field(
        default=False, description="Take what the connector knows of the provider's free tier; give nothing else then."
    )
    requests: Count | None = Field(default=None, description="Requests in a period.")
    tokens: Count | None = Field(default=None, description="Tokens in a period.")
    reset_schedule: Literal["monthly", "daily", "rolling"] = Field(
        default="monthly", description="When it is full again; rolling gives it back evenly over rolling_window."
    )
    rolling_window: Annotated[PositiveDuration, Field(ge=0.001)] = Field(
        default=86_400.0, description="Length of a rolling period (duration)."
    )
    timezone: Zone = Field(default="UTC", description="Where days and months begin.")

    @model_validator(mode="after")
    def _says_something(self) -> QuotaConfig:
        if self.free_tier and self.model_fields_set != {"free_tier"}:
            raise ValueError("free_tier takes the connector's own figures; remove it or the figures beside it")
        if not self.free_tier and self.requests is None and self.tokens is None:
            raise ValueError("a quota needs requests or tokens, or free_tier: true")
        if "rolling_window" in self.model_fields_set and "reset_schedule" not in self.model_fields_set:
            raise ValueError(
                "rolling_window counts with reset_schedule: rolling, and it is monthly by default; write the one that"
                " is meant"
            )
        return self


class RateLimitConfig(Section):
    """What a provider takes at a time; more goes to another model, or waits."""

    rpm: Count | None = Field(default=None, description="Requests a minute.")
    tpm: Count | None = Field(default=None, description="Tokens a minute.")
    burst: Annotated[Fraction, Field(gt=0)] = Field(
        default=0.1, description="Share of a minute's limit that may go out at once after a pause."
    )
    concurrency: Count | None = Field(
        default=None, description="Calls that may run at once, of all processes that share the store together."
    )

    @model_validator(mode="after")
    def _says_something(self) -> RateLimitConfig:
        if self.rpm is None and self.tpm is None and self.concurrency is None:
            raise ValueError("a rate limit needs rpm, tpm or concurrency")
        return self


class ProviderBatchConfig(Section):
    """Batches that a provider carries out itself; what it does not take, the mesh carries out."""

    supported: bool | None = Field(
        default=None, description="Whether they are handed to it; by default where its connector has a way to."
    )
    max_items: Count | None = Field(default=None, description="Requests in one batch.")


class ProviderConfig(Section):
    """One provider; every key not listed here belongs to its connector's own settings."""

    enabled: bool = Field(default=True, description="Whether the provider and its models are used at all.")
    connector: str = Field(
        default="", description="Connector ID or short name; by default the entry's own name. Read back as the full ID."
    )
    budget: BudgetConfig | None = Field(default=None, description="What may be spent there.")
    quota: QuotaConfig | None = Field(default=None, description="What it gives in a period.")
    rate_limit: RateLimitConfig | None = Field(default=None, description="What it takes at a time.")
    batch: ProviderBatchConfig = Field(
        default_factory=ProviderBatchConfig, description="Batches that it carries out itself."
    )
    settings: SkipJsonSchema[Any] = Field(default=None, repr=False, exclude=True)
    instance: Programmatic = None
