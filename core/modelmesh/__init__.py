"""ModelMesh routes AI requests by capability over many providers.

>>> import modelmesh
>>> with modelmesh.create(config="mesh.yaml") as client:  # doctest: +SKIP
...     client.chat.completions.create(model="chat-completion", messages=[...])

Everything public can be imported from here; each name's module is imported when the name is first used, so that
``import modelmesh`` itself loads next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modelmesh._engine.model import Model, ModelDefinition
    from modelmesh._engine.pipeline import PipelineContext, PipelineRequest, PipelineStage, RoutingPipeline
    from modelmesh._engine.pool import CapabilityPool, PoolState
    from modelmesh._engine.registry import ModelRegistry
    from modelmesh.capabilities import CapabilityTree
    from modelmesh.client import AsyncOpenAIClient, OpenAIClient, create, create_async
    from modelmesh.config import MeshConfig
    from modelmesh.errors import (
        AllProvidersExhaustedError,
        AuthenticationError,
        BudgetExceededError,
        CapabilityNotFoundError,
        ConfigurationError,
        ContentFilterError,
        ContextLengthError,
        CreateArgumentError,
        DeadlineExceededError,
        InvalidRequestError,
        MalformedResponseError,
        ModelMeshError,
        NoActiveModelError,
        NoProvidersError,
        PluginError,
        ProviderConnectionError,
        ProviderError,
        ProviderServerError,
        ProviderTimeoutError,
        QuotaExhaustedError,
        RateLimitError,
        RoutingError,
        SecretNotFoundError,
        SessionModelUnavailableError,
        StateStoreError,
        StreamInterruptedError,
        UnknownConnectorError,
        UnsupportedRequestError,
        UsageError,
    )
    from modelmesh.hookspecs import hookimpl
    from modelmesh.mesh import ModelMesh
    from modelmesh.middleware import Middleware, MiddlewareContext, MiddlewareStack, ShortCircuit
    from modelmesh.plugins import PluginHost
    from modelmesh.router import (
        BatchJob,
        CompletionRequest,
        CompletionResponse,
        Router,
        RoutingDecision,
        RoutingOptions,
    )
    from modelmesh.state import ModelState, ProviderState
    from modelmesh.statistics import AggregateStats, RequestMetrics, StatisticsCollector, StatsScope

_HOMES: dict[str, str] = {
    **dict.fromkeys(("Model", "ModelDefinition"), "_engine.model"),
    **dict.fromkeys(("PipelineContext", "PipelineRequest", "PipelineStage", "RoutingPipeline"), "_engine.pipeline"),
    **dict.fromkeys(("CapabilityPool", "PoolState"), "_engine.pool"),
    "ModelRegistry": "_engine.registry",
    "CapabilityTree": "capabilities",
    **dict.fromkeys(("AsyncOpenAIClient", "OpenAIClient", "create", "create_async"), "client"),
    "MeshConfig": "config",
    **dict.fromkeys(
        (
            "AllProvidersExhaustedError",
            "AuthenticationError",
            "BudgetExceededError",
            "CapabilityNotFoundError",
            "ConfigurationError",
            "ContentFilterError",
            "ContextLengthError",
            "CreateArgumentError",
            "DeadlineExceededError",
            "InvalidRequestError",
            "MalformedResponseError",
            "ModelMeshError",
            "NoActiveModelError",
            "NoProvidersError",
            "PluginError",
            "ProviderConnectionError",
            "ProviderError",
            "ProviderServerError",
            "ProviderTimeoutError",
            "QuotaExhaustedError",
            "RateLimitError",
            "RoutingError",
            "SecretNotFoundError",
            "SessionModelUnavailableError",
            "StateStoreError",
            "StreamInterruptedError",
            "UnknownConnectorError",
            "UnsupportedRequestError",
            "UsageError",
        ),
        "errors",
    ),
    "hookimpl": "hookspecs",
    "ModelMesh": "mesh",
    **dict.fromkeys(("Middleware", "MiddlewareContext", "MiddlewareStack", "ShortCircuit"), "middleware"),
    "PluginHost": "plugins",
    **dict.fromkeys(
        ("BatchJob", "CompletionRequest", "CompletionResponse", "Router", "RoutingDecision", "RoutingOptions"), "router"
    ),
    **dict.fromkeys(("ModelState", "ProviderState"), "state"),
    **dict.fromkeys(("AggregateStats", "RequestMetrics", "StatisticsCollector", "StatsScope"), "statistics"),
}

__all__ = [
    "AggregateStats",
    "AllProvidersExhaustedError",
    "AsyncOpenAIClient",
    "AuthenticationError",
    "BatchJob",
    "BudgetExceededError",
    "CapabilityNotFoundError",
    "CapabilityPool",
    "CapabilityTree",
    "CompletionRequest",
    "CompletionResponse",
    "ConfigurationError",
    "ContentFilterError",
    "ContextLengthError",
    "CreateArgumentError",
    "DeadlineExceededError",
    "InvalidRequestError",
    "MalformedResponseError",
    "MeshConfig",
    "Middleware",
    "MiddlewareContext",
    "MiddlewareStack",
    "Model",
    "ModelDefinition",
    "ModelMesh",
    "ModelMeshError",
    "ModelRegistry",
    "ModelState",
    "NoActiveModelError",
    "NoProvidersError",
    "OpenAIClient",
    "PipelineContext",
    "PipelineRequest",
    "PipelineStage",
    "PluginError",
    "PluginHost",
    "PoolState",
    "ProviderConnectionError",
    "ProviderError",
    "ProviderServerError",
    "ProviderState",
    "ProviderTimeoutError",
    "QuotaExhaustedError",
    "RateLimitError",
    "RequestMetrics",
    "Router",
    "RoutingDecision",
    "RoutingError",
    "RoutingOptions",
    "RoutingPipeline",
    "SecretNotFoundError",
    "SessionModelUnavailableError",
    "ShortCircuit",
    "StateStoreError",
    "StatisticsCollector",
    "StatsScope",
    "StreamInterruptedError",
    "UnknownConnectorError",
    "UnsupportedRequestError",
    "UsageError",
    "create",
    "create_async",
    "hookimpl",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        import importlib_metadata

        return importlib_metadata.version("modelmesh-router")
    if name not in _HOMES:
        raise AttributeError(f"module 'modelmesh' has no attribute {name!r}")
    value = getattr(import_module(f"modelmesh.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
