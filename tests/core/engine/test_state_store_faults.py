"""A state store with a mistake of its own: told by name at the start, and no mesh fails to end for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from modelmesh import ModelMesh, PluginHost
from modelmesh.errors import PluginError, StateStoreError
from modelmesh.interfaces.state_store import StoreGuarantees
from modelmesh_cdk.testing import FakeClock, ScriptedProvider
from modelmesh_plugins.state_stores.memory import MemoryStateStore

Start = Callable[[type[MemoryStateStore]], ModelMesh]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start meshes over a store of this class; they are shut down when the test is over."""
    built: list[ModelMesh] = []

    def make(kind: type[MemoryStateStore]) -> ModelMesh:
        plugins = PluginHost()
        plugins.register("state_stores", "test.kept.v1", kind)
        mesh = ModelMesh(clock=FakeClock(), plugins=plugins, environ={})
        built.append(mesh)
        mesh.initialize(
            {
                "providers": {"a": {"instance": ScriptedProvider()}},
                "models": {"a": {"provider": "a", "capabilities": ["chat-completion"]}},
                "pools": {"chat": {"capability": "chat-completion"}},
                "storage": {"connector": "test.kept.v1"},
            }
        )
        return mesh

    yield make
    for mesh in built:
        mesh.shutdown()


class Faulty(MemoryStateStore):
    """One whose author forgot to turn what a library raises into a `StateStoreError`."""

    guarantees = StoreGuarantees(survives_restart=True, shared_between_processes=False)
    faults: tuple[str, ...] = ()

    async def _load(self, key: str) -> Any:
        if "load" in self.faults:
            raise RuntimeError("no table for password=hunter2222")
        return await super()._load(key)

    async def _save(self, key: str, data: bytes, expected_version: int | None) -> Any:
        if "save" in self.faults:
            raise RuntimeError("no table")
        return await super()._save(key, data, expected_version)


def test_a_store_that_raises_anything_at_the_start_is_named(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """With class, place and words, without a password; and the mesh is shut down."""
    monkeypatch.setattr(Faulty, "faults", ("load",))

    with pytest.raises(StateStoreError) as caught:
        start(Faulty)

    said = caught.value.message
    assert said.startswith(f"reading the state from state store {__name__}.Faulty raised RuntimeError at ")
    assert "test_state_store_faults.py:" in said
    assert said.endswith(" in _load: no table for password=***REDACTED***")
    assert isinstance(caught.value.__cause__, RuntimeError)


@pytest.mark.parametrize("faults", [("save",), ("load", "save")], ids=["save", "both"])
def test_a_store_that_raises_anything_at_the_end_keeps_no_mesh_from_ending(
    start: Start, monkeypatch: pytest.MonkeyPatch, faults: tuple[str, ...]
) -> None:
    """What could not be written is traced, by name."""
    mesh = start(Faulty)
    closed: list[str] = []
    provider = mesh._graph.providers["a"].connector  # type: ignore[union-attr]  # the mesh has begun

    async def close() -> None:
        closed.append("a")

    monkeypatch.setattr(provider, "close", close)
    monkeypatch.setattr(Faulty, "faults", faults)
    manager = mesh._graph.state_manager  # type: ignore[union-attr]  # likewise

    assert manager is not None
    assert not asyncio.run(manager.save())
    mesh.shutdown()

    assert closed == ["a"]


class Silent(MemoryStateStore):
    """One whose author forgot to say what it promises."""

    guarantees = None  # type: ignore[assignment]  # the mistake


def test_a_store_that_promises_nothing_is_refused_with_what_is_missing(start: Start) -> None:
    """At once, and with what documents it."""
    with pytest.raises(PluginError) as caught:
        start(Silent)

    said = caught.value.message
    assert said.startswith(f"cannot use state store 'test.kept.v1'\n  reason: {__name__}.Silent does not say what")
    assert "set guarantees = StoreGuarantees(" in said
    assert "modelmesh_cdk.BaseStateStore" in said
