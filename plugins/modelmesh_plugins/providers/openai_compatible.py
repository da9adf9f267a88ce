"""Any API that speaks OpenAI's language, by configuration alone."""

from __future__ import annotations

from modelmesh_cdk.openai_compatible import OpenAICompatibleConfig, OpenAICompatibleProvider


class GenericOpenAIProvider(OpenAICompatibleProvider[OpenAICompatibleConfig]):
    """Any server with OpenAI's chat API: give it ``base_url``, a key if it wants one, and name its models."""
