"""The section of a model: what it does, how its answers can be had, where its limits are and what it costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field, PlainSerializer, ValidationInfo, field_validator

from modelmesh.config.durations import PositiveDuration, Size
from modelmesh.config.not_yet import REFUSAL
from modelmesh.config.section import Count, Fraction, Name, Price, Section, Whole


class DeliveryConfig(Section):
    """How a model's answers can be had; None where the capability decides."""

    synchronous: bool = Field(default=True, description="Whole answers.")
    streaming: bool = Field(default=False, description="Answers in chunks.")
    batch: bool = Field(default=False, description="Answers to many requests, later.")


class BatchConfig(Section):
    """Limits of a model's batch delivery."""

    max_items: Count | None = Field(default=None, description="Requests in one batch.")
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

    context_window: Count | None = Field(default=None, description="Tokens, input and output together.")
    max_output_tokens: Count | None = Field(default=None, description="Tokens of one answer.")
    max_images: Annotated[Whole, Field(ge=0)] | None = Field(default=None, description="Images in one request.")
    max_file_size: Size | None = Field(default=None, description="One file (size).")
    supported_languages: tuple[str, ...] | None = Field(default=None, description="Language codes.")


class PricingConfig(Section):
    """What a model costs, in USD."""

    input_per_1k_tokens: Price = Field(default=0.0, description="USD per 1,000 input tokens.")
    output_per_1k_tokens: Price = Field(default=0.0, description="USD per 1,000 output tokens.")
    per_request: Price | None = Field(default=None, description="USD per request.")


def _given(section: BaseModel) -> dict[str, Any]:
    return section.model_dump(exclude_unset=True)


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
