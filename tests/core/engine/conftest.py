"""A mesh over scripted providers: one line builds it, one line asks it, and its time stands still."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest

from modelmesh import ModelMesh
from modelmesh.interfaces.observability import (
    AggregateStats,
    EventType,
    ObservabilityConnector,
    RequestLogEntry,
    RoutingEvent,
    TraceEntry,
)
from modelmesh.interfaces.provider import AttemptRecord, ProviderChunk
from modelmesh.router import CompletionRequest, CompletionResponse, Router
from modelmesh_cdk.testing import FakeClock, FakeRandom, ScriptedProvider

Result = TypeVar("Result")


@dataclass
class Sink(ObservabilityConnector):
    """Keeps what it is sent."""

    events: list[RoutingEvent] = field(default_factory=list)
    logs: list[RequestLogEntry] = field(default_factory=list)
    stats: list[dict[str, AggregateStats]] = field(default_factory=list)
    traces: list[TraceEntry] = field(default_factory=list)
    is_closed: bool = False

    def emit(self, event: RoutingEvent) -> None:
        self.events.append(event)

    def log(self, entry: RequestLogEntry) -> None:
        self.logs.append(entry)

    def flush(self, stats: dict[str, AggregateStats]) -> None:
        self.stats.append(stats)

    def trace(self, entry: TraceEntry) -> None:
        self.traces.append(entry)

    def close(self) -> None:
        self.is_closed = True

    def of(self, *types: EventType) -> list[RoutingEvent]:
        """Events of these types, in order."""
        return [event for event in self.events if event.event_type in types]


class World:
    """A mesh with one pool, ``chat``, whose models are named by letters."""

    def __init__(self, mesh: ModelMesh, clock: FakeClock, providers: Mapping[str, Any], sink: Sink | None) -> None:
        self.mesh = mesh
        self.clock = clock
        self.providers = providers
        self.sink = sink

    @property
    def router(self) -> Router:
        return self.mesh.get_router()

    @property
    def pool(self) -> Any:
        return self.router.get_pool("chat")

    @property
    def active(self) -> str:
        """IDs of the active models, in pool order."""
        return "".join(model.name for model in self.pool.get_active_models())

    def member(self, model: str, pool: str = "chat") -> Any:
        """Return a model's place in a pool."""
        return self.router.get_pool(pool).members[model]

    def state(self, model: str) -> Any:
        """Return a model's health."""
        return self.member(model).model.state

    def calls(self, provider: str) -> int:
        """How often a provider was called."""
        return len(self.providers[provider].requests)

    def run(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """Run a coroutine on an event loop of its own."""
        return asyncio.run(coroutine)

    async def aask(self, capability: str = "chat", text: str = "hi", **metadata: Any) -> CompletionResponse:
        """Ask for a whole answer."""
        return await self.router.acomplete(capability, _request(text, metadata))

    def ask(self, capability: str = "chat", text: str = "hi", **metadata: Any) -> CompletionResponse:
        """Ask for a whole answer, and wait for it."""
        return self.run(self.aask(capability, text, **metadata))

    async def astream(self, capability: str = "chat", into: list[ProviderChunk] | None = None) -> list[ProviderChunk]:
        """Read a stream to its end; chunks are left in ``into`` should it break."""
        chunks = [] if into is None else into
        routed = self.router.execute_stream(capability, {"messages": [{"role": "user", "content": "hi"}]})
        async for chunk in routed:
            chunks.append(chunk)
        return chunks

    def stream(self, capability: str = "chat", into: list[ProviderChunk] | None = None) -> list[ProviderChunk]:
        """Read a stream to its end, and wait for it."""
        return self.run(self.astream(capability, into))

    def seen(self) -> Sink:
        """Shut the mesh down, so that all records are delivered, and return who got them."""
        self.mesh.shutdown()
        assert self.sink is not None
        return self.sink


def _request(text: str, metadata: dict[str, Any]) -> CompletionRequest:
    return CompletionRequest([{"role": "user", "content": text}], metadata=metadata)


Build = Callable[..., World]


@pytest.fixture
def sink() -> Sink:
    """Keeps what it is sent, for a mesh that a test builds by itself."""
    return Sink()


@pytest.fixture
def build() -> Iterator[Build]:
    """Build worlds; their meshes are shut down when the test is over.

    A keyword of one letter is a model with a provider of its own, named alike and given as its script or as a
    connector. ``providers`` with ``models`` (model to provider) says it at length. Any other keyword is a key of the
    pool. ``observe`` adds a sink that takes everything, with these settings.
    """
    meshes: list[ModelMesh] = []

    def make(
        *,
        providers: Mapping[str, Any] | None = None,
        models: Mapping[str, str | Mapping[str, Any]] | None = None,
        pools: Mapping[str, Any] | None = None,
        observe: Mapping[str, Any] | None = None,
        random: Sequence[float] = (),
        clock: FakeClock | None = None,
        price: Mapping[str, Any] | None = None,
        **rest: Any,
    ) -> World:
        letters = {name: value for name, value in rest.items() if len(name) == 1}
        pool = {name: value for name, value in rest.items() if len(name) > 1}
        connectors = {name: _connector(value) for name, value in {**(providers or {}), **letters}.items()}
        entries = {**{name: name for name in letters}, **(models or {})}
        sink = Sink() if observe is not None else None
        config: dict[str, Any] = {
            "providers": {name: {"instance": connector} for name, connector in connectors.items()},
            "models": {name: _model(entry, price) for name, entry in entries.items()},
            "pools": pools or {"chat": {"capability": "chat-completion", **pool}},
        }
        if observe is not None:
            config["observability"] = {"instance": sink, **observe}
        clock = clock or FakeClock(auto_advance=True)
        mesh = ModelMesh(clock=clock, random=FakeRandom(*random), environ={})
        meshes.append(mesh)
        mesh.initialize(config)
        return World(mesh, clock, connectors, sink)

    yield make
    for mesh in meshes:
        mesh.shutdown()


def _connector(given: Any) -> Any:
    return ScriptedProvider(given) if isinstance(given, (list, tuple)) else given


def _model(entry: str | Mapping[str, Any], price: Mapping[str, Any] | None) -> dict[str, Any]:
    own = {"provider": entry} if isinstance(entry, str) else dict(entry)
    return {"capabilities": ["chat-completion"], **({"pricing": dict(price)} if price else {}), **own}


@pytest.fixture
def outcomes() -> Callable[[Any], str]:
    """Show a receipt as models and outcomes: ``a:server_error b:success``."""

    def show(receipt: Any) -> str:
        attempts: list[AttemptRecord] = receipt.attempts
        return " ".join(f"{attempt.model_id}:{attempt.outcome}" for attempt in attempts)

    return show


class TaskLoop:
    """Stands in for a mesh's loop: runs what is started on the loop of the test."""

    def __init__(self) -> None:
        self.tasks: set[asyncio.Task[None]] = set()

    def start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)


@pytest.fixture
def run_in() -> Callable[[Callable[[TaskLoop], Any], Callable[[Any], Awaitable[None]]], None]:
    """Run a scenario in a world that is built for it around a loop; what still runs then is cancelled."""

    def run_in(world: Callable[[TaskLoop], Any], scenario: Callable[[Any], Awaitable[None]]) -> None:
        async def run() -> None:
            loop = TaskLoop()
            await scenario(world(loop))
            for task in list(loop.tasks):
                task.cancel()

        asyncio.run(run())

    return run_in
