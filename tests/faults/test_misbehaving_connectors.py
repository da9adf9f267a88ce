"""Connectors that break their contract: what they do is one failed attempt, or nothing at all."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import pytest

from modelmesh.errors import ModelMeshError
from modelmesh.interfaces.observability import ObservabilityConnector
from modelmesh.mesh import ModelMesh
from modelmesh.router import CompletionRequest
from modelmesh_cdk.strategy import BaseStrategy
from modelmesh_cdk.testing import ScriptedProvider

HELLO = CompletionRequest([{"role": "user", "content": "hello"}])


def mesh_of(*providers: Any, observability: Any = None, **pool: Any) -> ModelMesh:
    """Build a mesh over providers that are objects already."""
    config: dict[str, Any] = {
        "providers": {f"p{place}": {"instance": provider} for place, provider in enumerate(providers)},
        "models": {
            f"m{place}": {"provider": f"p{place}", "capabilities": ["chat-completion"]}
            for place in range(len(providers))
        },
        "pools": {"chat": {"capability": "chat-completion", "retry": {"max_attempts": 0}, **pool}},
    }
    if observability is not None:
        config["observability"] = observability
    mesh = ModelMesh()
    mesh.initialize(config)
    return mesh


def ask(mesh: ModelMesh) -> str:
    """Ask for a whole answer."""
    return mesh.get_router().complete("chat", HELLO).content


def stream(mesh: ModelMesh) -> str:
    """Ask for a stream and join it."""
    parts: Iterator[Any] = mesh.run_stream(mesh.get_router().stream("chat", HELLO))  # type: ignore[arg-type]  # a generator
    return "".join(part.content for part in parts)


RAISED = {
    "Exception": RuntimeError("of its own"),
    "KeyError": KeyError("choices"),
    "AssertionError": AssertionError(),
    "SystemExit": SystemExit(1),
    "CancelledError": asyncio.CancelledError(),
    "TimeoutError": TimeoutError(),
    "StopAsyncIteration": StopAsyncIteration(),
    "OSError": OSError(24, "too many open files"),
    "MemoryError": MemoryError(),
    "RecursionError": RecursionError(),
    "BaseException": BaseException("bare"),
}


@pytest.mark.parametrize("how", [ask, stream], ids=["plain", "streamed"])
@pytest.mark.parametrize("error", list(RAISED.values()), ids=list(RAISED))
def test_whatever_a_provider_raises_is_one_failed_attempt(how: Any, error: BaseException) -> None:
    """F34: nobody is taken down with it; the next provider answers."""
    with mesh_of(ScriptedProvider([error]), ScriptedProvider(["second"])) as mesh:
        assert how(mesh) == "second"


class Garbage(ScriptedProvider):
    """A provider that returns what it likes."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self._value = value

    async def complete(self, request: Any) -> Any:
        """Return garbage."""
        return self._value

    async def stream(self, request: Any) -> AsyncGenerator[Any, None]:
        """Yield garbage."""
        yield self._value


@pytest.mark.parametrize("how", [ask, stream], ids=["plain", "streamed"])
@pytest.mark.parametrize("value", [None, "text", {}, 5, object()], ids=["None", "text", "mapping", "number", "object"])
def test_garbage_from_a_provider_is_one_failed_attempt(how: Any, value: Any) -> None:
    """F34: what is no answer is not passed on."""
    with mesh_of(Garbage(value), ScriptedProvider(["second"])) as mesh:
        assert how(mesh) == "second"


class Stubborn(ScriptedProvider):
    """A provider that does not take a cancellation for an answer, the first time."""

    async def complete(self, request: Any) -> Any:
        """Swallow one cancellation."""
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            raise RuntimeError("was busy") from None


def test_a_provider_that_swallows_its_cancellation_is_late_all_the_same() -> None:
    """F34: its time is up, whatever it raises then."""
    with mesh_of(Stubborn(), ScriptedProvider(["second"]), timeouts={"total": 0.03}) as mesh:
        assert ask(mesh) == "second"


class BadClose(ScriptedProvider):
    """A provider that fails when it is closed."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self._error = error

    async def close(self) -> None:
        """Fail."""
        raise self._error


@pytest.mark.parametrize("error", [RuntimeError("no"), OSError("no")], ids=repr)
def test_a_provider_that_fails_to_close_keeps_no_other_open(error: BaseException) -> None:
    """F34: shutting down goes on, and raises nothing."""
    other = ScriptedProvider()
    mesh = mesh_of(BadClose(error), other)
    ask(mesh)

    mesh.shutdown()

    assert other.is_closed


class Observer(ObservabilityConnector):
    """An observer that does this with each record."""

    def __init__(self, act: Any) -> None:
        self.act = act
        self.records = 0

    def _take(self, *_: Any) -> Any:
        self.records += 1
        return self.act()

    emit = log = flush = trace = _take


def _raise() -> None:
    raise RuntimeError("of the observer's own")


def _exit() -> None:
    raise SystemExit(1)


def _recurse() -> None:
    _recurse()


@pytest.mark.parametrize(
    "act",
    [_raise, _exit, _recurse, lambda: time.sleep(0.01), object],
    ids=["raises", "exits", "recurses", "sleeps", "garbage"],
)
def test_an_observer_harms_no_request(act: Any) -> None:
    """F33, R9: twenty requests are answered, and not later than without it."""
    observer = Observer(act)
    with mesh_of(ScriptedProvider(), observability={"instance": observer}) as mesh:
        ask(mesh)
        started = time.monotonic()
        answers = [ask(mesh) for _ in range(20)]
        took = time.monotonic() - started

    assert answers == ["Hello."] * 20
    assert took < 0.5
    assert observer.records > 0


def test_an_observer_that_never_returns_does_not_keep_the_mesh_from_ending(monkeypatch: pytest.MonkeyPatch) -> None:
    """F33, F36: a dead sink costs the shutdown its limit, and not more."""
    held = threading.Event()
    observer = Observer(held.wait)
    mesh = mesh_of(ScriptedProvider(), observability={"instance": observer})
    graph = mesh._graph
    assert graph is not None
    real = graph.close_observability
    monkeypatch.setattr(type(graph), "close_observability", lambda _: real(0.05))

    ask(mesh)
    started = time.monotonic()
    mesh.shutdown()
    took = time.monotonic() - started
    held.set()

    assert took < 2.0


def test_an_observer_that_asks_the_mesh_is_answered() -> None:
    """F33: what an observer does with the mesh happens off the request's path."""
    seen: list[Any] = []
    observer = Observer(lambda: seen.append(mesh.pool_status()))
    with mesh_of(ScriptedProvider(), observability={"instance": observer}) as mesh:
        ask(mesh)

    assert seen


class BrokenStrategy(BaseStrategy[Any]):
    """A strategy that divides by zero."""

    def choose(self, candidates: Any, request: Any) -> Any:
        """Fail."""
        raise ZeroDivisionError


@pytest.mark.parametrize("how", [ask, stream], ids=["plain", "streamed"])
def test_a_strategy_that_raises_fails_the_request_with_its_own_error(how: Any) -> None:
    """F34: and the next request starts from a clean slate."""
    with mesh_of(ScriptedProvider(), strategy_instance=BrokenStrategy()) as mesh:
        for _ in range(2):
            with pytest.raises((ModelMeshError, ZeroDivisionError)):
                how(mesh)
        assert mesh.get_router().get_pool("chat").active_requests == 0
