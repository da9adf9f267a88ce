"""Testing kit for connectors and for applications: fakes that serve, and contracts every connector must pass.

Names are imported when they are first used. ``faults`` is the module of what a `FaultServer` can be told to do; the
contracts are the only part that imports pytest.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modelmesh_cdk.testing import faults
    from modelmesh_cdk.testing.callbacks import timed_callbacks
    from modelmesh_cdk.testing.clock import FakeClock, FakeRandom, context
    from modelmesh_cdk.testing.contracts.batches import BatchContract
    from modelmesh_cdk.testing.contracts.observability import ObservabilityContract
    from modelmesh_cdk.testing.contracts.openai_provider import OpenAIProviderContract
    from modelmesh_cdk.testing.contracts.provider import ProviderContract
    from modelmesh_cdk.testing.contracts.state_store import StateStoreContract
    from modelmesh_cdk.testing.contracts.strategy import StrategyContract
    from modelmesh_cdk.testing.fault_server import FaultServer, refused_url
    from modelmesh_cdk.testing.faults import RecordedRequest
    from modelmesh_cdk.testing.scripted import ScriptedProvider, answer, fail, hang, pieces
    from modelmesh_cdk.testing.scripted_batches import ScriptedBatchProvider
    from modelmesh_cdk.testing.waiting import until, wait_until

_HOMES: dict[str, str] = {
    "BatchContract": "contracts.batches",
    "FakeClock": "clock",
    "FakeRandom": "clock",
    "FaultServer": "fault_server",
    "ObservabilityContract": "contracts.observability",
    "OpenAIProviderContract": "contracts.openai_provider",
    "ProviderContract": "contracts.provider",
    "RecordedRequest": "faults",
    "ScriptedBatchProvider": "scripted_batches",
    "ScriptedProvider": "scripted",
    "StateStoreContract": "contracts.state_store",
    "StrategyContract": "contracts.strategy",
    "answer": "scripted",
    "context": "clock",
    "fail": "scripted",
    "hang": "scripted",
    "pieces": "scripted",
    "refused_url": "fault_server",
    "timed_callbacks": "callbacks",
    "until": "waiting",
    "wait_until": "waiting",
}

__all__ = [
    "BatchContract",
    "FakeClock",
    "FakeRandom",
    "FaultServer",
    "ObservabilityContract",
    "OpenAIProviderContract",
    "ProviderContract",
    "RecordedRequest",
    "ScriptedBatchProvider",
    "ScriptedProvider",
    "StateStoreContract",
    "StrategyContract",
    "answer",
    "context",
    "fail",
    "faults",
    "hang",
    "pieces",
    "refused_url",
    "timed_callbacks",
    "until",
    "wait_until",
]


def __getattr__(name: str) -> Any:
    if name == "faults":
        return import_module("modelmesh_cdk.testing.faults")
    if name not in _HOMES:
        raise AttributeError(f"module 'modelmesh_cdk.testing' has no attribute {name!r}")
    value = getattr(import_module(f"modelmesh_cdk.testing.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
