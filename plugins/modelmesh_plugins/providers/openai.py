"""OpenAI (https://platform.openai.com/docs/api-reference)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field, SecretStr

from modelmesh.interfaces.provider import ModelInfo, ModelPricing
from modelmesh_cdk.openai_compatible import OpenAICompatibleConfig, OpenAICompatibleProvider
from modelmesh_cdk.provider import CHAT, BaseProviderConfig

_FEATURES = {"tool_calling": True, "structured_output": True, "json_mode": True, "system_prompt": True, "vision": True}


def _chat(name: str, context_window: int, max_output_tokens: int, price_in: float, price_out: float) -> ModelInfo:
    return ModelInfo(
        name,
        name,
        (CHAT,),
        context_window,
        max_output_tokens,
        ModelPricing(price_in, price_out),
        _FEATURES,
    )


class OpenAIConfig(OpenAICompatibleConfig):
    """Settings of an ``openai.llm.v1`` provider."""

    base_url: str = Field(default="https://api.openai.com/v1", description="Another endpoint with the same API.")
    api_key: SecretStr = Field(description="Sent as a bearer token; write it as ${secrets:OPENAI_API_KEY}.")


class OpenAIProvider(OpenAICompatibleProvider[OpenAIConfig]):
    """OpenAI's models over its HTTP API."""

    config_model: ClassVar[type[BaseProviderConfig]] = OpenAIConfig
    environment_variables = ("OPENAI_API_KEY",)
    # Prices in USD per 1,000 tokens, from the provider catalogue of this project as of 2026-11-21.
    known_models: ClassVar[Mapping[str, ModelInfo]] = {
        info.id: info
        for info in (
            _chat("gpt-4o-mini", 128_000, 16_384, 0.00015, 0.0006),
            _chat("gpt-4o", 128_000, 16_384, 0.0025, 0.01),
            _chat("gpt-4-turbo", 128_000, 4_096, 0.01, 0.03),
        )
    }
