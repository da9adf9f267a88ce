"""The section of a pool: which models belong to it, which strategy chooses, and how far a request may go."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidatorFunctionWrapHandler, WrapValidator, model_validator
from pydantic.json_schema import SkipJsonSchema

from modelmesh.config.durations import Duration, PositiveDuration
from modelmesh.config.retry import RetryBudgetConfig, RetryConfig, TimeoutsConfig
from modelmesh.config.rotation import DeactivationConfig, RecoveryConfig
from modelmesh.config.section import Count, Money, Name, Programmatic, Section, Whole


class SelectorConfig(Section):
    """Choice of a pool's models by what they declare; all conditions must hold."""

    features: dict[str, bool] = Field(
        default_factory=dict, description="Features a model must have (true) or lack (false)."
    )
    min_context_window: Count | None = Field(
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


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


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
    max_attempts: Count | None = Field(
        default=None, description="Calls to providers per request, retries and rotations together; null for no cap."
    )
    max_cost: Money | None = Field(
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
