"""Testing kit for connectors and for applications: fakes that serve, and contracts every connector must pass.

Names are imported when they are first used. ``faults`` is the module of what a `FaultServer` can be told to do; the
contracts are the only part that imports pytest.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modelmesh_cdk.testing.clock import FakeClock, FakeRandom, context
    from modelmesh_cdk.testing.scripted import ScriptedProvider, answer, fail, hang, pieces

_HOMES: dict[str, str] = {
    "FakeClock": "clock",
    "FakeRandom": "clock",
    "ScriptedProvider": "scripted",
    "answer": "scripted",
    "context": "clock",
    "fail": "scripted",
    "hang": "scripted",
    "pieces": "scripted",
}

__all__ = [
    "FakeClock",
    "FakeRandom",
    "ScriptedProvider",
    "answer",
    "context",
    "fail",
    "hang",
    "pieces",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'modelmesh_cdk.testing' has no attribute {name!r}")
    value = getattr(import_module(f"modelmesh_cdk.testing.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
