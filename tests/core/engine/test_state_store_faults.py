"""A state store with a mistake of its own: told by name, and neither an answer nor the mesh's end is lost to it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from modelmesh import ModelMesh, PluginHost
from modelmesh._engine.guarded_ledger import BACK, GONE
from modelmesh.errors import AllProvidersExhaustedError, PluginError, StateStoreError
from modelmesh.interfaces.ledger import Verdict
from modelmesh.interfaces.state_store import StoreGuarantees
from modelmesh.router import CompletionRequest
from modelmesh_cdk.testing import FakeClock, ScriptedProvider
from modelmesh_plugins.state_stores.memory import MemoryStateStore

Start = Callable[..., ModelMesh]


@pytest.fixture
def start(sink: Any) -> Iterator[Start]:
    """Start meshes over a store of this class, limited; they are shut down when the test is over."""
    built: list[ModelMesh] = []

    def make(kind: type[MemoryStateStore], **storage: Any) -> ModelMesh:
        plugins = PluginHost()
        plugins.register("state_stores", "test.kept.v1", kind)
        mesh = ModelMesh(clock=FakeClock(), plugins=plugins, environ={})
        built.append(mesh)
        mesh.initialize(
            {
                "providers": {"a": {"instance": ScriptedProvider(), "quota": {"requests": 9}}},
                "models": {"a": {"provider": "a", "capabilities": ["chat-completion"]}},
                "pools": {"chat": {"capability": "chat-completion"}},
                "storage": {"connector": "test.kept.v1", **storage},
                "observability": {"instance": sink},
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

    async def _reserve(self, *args: Any) -> Any:
        if "reserve" in self.faults:
            raise RuntimeError("no table for password=hunter2222")
        if "account" in self.faults:
            return Verdict(False)
        return None if "verdict" in self.faults else await super()._reserve(*args)

    async def _settle(self, *args: Any) -> Any:
        if "settle" in self.faults:
            raise RuntimeError("no table")
        return await super()._settle(*args)

    async def _balances(self, *args: Any) -> Any:
        if "books" in self.faults:
            raise RuntimeError("no table for password=hunter2222")
        return None if "balances" in self.faults else await super()._balances(*args)


class Shared(Faulty):
    """One that processes share."""

    guarantees = StoreGuarantees(survives_restart=False, shared_between_processes=True)


def ask(mesh: ModelMesh) -> str:
    """Ask; return the ID of the model that answered."""
    request = CompletionRequest([{"role": "user", "content": "hi"}])
    return asyncio.run(mesh.get_router().acomplete("chat", request)).model


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


@pytest.mark.parametrize("kind", [Faulty, Shared], ids=["own", "shared"])
@pytest.mark.parametrize("fault", ["reserve", "verdict", "account"])
def test_limits_whose_store_raises_anything_are_kept_as_configured(
    start: Start, monkeypatch: pytest.MonkeyPatch, kind: type[Faulty], fault: str
) -> None:
    """A claim that was answered otherwise than agreed was not answered; whoever asks is told nothing of the store."""
    monkeypatch.setattr(kind, "faults", (fault,))

    with pytest.raises(AllProvidersExhaustedError, match=r"the state store does not answer$") as caught:
        ask(start(kind))
    assert "hunter2222" not in str(caught.value)

    assert ask(start(kind, on_store_error={"quota": "open"})) == "a"


@pytest.mark.parametrize("kind", [Faulty, Shared], ids=["own", "shared"])
@pytest.mark.parametrize("fault", ["settle", "balances"])
def test_an_answer_is_there_whatever_the_store_raises_when_it_is_booked(
    start: Start, monkeypatch: pytest.MonkeyPatch, kind: type[Faulty], fault: str
) -> None:
    """It is paid for: the books are no reason to throw it away."""
    monkeypatch.setattr(kind, "faults", (fault,))

    assert ask(start(kind)) == "a"


@pytest.mark.parametrize("kind", [Faulty, Shared], ids=["own", "shared"])
def test_what_is_wrong_with_a_store_is_traced_once_and_its_return_as_well(
    start: Start, monkeypatch: pytest.MonkeyPatch, sink: Any, kind: type[Faulty]
) -> None:
    """Whoever runs the mesh learns from it what to mend."""
    mesh = start(kind, on_store_error={"quota": "open"}, sync_policy="in-memory")
    monkeypatch.setattr(kind, "faults", ("reserve",))
    ask(mesh)
    ask(mesh)
    monkeypatch.setattr(kind, "faults", ())
    mesh._clock.advance(1.0)  # type: ignore[attr-defined]  # a fake one
    ask(mesh)
    mesh.shutdown()

    said = [(entry.message, entry.error) for entry in sink.traces if entry.component == "storage"]
    assert [message for message, _ in said] == [GONE, BACK]
    assert (said[0][1] or "").startswith(f"state store {__name__}.{kind.__name__} raised RuntimeError at ")


@pytest.mark.parametrize("kind", [Faulty, Shared], ids=["own", "shared"])
@pytest.mark.parametrize(
    ("fault", "answered"),
    [("verdict", "answered a claim with NoneType"), ("account", "refused a claim for account '', which is none of it")],
)
def test_an_answer_that_is_none_is_traced_with_the_name_of_the_store(
    start: Start, monkeypatch: pytest.MonkeyPatch, sink: Any, kind: type[Faulty], fault: str, answered: str
) -> None:
    """Not with that of what stands before it; and that it is answered again as well."""
    mesh = start(kind, on_store_error={"quota": "open"}, sync_policy="in-memory")
    monkeypatch.setattr(kind, "faults", (fault,))
    ask(mesh)
    ask(mesh)
    monkeypatch.setattr(kind, "faults", ())
    ask(mesh)
    mesh.shutdown()

    said = [(entry.message, entry.error) for entry in sink.traces if entry.component == "storage"]
    assert [message for message, _ in said] == [GONE, BACK]
    assert (said[0][1] or "").startswith(f"state store {__name__}.{kind.__name__} {answered}; ")


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (
            "books",
            r"reading limits from state store .*\.Faulty raised RuntimeError at .*password=\*\*\*REDACTED\*\*\*$",
        ),
        ("balances", r"state store .*\.Faulty answered for the books of accounts with NoneType; "),
    ],
)
def test_limits_that_cannot_be_read_are_one_error(
    start: Start, monkeypatch: pytest.MonkeyPatch, fault: str, said: str
) -> None:
    """Which names the store, as whoever looks at quotas reads it."""
    mesh = start(Faulty)
    monkeypatch.setattr(Faulty, "faults", (fault,))

    with pytest.raises(StateStoreError, match=said):
        mesh.get_quota()


class Unbound(MemoryStateStore):
    """One that cannot take what it is handed."""

    def bind(self, context: Any) -> None:
        raise RuntimeError("password=hunter2222")


class Misbound(MemoryStateStore):
    """One whose author took the name for something else."""

    bind = "tcp"  # type: ignore[assignment]  # the mistake


@pytest.mark.parametrize("kind", [Unbound, Misbound])
def test_a_store_that_takes_no_clock_is_refused_by_name(start: Start, kind: type[MemoryStateStore]) -> None:
    """With no word of what it was handed."""
    with pytest.raises(PluginError) as caught:
        start(kind)

    said = caught.value.message
    assert said.startswith(f"cannot use state store 'test.kept.v1'\n  reason: {__name__}.{kind.__name__}.bind raised ")
    assert "hunter2222" not in said
