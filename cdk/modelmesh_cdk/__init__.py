"""Connector development kit: inherit a base class, write one method, publish one entry point.

Names are imported when they are first used, so that a strategy does not load an HTTP client.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modelmesh_cdk.callback import CallbackConfig, CallbackObservability
    from modelmesh_cdk.console import ConsoleConfig, ConsoleObservability
    from modelmesh_cdk.file import FileConfig, FileObservability
    from modelmesh_cdk.http import Http, HttpReply, HttpStream
    from modelmesh_cdk.log_file import LogFile
    from modelmesh_cdk.observability import BaseObservability, BaseObservabilityConfig
    from modelmesh_cdk.openai_compatible import OpenAICompatibleConfig, OpenAICompatibleProvider
    from modelmesh_cdk.ordering import OrderedStrategy
    from modelmesh_cdk.preference import Preferences
    from modelmesh_cdk.provider import BaseProvider, BaseProviderConfig
    from modelmesh_cdk.sse import ServerSentEvent, SSEParser
    from modelmesh_cdk.state_store import BaseStateStore
    from modelmesh_cdk.strategy import BaseStrategy, SequentialStrategy

_HOMES: dict[str, str] = {
    "BaseObservability": "observability",
    "BaseObservabilityConfig": "observability",
    "BaseProvider": "provider",
    "BaseProviderConfig": "provider",
    "BaseStateStore": "state_store",
    "BaseStrategy": "strategy",
    "CallbackConfig": "callback",
    "CallbackObservability": "callback",
    "ConsoleConfig": "console",
    "ConsoleObservability": "console",
    "FileConfig": "file",
    "FileObservability": "file",
    "Http": "http",
    "HttpReply": "http",
    "HttpStream": "http",
    "LogFile": "log_file",
    "OpenAICompatibleConfig": "openai_compatible",
    "OpenAICompatibleProvider": "openai_compatible",
    "OrderedStrategy": "ordering",
    "Preferences": "preference",
    "SSEParser": "sse",
    "SequentialStrategy": "strategy",
    "ServerSentEvent": "sse",
}

__all__ = [
    "BaseObservability",
    "BaseObservabilityConfig",
    "BaseProvider",
    "BaseProviderConfig",
    "BaseStateStore",
    "BaseStrategy",
    "CallbackConfig",
    "CallbackObservability",
    "ConsoleConfig",
    "ConsoleObservability",
    "FileConfig",
    "FileObservability",
    "Http",
    "HttpReply",
    "HttpStream",
    "LogFile",
    "OpenAICompatibleConfig",
    "OpenAICompatibleProvider",
    "OrderedStrategy",
    "Preferences",
    "SSEParser",
    "SequentialStrategy",
    "ServerSentEvent",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'modelmesh_cdk' has no attribute {name!r}")
    value = getattr(import_module(f"modelmesh_cdk.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
