"""From a checked configuration to the objects of a mesh."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from modelmesh._engine.batch_books import BatchBooks
from modelmesh._engine.batch_jobs import Jobs
from modelmesh._engine.batches import Ask, Batches
from modelmesh._engine.build_basis import Basis, new_basis
from modelmesh._engine.build_models import (
    build_providers,
    build_registry,
    build_tree,
    refuse_unpriced,
    size_error_windows,
)
from modelmesh._engine.build_pools import build_pools
from modelmesh._engine.build_storage import Storage, build_state_manager, build_storage
from modelmesh._engine.changes import Changes
from modelmesh._engine.dispatch import Dispatcher
from modelmesh._engine.driver import Driver, is_being_cancelled
from modelmesh._engine.engine import Engine, RequestIds
from modelmesh._engine.flushing import PeriodicFlush
from modelmesh._engine.kept_headroom import KeptHeadroom
from modelmesh._engine.loop_thread import LoopThread
from modelmesh._engine.observability import Observer, connect, observers_of
from modelmesh._engine.origin import redacted_text
from modelmesh._engine.pipeline import RoutingPipeline
from modelmesh._engine.pool import CapabilityPool
from modelmesh._engine.probes import Prober
from modelmesh._engine.provider_batches import ProviderBatches
from modelmesh._engine.provider_service import ProviderService
from modelmesh._engine.recorder import Recorder
from modelmesh._engine.registry import ModelRegistry
from modelmesh._engine.resolver import CapabilityResolver
from modelmesh._engine.shared_routing import SharedRouting
from modelmesh.errors import ModelMeshError
from modelmesh.interfaces.observability import Severity, TraceEntry
from modelmesh.interfaces.runtime import Clock, Random
from modelmesh.interfaces.state_store import StateStore
from modelmesh.middleware import MiddlewareStack
from modelmesh.redaction import Redactor
from modelmesh.router import Router
from modelmesh.state_manager import StateManager

if TYPE_CHECKING:
    from modelmesh.config.configuration import Configuration
    from modelmesh.plugins import PluginHost


@dataclass(slots=True)
class Graph:
    """Everything one configuration became."""

    engine: Engine
    router: Router
    registry: ModelRegistry
    providers: dict[str, ProviderService]
    pools: dict[str, CapabilityPool]
    dispatcher: Dispatcher
    created: int
    configuration: Configuration
    changes: Changes
    state_store: StateStore | None = None
    prober: Prober | None = None
    state_manager: StateManager | None = None
    shared_routing: SharedRouting | None = None
    headroom: KeptHeadroom | None = None
    flushing: PeriodicFlush | None = None
    observers: list[Observer] = field(default_factory=list)
    background: list[Future[None]] = field(default_factory=list)

    async def aclose(self, within: float = 5.0, *, keep: Sequence[Graph] = ()) -> None:
        """Close providers and the state store; one that fails to close does not keep the others open.

        Args:
            within: Seconds each may take.
            keep: Graphs that go on; what they use as well stays open.
        """
        kept = {id(provider.connector) for graph in keep for provider in graph.providers.values()}
        kept |= {id(graph.state_store) for graph in keep}
        closing: list[tuple[str, Callable[[], Any]]] = [
            ("limits", self.engine.driver.limits.finish),
            *([] if self.headroom is None else [("headroom", self.headroom.finish)]),
            *(
                (f"provider.{name}", provider.connector.close)
                for name, provider in self.providers.items()
                if id(provider.connector) not in kept
            ),
        ]
        if self.state_store is not None and id(self.state_store) not in kept:
            closing.append(("storage", self.state_store.close))
        for component, close in closing:
            try:
                async with asyncio.timeout(within):
                    await close()
            except (Exception, SystemExit, asyncio.CancelledError) as error:
                if isinstance(error, asyncio.CancelledError) and is_being_cancelled():
                    raise  # by who ends the mesh, not by the connector itself
                self.engine.telemetry.trace(
                    Severity.ERROR, component, "failed to close", {"error_type": type(error).__name__}
                )

    def start_background(self) -> None:
        """Begin what runs beside requests: probes, keeping state, sharing moves."""
        start = self.engine.loop.start
        if self.state_manager is not None:
            self.background.append(start(self.state_manager.run()))
        if self.shared_routing is not None:
            self.background.append(start(self.shared_routing.run()))
            self.background.append(start(self.engine.driver.limits.tend()))
        if self.headroom is not None:
            self.background.append(start(self.headroom.restore()))
        if self.prober is not None and self.prober.is_wanted:
            self.background.append(start(self.prober.run()))

    def stop_background(self) -> None:
        """End it again; returns at once."""
        for running in self.background:
            running.cancel()
        self.background.clear()

    def close_observability(self, timeout: float = 5.0) -> None:
        """Deliver what is queued, within the limit (seconds), and end the workers."""
        self.dispatcher.close(timeout)


def build_graph(
    configuration: Configuration,
    *,
    plugins: PluginHost,
    clock: Clock,
    random: Random,
    loop: LoopThread,
    middleware: MiddlewareStack | None = None,
) -> Graph:
    """Build a mesh's objects.

    Raises:
        ConfigurationError: Something fits together only on paper.
    """
    redactor = Redactor()
    for value in configuration.known_secrets():
        redactor.add(value)
    dispatcher = Dispatcher(clock=clock, redactor=redactor)
    observers = observers_of(configuration.observability, connectors=plugins)
    connect(observers, dispatcher, clock, random)
    try:
        basis = new_basis(configuration, dispatcher, plugins=plugins, clock=clock, random=random, loop=loop)
        graph = assemble(configuration, basis, middleware=middleware)
        graph.observers = observers
        graph.flushing = flushing_of(configuration, graph)
        return graph
    except Exception as error:
        # Whoever watches hears of it, and no worker outlives a mesh that never came to be.
        why = str(error) if isinstance(error, ModelMeshError) else type(error).__name__
        # A message keeps the words of a constructor to itself, which was handed keys; here they are looked for.
        said = "" if error.__cause__ is None else redacted_text(error.__cause__, redactor.text)
        facts = {"cause": said} if said else {}
        dispatcher.trace(TraceEntry(Severity.CRITICAL, dispatcher.now(), "mesh", "could not be built", facts, why))
        dispatcher.close()
        raise


def assemble(
    configuration: Configuration,
    basis: Basis,
    *,
    middleware: MiddlewareStack | None = None,
    before: Graph | None = None,
) -> Graph:
    """Build everything but who watches.

    Args:
        configuration: Checked.
        basis: What all of it is built on.
        middleware: The application's own code around attempts.
        before: The graph this one is to follow, and shares its basis with: request IDs go on and, where the
            configuration of it is the same, its state store and the batches in it are taken over.

    Raises:
        ConfigurationError: Something fits together only on paper.
    """
    tree = build_tree(configuration)
    providers = build_providers(configuration, basis)
    pools = build_pools(configuration, tree, basis)
    resolver = CapabilityResolver(tree, pools, allow_model_names=configuration.routing.allow_model_names)
    registry = build_registry(configuration, tree, providers, pools, resolver, basis.clock)
    refuse_unpriced(pools)
    size_error_windows(pools)

    storage = build_storage(configuration, basis, before)
    ids = RequestIds(basis.random) if before is None else before.engine.request_ids
    basis.telemetry.dispatcher.redactor.trust(ids.prefix)
    if before is not None and storage.is_taken_over:
        batches = before.engine.batches
    else:
        batches = _batches(basis, storage, providers, lambda *asked: ask(router, *asked))
    engine = _engine(basis, storage, ids, batches, middleware)
    router = _router(basis, engine, resolver, pools)

    dispatcher, created = basis.telemetry.dispatcher, int(basis.clock.time())
    graph = Graph(engine, router, registry, providers, pools, dispatcher, created, configuration, basis.changes)
    graph.state_store = storage.store
    _add_what_runs_beside(graph, basis, storage)
    return graph


def _batches(basis: Basis, storage: Storage, providers: Mapping[str, ProviderService], ask_router: Ask) -> Batches:
    jobs = Jobs(storage.store, basis.clock, basis.random)
    books = BatchBooks(storage.limits, basis.clock, basis.telemetry, basis.statistics, basis.lock)
    carriers = ProviderBatches(jobs, providers, books, basis.telemetry)
    return Batches(storage.store, jobs, basis.clock, basis.telemetry, carriers, ask_router)


def _engine(
    basis: Basis, storage: Storage, ids: RequestIds, batches: Batches, middleware: MiddlewareStack | None
) -> Engine:
    recorder = Recorder(basis.telemetry, basis.statistics, basis.lock)
    return Engine(
        basis.clock,
        basis.random,
        Driver(recorder, basis.plugins, storage.limits, middleware),
        basis.telemetry,
        basis.statistics,
        basis.loop,
        ids,
        batches,
        basis.lock,
    )


def _router(basis: Basis, engine: Engine, resolver: CapabilityResolver, pools: dict[str, CapabilityPool]) -> Router:
    telemetry = basis.telemetry
    pipeline = RoutingPipeline.default(
        resolver,
        basis.clock,
        trace=lambda stage, facts: telemetry.trace(Severity.DEBUG, "router", f"stage {stage}", facts),
        tracing=lambda: telemetry.wants_debug,
    )
    return Router(pipeline, pools, telemetry.emitter, telemetry.logger, telemetry.dispatcher, engine=engine)


def _add_what_runs_beside(graph: Graph, basis: Basis, storage: Storage) -> None:
    """Add probes, what keeps state and rate limits, and what shares routing with other processes, where wanted."""
    store, guard, clock, loop = storage.store, storage.guard, basis.clock, basis.loop
    graph.prober = Prober(graph.providers, graph.pools, clock, basis.telemetry)
    graph.state_manager = build_state_manager(graph.configuration.storage, graph, basis)
    if store.guarantees.survives_restart or guard is not None:
        graph.headroom = KeptHeadroom(store, graph.providers, clock, loop)
        graph.headroom.attach()
    if guard is not None:
        graph.shared_routing = SharedRouting(
            store,
            guard,
            graph.pools,
            graph.providers,
            clock,
            basis.random,
            basis.telemetry,
            loop,
            basis.lock,
            graph.headroom,
        )
        graph.shared_routing.attach(graph.engine.driver)


async def ask(
    router: Router, capability: str, payload: Mapping[str, Any], metadata: Mapping[str, Any]
) -> dict[str, Any]:
    """Answer one request of a batch."""
    return (await router.execute("chat", capability, payload, metadata=metadata)).data


def flushing_of(configuration: Configuration, graph: Graph) -> PeriodicFlush | None:
    """Start handing statistics over, where somebody takes them."""
    if configuration.observability is None or not graph.dispatcher.wants_statistics:
        return None
    engine = graph.engine

    def failed(error: Exception) -> None:
        engine.telemetry.trace(
            Severity.ERROR, "mesh", "statistics could not be flushed", {"error_type": type(error).__name__}
        )

    interval = configuration.observability.statistics.flush_interval
    return PeriodicFlush(engine.statistics.flush, interval, clock=engine.clock, failed=failed)
