"""What a checked configuration is: one frozen pydantic model a section, attribute names as in YAML.

The models hold exactly what is built; a key that is planned stands in `modelmesh.config.not_yet` until it works.
Durations are seconds, sizes bytes, money USD. Connector settings are instances of the connector's own model and stay
out of every repr.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SecretBytes,
    SecretStr,
    Strict,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
    model_validator,
)
from pydantic.json_schema import SkipJsonSchema

from modelmesh.config.durations import Duration, PositiveDuration, Size
from modelmesh.config.not_yet import REFUSAL
from modelmesh.state_encoding import NEEDS_MSGPACK, StateFormat, has_msgpack

# Strict numbers: YAML has numbers of its own, so a quoted one or a boolean in their place is a mistake to report.
Whole = Annotated[int, Strict()]
Number = Annotated[float, Strict(), Field(allow_inf_nan=False)]
Fraction = Annotated[float, Strict(), Field(ge=0, le=1)]
StatusCode = Annotated[int, Strict(), Field(ge=100, le=599)]
Name = Annotated[str, Field(min_length=1)]
Programmatic = SkipJsonSchema[Annotated[Any, Field(default=None, repr=False, exclude=True)]]
"""A Python object; it cannot be written in YAML and is no part of the schema."""


class Section(BaseModel):
    """Base of every section: unknown keys are errors, values do not change, errors do not repeat their input."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _given(section: BaseModel) -> dict[str, Any]:
    return section.model_dump(exclude_unset=True)


# --- secrets --------------------------------------------------------------------


class SecretsConfig(Section):
    """Where ``${secrets:NAME}`` finds its values."""

    store: Name = Field(
        default="modelmesh.env.v1",
        description="Secret store: modelmesh.env.v1 (environment variables), modelmesh.dotenv.v1 (a file of KEY=value"
        " lines) or modelmesh.file-secrets.v1 (a directory with one file a secret, such as /run/secrets)."
        " Short names work: env, dotenv, file-secrets.",
    )
    path: str | None = Field(
        default=None,
        description="The dotenv file (default ./.env) or the directory of secret files (default /run/secrets)."
        " Relative paths start at the configuration file's directory.",
    )
    prefix: str = Field(default="", description="env and dotenv: put before each name before looking it up.")
    override_env: bool = Field(
        default=False,
        description="dotenv: the file wins over an environment variable of the same name, which wins otherwise.",
    )
    cache_enabled: bool = Field(default=True, description="Remember values that were looked up.")
    cache_ttl: Duration = Field(default=300.0, description="How long a value is remembered (duration).")
    fail_on_missing: bool = Field(
        default=True, description="A reference without a value is an error; otherwise it becomes empty text."
    )
    instance: Programmatic = None


# --- providers and models ---------------------------------------------------------


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ValueError(f"no time zone is called {name!r}; write a name such as UTC or Europe/Berlin") from None
    return name


Zone = Annotated[str, AfterValidator(_zone)]


class BudgetConfig(Section):
    """What may be spent at a provider, in USD; checked before each call against what it may cost at most."""

    daily_limit: Annotated[Number, Field(gt=0)] | None = Field(default=None, description="USD a calendar day.")
    monthly_limit: Annotated[Number, Field(gt=0)] | None = Field(default=None, description="USD a calendar month.")
    timezone: Zone = Field(default="UTC", description="Where days and months begin.")
    alert_threshold: Annotated[Fraction, Field(gt=0)] | None = Field(
        default=0.8, description="Share of a limit at which one warning a period is traced; null for none."
    )
    enforce: bool = Field(default=True, description="Whether a limit stops calls; otherwise it is only traced.")
    unpriced_request: Annotated[Number, Field(gt=0)] | None = Field(
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
    requests: Annotated[Whole, Field(ge=1)] | None = Field(default=None, description="Requests in a period.")
    tokens: Annotated[Whole, Field(ge=1)] | None = Field(default=None, description="Tokens in a period.")
    reset_schedule: Literal["monthly", "daily", "rolling"] = Field(
        default="monthly", description="When it is full again; rolling gives it back evenly over rolling_window."
    )
    rolling_window: PositiveDuration = Field(default=86_400.0, description="Length of a rolling period (duration).")
    timezone: Zone = Field(default="UTC", description="Where days and months begin.")

    @model_validator(mode="after")
    def _says_something(self) -> QuotaConfig:
        if self.free_tier and self.model_fields_set != {"free_tier"}:
            raise ValueError("free_tier takes the connector's own figures; remove it or the figures beside it")
        if not self.free_tier and self.requests is None and self.tokens is None:
            raise ValueError("a quota needs requests or tokens, or free_tier: true")
        return self


class RateLimitConfig(Section):
    """What a provider takes at a time; more goes to another model, or waits."""

    rpm: Annotated[Whole, Field(ge=1)] | None = Field(default=None, description="Requests a minute.")
    tpm: Annotated[Whole, Field(ge=1)] | None = Field(default=None, description="Tokens a minute.")
    burst: Annotated[Fraction, Field(gt=0)] = Field(
        default=0.1, description="Share of a minute's limit that may go out at once after a pause."
    )
    concurrency: Annotated[Whole, Field(ge=1)] | None = Field(
        default=None, description="Calls of this process that may run at once."
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
    max_items: Annotated[Whole, Field(ge=1)] | None = Field(default=None, description="Requests in one batch.")


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


class DeliveryConfig(Section):
    """How a model's answers can be had; None where the capability decides."""

    synchronous: bool = Field(default=True, description="Whole answers.")
    streaming: bool = Field(default=False, description="Answers in chunks.")
    batch: bool = Field(default=False, description="Answers to many requests, later.")


class BatchConfig(Section):
    """Limits of a model's batch delivery."""

    max_items: Annotated[Whole, Field(ge=1)] | None = Field(default=None, description="Requests in one batch.")
    max_payload: Size | None = Field(default=None, description="Size of one batch (size).")
    completion_window: PositiveDuration | None = Field(default=None, description="Until it is done (duration).")
    cost_discount: Fraction | None = Field(default=None, description="0.5 is half the price.")
    callback: bool | None = Field(default=None, description="No provider calls back yet: false, or left out.")
    polling: bool | None = Field(default=None, description="Providers are asked how far they are: true, or left out.")
    partial_results: bool | None = Field(
        default=None, description="Whether the provider has results before all are done; they are handed out if so."
    )

    @field_validator("callback", "polling")
    @classmethod
    def _is_what_happens(cls, value: bool | None, info: ValidationInfo) -> bool | None:
        if value not in (None, info.field_name == "polling"):
            raise ValueError(f"{REFUSAL}; get_batch asks the provider how far it is")
        return value


class ConstraintsConfig(Section):
    """A model's declared limits."""

    context_window: Annotated[Whole, Field(ge=1)] | None = Field(
        default=None, description="Tokens, input and output together."
    )
    max_output_tokens: Annotated[Whole, Field(ge=1)] | None = Field(default=None, description="Tokens of one answer.")
    max_images: Annotated[Whole, Field(ge=0)] | None = Field(default=None, description="Images in one request.")
    max_file_size: Size | None = Field(default=None, description="One file (size).")
    supported_languages: tuple[str, ...] | None = Field(default=None, description="Language codes.")


class PricingConfig(Section):
    """What a model costs, in USD."""

    input_per_1k_tokens: Annotated[Number, Field(ge=0)] = Field(default=0.0, description="USD per 1,000 input tokens.")
    output_per_1k_tokens: Annotated[Number, Field(ge=0)] = Field(
        default=0.0, description="USD per 1,000 output tokens."
    )
    per_request: Annotated[Number, Field(ge=0)] | None = Field(default=None, description="USD per request.")


if TYPE_CHECKING:
    Batch = bool | dict[str, Any]
    Delivery = dict[str, bool] | Literal["sync", "streaming"] | None
    Constraints = dict[str, Any]
else:
    _AS_IT_IS = PlainSerializer(lambda value: value)
    # Checked as models, kept as plain dicts of what was given: the engine hands them on to strategies as they are.
    Batch = bool | Annotated[BatchConfig, AfterValidator(_given), _AS_IT_IS]
    Delivery = Annotated[DeliveryConfig, AfterValidator(_given), _AS_IT_IS] | Literal["sync", "streaming"] | None
    Constraints = Annotated[ConstraintsConfig, AfterValidator(_given), _AS_IT_IS]


class ModelConfig(Section):
    """One model at one provider."""

    provider: Name = Field(description="Name of its entry under providers.")
    model: Name | None = Field(
        default=None, description="The provider's own name for it, when that differs from the entry's name."
    )
    capabilities: tuple[Name, ...] = Field(
        min_length=1, description="What work it does: leaf names or paths of the capability tree."
    )
    delivery: Delivery = Field(
        default=None,
        description="How answers can be had; without it the capability decides. streaming means whole answers too.",
    )
    batch: Batch = Field(default=False, description="Batch delivery: yes or no, or its limits.")
    features: dict[str, bool] = Field(
        default_factory=dict, description="What it supports, such as tool_calling, vision or json_mode."
    )
    constraints: Constraints = Field(default_factory=dict, description="Declared limits.")
    pricing: PricingConfig | None = Field(default=None, description="What it costs; None when not known.")


# --- pools ------------------------------------------------------------------------


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

    retry_limit: Annotated[Whole, Field(ge=1)] = Field(default=3, description="Consecutive counted failures.")
    error_rate_threshold: Fraction = Field(
        default=0.5, description="Share of failures among the last outcomes, 0.0 to 1.0."
    )
    error_rate_min_samples: Annotated[Whole, Field(ge=1)] = Field(
        default=10, description="Outcomes before the error rate means anything."
    )
    error_window: Annotated[Whole, Field(ge=1)] = Field(
        default=100, description="Outcomes the error rate is taken over."
    )
    error_codes: tuple[StatusCode, ...] = Field(
        default=(429, 500, 503),
        description="Statuses that count as failures; timeouts and broken connections count in any case.",
    )
    request_limit: Annotated[Whole, Field(ge=1)] | None = Field(default=None, description="Requests; none by default.")
    token_limit: Annotated[Whole, Field(ge=1)] | None = Field(default=None, description="Tokens; none by default.")
    budget_limit: Annotated[Number, Field(gt=0)] | None = Field(default=None, description="USD; none by default.")
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
        default=False, description="Ask each provider whether it is there before the first call."
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


class RetryBudgetConfig(Section):
    """How much retrying a pool may do at once, so that an outage is not amplified."""

    percent: Annotated[Number, Field(ge=0, le=100)] = Field(
        default=20.0, description="Share of the pool's active requests that may be retrying, in percent."
    )
    minimum: Annotated[Whole, Field(ge=0)] = Field(
        default=3, description="Retries that may run at once however few requests there are."
    )


class SelectorConfig(Section):
    """Choice of a pool's models by what they declare; all conditions must hold."""

    features: dict[str, bool] = Field(
        default_factory=dict, description="Features a model must have (true) or lack (false)."
    )
    min_context_window: Annotated[Whole, Field(ge=1)] | None = Field(
        default=None, description="Tokens the context window must hold; a model that does not say is left out."
    )
    providers: tuple[Name, ...] = Field(default=(), description="Providers to choose from; all by default.")

    @model_validator(mode="after")
    def _says_something(self) -> SelectorConfig:
        if not self.features and self.min_context_window is None and not self.providers:
            raise ValueError("an empty selector chooses nothing; give features, min_context_window or providers")
        return self


def _selector(value: object, check: ValidatorFunctionWrapHandler) -> object:
    return value if callable(value) else check(value)


if TYPE_CHECKING:
    Selector = SelectorConfig | Callable[..., bool | float] | None
else:
    Selector = Annotated[SelectorConfig | None, WrapValidator(_selector)]


ProviderTrigger = Literal["on_auth_failure", "on_api_outage"]


class PoolConfig(Section):
    """One capability pool; its name is the virtual model name callers use.

    Who belongs to it: every model with the capability, narrowed by ``models``, ``providers``, ``excluded_providers``
    and ``selector``, plus those named under ``include``. A pool whose name is no capability and that gives none is
    explicit: it holds exactly its ``models``, or what its ``selector`` finds among all models.
    """

    capability: Name | None = Field(
        default=None,
        description="Capability it serves, a name or a path of the tree; by default the pool's own name. A pool whose"
        " name is no capability and that gives none holds exactly its models (an explicit pool).",
    )
    models: tuple[Name, ...] = Field(
        default=(), description="Restricts the pool to these models and fixes their order; all by default."
    )
    include: tuple[Name, ...] = Field(
        default=(), description="Models that belong to the pool in addition, whatever they declare (a hybrid pool)."
    )
    selector: Selector = Field(
        default=None, description="Narrows the pool to models that declare these properties (a selector pool)."
    )
    providers: tuple[Name, ...] = Field(default=(), description="Only models of these providers; all by default.")
    excluded_providers: tuple[Name, ...] = Field(default=(), description="No models of these providers.")
    priority: Whole = Field(default=0, description="Which pool is asked first when several match; higher is first.")

    strategy: str = Field(
        default="modelmesh.stick-until-failure.v1",
        description="Selection strategy: ID or short name of an installed one, read back as the full ID; or a mapping"
        " of filter, score and pick, which is the composed strategy.",
    )
    fallback_strategy: str | None = Field(
        default=None,
        description="Strategy for when no preference is active, or error; for strategies that read it, which take"
        " round-robin when it is absent.",
    )
    strategy_settings: SkipJsonSchema[Any] = Field(default=None, repr=False, exclude=True)
    strategy_instance: Programmatic = None

    deactivation: DeactivationConfig = Field(
        default_factory=DeactivationConfig, description="When a model goes standby."
    )
    recovery: RecoveryConfig = Field(default_factory=RecoveryConfig, description="When it takes traffic again.")
    retry: RetryConfig = Field(default_factory=RetryConfig, description="Calling the same model again.")
    retry_budget: RetryBudgetConfig = Field(
        default_factory=RetryBudgetConfig, description="How much retrying there may be at once."
    )
    timeouts: TimeoutsConfig = Field(default_factory=TimeoutsConfig, description="The clocks of one attempt.")
    deadline: PositiveDuration | None = Field(
        default=600.0,
        description="The whole request over all attempts and waits (duration); null for none.",
    )
    max_attempts: Annotated[Whole, Field(ge=1)] | None = Field(
        default=None, description="Calls to providers per request, retries and rotations together; null for no cap."
    )
    max_cost: Annotated[Number, Field(gt=0)] | None = Field(
        default=None, description="USD per request that may be spent before another attempt starts; null for no cap."
    )
    on_stream_failure: Literal["error", "hold", "continue"] = Field(
        default="error",
        description="When a stream breaks after its first content: error raises with the partial text; hold keeps"
        " content back for hold_time so that an early break goes unseen; continue lets another model go on.",
    )
    hold_time: Duration = Field(default=2.0, description="How long hold keeps content back (duration).")
    provider_deactivation: Annotated[
        tuple[ProviderTrigger, ...],
        BeforeValidator(_as_list, json_schema_input_type=ProviderTrigger | tuple[ProviderTrigger, ...]),
    ] = Field(default=("on_auth_failure",), description="What puts all models of a provider standby; one or a list.")
    provider_recovery: Literal["on_probe_success", "on_manual"] = Field(
        default="on_probe_success", description="What brings such a provider back."
    )
    on_budget_exceeded: Literal["rotate", "error"] = Field(
        default="rotate",
        description="When a call would pass a budget: rotate goes to the next model, error tells the caller at once.",
    )


# --- the rest ---------------------------------------------------------------------


class RoutingConfig(Section):
    """How requests find their pool."""

    allow_model_names: bool = Field(
        default=True, description="A request may name a real model instead of a pool or capability."
    )


class OnStoreErrorConfig(Section):
    """What happens to limits while the state store does not answer.

    ``closed`` refuses calls under them, ``local`` keeps a share of each limit in this process, ``open`` lets calls
    through.
    """

    budget: Literal["local", "closed", "open"] = Field(default="closed", description="Limits on money.")
    quota: Literal["local", "closed", "open"] = Field(default="closed", description="Requests and tokens in a period.")
    rate_limit: Literal["local", "closed", "open"] = Field(default="local", description="Requests and tokens a minute.")


class LockingConfig(Section):
    """A lock around each write of the state."""

    enabled: bool = Field(default=True, description="Whether it is taken.")
    timeout: PositiveDuration = Field(default=30.0, description="How long to wait for it (duration).")
    retry_interval: PositiveDuration = Field(default=1.0, description="Between two looks (duration).")


class StorageConfig(Section):
    """Where state is kept; every key not listed here belongs to the state store's own settings."""

    connector: str = Field(
        default="modelmesh.memory.v1", description="State store: ID or short name. Read back as the full ID."
    )
    sync_policy: Literal["in-memory", "sync-on-boundary", "periodic", "immediate"] | None = Field(
        default=None,
        description="When state is written: never, at start and end, in intervals besides, or with each change. By"
        " default sync-on-boundary for stores that survive a restart.",
    )
    sync_interval: PositiveDuration = Field(default=300.0, description="Between two writes, under periodic (duration).")
    format: StateFormat = Field(
        default="json",
        description="What the state is written in; whatever it was written in is read. msgpack needs the extra of its"
        " name.",
    )
    compression: bool = Field(default=False, description="Compress the state that is written, with gzip.")
    locking: LockingConfig = Field(
        default_factory=LockingConfig, description="How processes that share the store keep from writing at once."
    )
    call_timeout: PositiveDuration = Field(
        default=0.2, description="What a request may wait for a shared store (duration)."
    )
    on_store_error: OnStoreErrorConfig = Field(
        default_factory=OnStoreErrorConfig, description="What happens to limits while the store does not answer."
    )
    lease_share: Fraction = Field(
        default=0.0,
        description="Part of each budget and quota that a process takes from a shared store at a time, to grant from"
        " without asking again; 0 asks for each request.",
    )
    processes: Annotated[Whole, Field(ge=1)] = Field(
        default=1, description="Processes that share the store: each keeps that part of a local limit meanwhile."
    )
    settings: SkipJsonSchema[Any] = Field(default=None, repr=False, exclude=True)

    @field_validator("format")
    @classmethod
    def _can_be_written(cls, value: str) -> str:
        if value == "msgpack" and not has_msgpack():
            raise ValueError(NEEDS_MSGPACK)
        return value


class ObservabilityTarget(Section):
    """One connector that reports go to.

    Attributes:
        connector: Its full ID, or its class's name when it was passed in ready-made.
        settings: An instance of its own settings model, or None.
        instance: The connector itself, when it was passed in.
    """

    connector: str
    settings: Any = Field(default=None, repr=False, exclude=True)
    instance: Any = Field(default=None, repr=False, exclude=True)

    def is_same(self, other: ObservabilityTarget) -> bool:
        """Whether one connector can serve both: the same object, or the same ID with equal settings."""
        if self.instance is not None or other.instance is not None:
            return self.instance is other.instance
        return self.connector == other.connector and bool(self.settings == other.settings)


class ObservedSection(Section):
    """A part of observability that may name connectors of its own; ``target`` is None when it does not.

    ``more`` are those after the first.
    """

    target: SkipJsonSchema[ObservabilityTarget | None] = Field(default=None, repr=False, exclude=True)
    more: SkipJsonSchema[tuple[ObservabilityTarget, ...]] = Field(default=(), repr=False, exclude=True)

    def connectors(self) -> tuple[ObservabilityTarget, ...]:
        """The connectors this part names itself."""
        return () if self.target is None else (self.target, *self.more)


class RoutingEventsConfig(ObservedSection):
    """Where routing events go."""


class EventsConfig(Section):
    """Which routing events are sent."""

    filter: tuple[str, ...] = Field(
        default=(),
        description="Event types, or the groups rotation, deactivation, recovery and health; all when empty.",
    )
    include_metadata: bool = Field(default=True, description="Whether events carry their metadata.")


class LoggingConfig(ObservedSection):
    """The log of requests."""

    level: Literal["metadata", "summary", "full"] = Field(
        default="metadata", description="metadata: no payloads; summary: shortened payloads; full: whole payloads."
    )
    redact_secrets: bool = Field(default=True, description="Replace keys and tokens in payloads.")
    max_payload_size: Size | None = Field(
        default=None, description="Longest payload (size); summary takes 1KB when it is absent, full no limit."
    )


class StatisticsConfig(ObservedSection):
    """Aggregate figures."""

    flush_interval: PositiveDuration = Field(
        default=60.0, description="How often what accrued goes to the connector (duration)."
    )
    retention: PositiveDuration = Field(default=7 * 86400.0, description="How far back queries reach (duration).")
    scopes: tuple[Literal["model", "provider", "pool"], ...] = Field(
        default=("model", "provider", "pool"), min_length=1, description="What figures are kept for."
    )


class TracingConfig(ObservedSection):
    """Diagnostic messages."""

    min_severity: Literal["debug", "info", "warning", "error", "critical"] = Field(
        default="info", description="Messages below are dropped."
    )


class ObservabilityConfig(Section):
    """What is reported, and where to.

    ``target``, and ``more`` after it, are the connectors of every part that names none of its own.
    """

    target: SkipJsonSchema[ObservabilityTarget | None] = Field(default=None, repr=False, exclude=True)
    more: SkipJsonSchema[tuple[ObservabilityTarget, ...]] = Field(default=(), repr=False, exclude=True)
    routing: RoutingEventsConfig = Field(default_factory=RoutingEventsConfig, description="Where routing events go.")
    events: EventsConfig = Field(default_factory=EventsConfig, description="Which routing events are sent.")
    logging: LoggingConfig = Field(default_factory=LoggingConfig, description="The log of requests.")
    statistics: StatisticsConfig = Field(default_factory=StatisticsConfig, description="Aggregate figures.")
    tracing: TracingConfig = Field(default_factory=TracingConfig, description="Diagnostic messages.")

    def targets(self) -> Iterator[tuple[str, ObservabilityTarget]]:
        """Yield each part with each connector it goes to; tracing only when it names its own."""
        for name, section in (("events", self.routing), ("logging", self.logging), ("statistics", self.statistics)):
            own = section.connectors()
            if not own and self.target is not None:
                own = (self.target, *self.more)
            for target in own:
                yield name, target
        for target in self.tracing.connectors():
            yield "tracing", target


class ProxyAuthConfig(Section):
    """Who may call the HTTP server."""

    enabled: bool | None = Field(default=None, description="Ask for a token; implied by tokens.")
    method: Literal["bearer"] = Field(default="bearer", description="How the token is sent.")
    tokens: tuple[SecretStr, ...] = Field(
        default=(), repr=False, description="Accepted tokens; write them as ${secrets:NAME}."
    )

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> ProxyAuthConfig:
        if self.enabled and not self.tokens:
            raise ValueError("enabled without tokens would let nobody in; give at least one token")
        if any(not token.get_secret_value().strip() for token in self.tokens):
            raise ValueError("an empty token would let anybody in; remove it")
        return self

    @property
    def is_required(self) -> bool:
        """Whether a request needs a token."""
        return bool(self.tokens) if self.enabled is None else self.enabled


class CorsConfig(Section):
    """Which web pages may call the HTTP server."""

    enabled: bool = Field(default=True, description="Answer browsers' cross-origin questions.")
    origins: tuple[str, ...] = Field(default=("*",), description="Origins that may call; * for any.")


class ProxyConfig(Section):
    """The OpenAI-compatible HTTP server (``modelmesh serve``)."""

    host: Name = Field(
        default="127.0.0.1", description="Address to listen on; one that is not loopback needs auth.tokens."
    )
    port: Annotated[Whole, Field(ge=0, le=65535)] = Field(default=8080, description="Port; 0 for any free one.")
    endpoints: tuple[str, ...] = Field(default=(), description="Paths to serve; all when empty.")
    auth: ProxyAuthConfig = Field(default_factory=ProxyAuthConfig, description="Who may call.")
    cors: CorsConfig = Field(default_factory=CorsConfig, description="Which web pages may call.")


class Configuration(Section):
    """A whole configuration, checked: what `modelmesh.config.load_config` returns."""

    capabilities: dict[str, tuple[Name, ...]] = Field(
        default_factory=dict,
        description="Additions to the capability tree: a parent and its children; the empty parent adds categories.",
    )
    secrets: SecretsConfig = Field(default_factory=SecretsConfig, description="Where secrets come from.")
    providers: dict[str, ProviderConfig] = Field(default_factory=dict, description="Providers by name.")
    models: dict[str, ModelConfig] = Field(default_factory=dict, description="Models by name.")
    pools: dict[str, PoolConfig] = Field(default_factory=dict, description="Capability pools by name.")
    routing: RoutingConfig = Field(default_factory=RoutingConfig, description="How requests find their pool.")
    storage: StorageConfig | None = Field(default=None, description="Where state is kept; in memory without it.")
    observability: ObservabilityConfig | None = Field(default=None, description="What is reported; nothing without it.")
    proxy: ProxyConfig = Field(default_factory=ProxyConfig, description="The HTTP server.")

    resolver: SkipJsonSchema[Any] = Field(default=None, repr=False, exclude=True)

    def missing_secrets(self) -> tuple[str, ...]:
        """Return the names of the secrets that have no value and, as ``fail_on_missing`` is off, became empty text."""
        return () if self.resolver is None else tuple(self.resolver.missing)

    def known_secrets(self) -> frozenset[str]:
        """Return every secret value this configuration holds, so that redaction can find them."""
        values = set(_secret_values(self._with_secrets()))
        if self.resolver is not None:
            values.update(self.resolver.known_values())
        return frozenset(value for value in values if value)

    def _with_secrets(self) -> Iterator[object]:
        yield self.proxy.auth.tokens
        for provider in self.providers.values():
            yield provider.settings
        for pool in self.pools.values():
            yield pool.strategy_settings
        if self.storage is not None:
            yield self.storage.settings
        if self.observability is not None:
            yield from (target.settings for _, target in self.observability.targets())


def _secret_values(value: object) -> Iterator[str]:
    if isinstance(value, SecretStr):
        yield value.get_secret_value()
    elif isinstance(value, SecretBytes):
        yield value.get_secret_value().decode("utf-8", "replace")
    elif isinstance(value, BaseModel):
        for _, inner in value:
            yield from _secret_values(inner)
    elif isinstance(value, dict):
        yield from _secret_values(value.values())
    elif isinstance(value, Iterable) and not isinstance(value, str | bytes):
        for inner in value:
            yield from _secret_values(inner)
