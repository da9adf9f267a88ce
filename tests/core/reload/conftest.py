"""Meshes of one pool that are asked, put to rest and given another configuration in a line each."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from modelmesh import ModelMesh
from modelmesh.errors import ConfigurationError
from modelmesh.interfaces.observability import ObservabilityConnector, RoutingEvent
from modelmesh.router import CompletionRequest
from modelmesh_cdk.testing import FakeClock

HELLO = CompletionRequest([{"role": "user", "content": "hi"}])


class Watcher(ObservabilityConnector):
    """Keeps events, and says whether it was closed."""

    def __init__(self) -> None:
        self.events: list[RoutingEvent] = []
        self.traces: list[Any] = []
        self.stats: list[Any] = []
        self.is_closed = False

    def emit(self, event: RoutingEvent) -> None:
        self.events.append(event)

    def log(self, entry: Any) -> None: ...

    def flush(self, stats: Any) -> None:
        self.stats.append(stats)

    def trace(self, entry: Any) -> None:
        self.traces.append(entry)

    def close(self) -> None:
        self.is_closed = True


class Stuck(Watcher):
    """Cannot start."""

    def attach(self, mesh: ModelMesh) -> None:
        raise ConfigurationError("port 9 is taken")


class Mesh(ModelMesh):
    """One with a pool ``chat`` over the providers it is given."""

    def ask(self) -> str:
        """Ask for an answer and return who gave it."""
        return self.get_router().complete("chat", HELLO).model

    def member(self, model: str) -> Any:
        """Return a model's place in the pool."""
        return self.get_router().get_pool("chat").members[model]

    def rest(self, model: str, reason: str = "error_threshold") -> None:
        """Put a model of the pool to rest."""
        self.get_router().get_pool("chat").deactivate(self.member(model).model, reason)

    def reload(self, **parts: Any) -> None:
        """Go on with the configuration of these parts, as `build` takes them."""
        self.reload_config(_config(**parts))


def _config(observer: Any = None, pool: Any = None, extra: Any = None, **providers: Any) -> dict[str, Any]:
    whole: dict[str, Any] = {
        "providers": {name: each if isinstance(each, dict) else {"instance": each} for name, each in providers.items()},
        "models": {f"{name}-model": {"provider": name, "capabilities": ["chat-completion"]} for name in providers},
        "pools": {"chat": {"capability": "chat-completion", **(pool or {})}},
        **(extra or {}),
    }
    if observer is not None:
        whole["observability"] = {"instance": observer}
    return whole


@pytest.fixture
def build() -> Iterator[Callable[..., Mesh]]:
    """Build meshes that are shut down when the test is over.

    A keyword is a provider, an instance or its settings, with a model ``<keyword>-model``. ``pool`` holds keys of the
    pool, ``observer`` watches, and ``extra`` holds sections that take the place of others.
    """
    meshes: list[Mesh] = []

    def make(clock: FakeClock | None = None, **parts: Any) -> Mesh:
        mesh = Mesh(clock=clock or FakeClock(auto_advance=True), environ={})
        meshes.append(mesh)
        mesh.initialize(_config(**parts))
        return mesh

    yield make
    for mesh in meshes:
        mesh.shutdown()


@pytest.fixture
def watcher() -> Watcher:
    """An observability connector that keeps what it is sent."""
    return Watcher()


@pytest.fixture
def stuck() -> Stuck:
    """An observability connector that cannot start."""
    return Stuck()


@pytest.fixture
def wait_for() -> Callable[[Callable[[], bool]], None]:
    """Wait until something that another thread does has happened."""

    def wait(happened: Callable[[], bool]) -> None:
        for _ in range(2_000):
            if happened():
                return
            threading.Event().wait(0.001)
        raise AssertionError("it never happened")

    return wait
