"""What a mesh shows its observability connectors, and what it sends only to those that take it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from modelmesh import ModelMesh
from modelmesh.errors import ConfigurationError, UsageError
from modelmesh.interfaces.observability import Severity
from modelmesh.router import CompletionRequest
from modelmesh_cdk.testing import ScriptedProvider


class Sink:
    """Keeps what it is sent."""

    def __init__(self, attach: Callable[[Any], None] | None = None) -> None:
        self.taken: list[tuple[str, Any]] = []
        self.is_closed = False
        if attach is not None:
            self.attach = attach

    def emit(self, event: Any) -> None:
        self.taken.append(("events", event))

    def log(self, entry: Any) -> None:
        self.taken.append(("logging", entry))

    def flush(self, stats: Any) -> None:
        self.taken.append(("statistics", stats))

    def trace(self, entry: Any) -> None:
        self.taken.append(("tracing", entry))

    def close(self) -> None:
        self.is_closed = True


def config(sink: Any, **observability: Any) -> dict[str, Any]:
    """Return a configuration that sends everything to a sink."""
    return {
        "providers": {"p": {"instance": ScriptedProvider()}},
        "models": {"m": {"provider": "p", "capabilities": ["chat-completion"]}},
        "pools": {"chat": {"capability": "chat-completion"}},
        "observability": {"instance": sink, **observability},
    }


def test_a_connector_is_shown_the_mesh_when_all_is_built() -> None:
    """Once; pools and providers can be asked then."""
    seen: list[Any] = []
    mesh = ModelMesh(environ={})

    with mesh:
        mesh.initialize(config(Sink(lambda mesh: seen.append((mesh.list_pools(), mesh.provider_status())))))

    assert seen == [(["chat"], {"p": {"available": True, "reason": None, "availability_score": 1.0}})]


def test_a_connector_that_cannot_start_ends_the_start() -> None:
    """Its own message is what the user sees; everything is closed, and the mesh is over."""
    mesh = ModelMesh(environ={})

    def attach(_: Any) -> None:
        raise ConfigurationError("the port is taken; set another")

    sink = Sink(attach)

    with pytest.raises(ConfigurationError, match="the port is taken"):
        mesh.initialize(config(sink))

    assert sink.is_closed
    with pytest.raises(UsageError, match="shut down"):
        mesh.initialize(config(Sink()))


def test_a_connector_with_a_fault_does_not_keep_the_mesh_from_starting() -> None:
    """It is told by the type of its error alone, which may hold anything."""

    def attach(_: Any) -> None:
        raise RuntimeError("key sk-0123456789abcdef0123")

    sink = Sink(attach)

    with ModelMesh(environ={}) as mesh:
        mesh.initialize(config(sink))
        answer = mesh.get_router().complete("chat", CompletionRequest([{"role": "user", "content": "hi"}]))

    (told,) = [entry for kind, entry in sink.taken if kind == "tracing" and entry.severity is Severity.ERROR]
    assert answer.content == "Hello."
    assert (told.message, told.metadata) == (
        "Sink cannot watch the mesh; what it shows of it is missing",
        {"error_type": "RuntimeError"},
    )


def test_observers_and_their_counts_can_be_asked_for() -> None:
    """By the connector's name in the configuration."""
    sink = Sink()

    with ModelMesh(environ={}) as mesh:
        mesh.initialize(config(sink))
        observers, counts = mesh.observers(), mesh.delivery_counts()

    assert observers == [sink]
    assert list(counts) == ["Sink"]
    assert counts["Sink"].emitted >= 1


def test_a_connector_is_sent_only_what_it_takes() -> None:
    """Sections it does not have, and traces below its own severity, are not built for it."""
    sink = Sink()
    sink.sections = frozenset({"logging", "tracing"})  # type: ignore[attr-defined]  # what a connector may offer
    sink.min_severity = Severity.WARNING  # type: ignore[attr-defined]  # what a connector may offer

    with ModelMesh(environ={}) as mesh:
        mesh.initialize(config(sink))
        mesh.get_router().complete("chat", CompletionRequest([{"role": "user", "content": "hi"}]))

    assert [kind for kind, _ in sink.taken] == ["logging"]


def test_the_configuration_may_ask_for_less_than_a_connector_takes() -> None:
    """The higher of both severities holds."""
    sink = Sink()
    sink.min_severity = Severity.DEBUG  # type: ignore[attr-defined]  # what a connector may offer

    with ModelMesh(environ={}) as mesh:
        mesh.initialize(config(sink, tracing={"min_severity": "error"}))
        mesh.get_router().complete("chat", CompletionRequest([{"role": "user", "content": "hi"}]))

    assert "tracing" not in {kind for kind, _ in sink.taken}
