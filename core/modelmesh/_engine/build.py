"""From a checked configuration to the objects of a mesh."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from modelmesh._engine.batch_books import BatchBooks
from modelmesh._engine.batch_jobs import Jobs
from modelmesh._engine.batches import Batches
from modelmesh._engine.build_models import (
    build_provider,
    build_tree,
    definition_of,
    new_model_state,
    refuse_unpriced,
    size_error_windows,
)
from modelmesh._engine.build_pools import PoolBuilder, membership
from modelmesh._engine.build_storage import (
    build_guard,
    build_limits,
    build_state_manager,
    build_state_store,
    is_same_store,
)
from modelmesh._engine.changes import Changes
from modelmesh._engine.dispatch import Dispatcher
from modelmesh._engine.driver import Driver, is_being_cancelled
from modelmesh._engine.engine import Engine, RequestIds
from modelmesh._engine.events import EventEmitter
from modelmesh._engine.flushing import PeriodicFlush
from modelmesh._engine.kept_headroom import KeptHeadroom
from modelmesh._engine.loop_thread import LoopThread
from modelmesh._engine.observability import Observer, connect, observers_of
from modelmesh._engine.pipeline import RoutingPipeline
from modelmesh._engine.pool import CapabilityPool
from modelmesh._engine.probes import Prober
from modelmesh._engine.provider_batches import ProviderBatches
from modelmesh._engine.provider_service import ProviderService
from modelmesh._engine.recorder import Recorder
from modelmesh._engine.registry import ModelRegistry
from modelmesh._engine.request_log import RequestLogger
from modelmesh._engine.resolver import CapabilityResolver
from modelmesh._engine.shared_routing import SharedRouting
from modelmesh._engine.telemetry import Telemetry
from modelmesh.errors import ModelMeshError
from modelmesh.interfaces.observability import Severity, TraceEntry
from modelmesh.interfaces.runtime import Clock, Random
from modelmesh.interfaces.state_store import StateStore
from modelmesh.middleware import MiddlewareStack
from modelmesh.redaction import Redactor
from modelmesh.router import Router
from modelmesh.state_manager import StateManager
from modelmesh.statistics import StatisticsCollector, StatsScope

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
        graph = assemble(
            configuration,
            dispatcher,
            plugins=plugins,
            clock=clock,
            random=random,
            loop=loop,
            middleware=middleware,
        )
        graph.observers = observers
        graph.flushing = flushing_of(configuration, graph)
        return graph
    except Exception as error:
        # Whoever watches hears of it, and no worker outlives a mesh that never came to be.
        why = str(error) if isinstance(error, ModelMeshError) else type(error).__name__
        dispatcher.trace(TraceEntry(Severity.CRITICAL, dispatcher.now(), "mesh", "could not be built", {}, why))
        dispatcher.close()
        raise


def assemble(
    configuration: Configuration,
    dispatcher: Dispatcher,
    *,
    plugins: PluginHost,
    clock: Clock,
    random: Random,
    loop: LoopThread,
    middleware: MiddlewareStack | None = None,
    before: Graph | None = None,
) -> Graph:
    """Build everything but who watches.

    Args:
        configuration: Checked.
        dispatcher: Whom events, logs and traces go to.
        plugins: Where connectors come from.
        clock: Time.
        random: Randomness.
        loop: For blocking callers and background work.
        middleware: The application's own code around attempts.
        before: The graph this one is to follow: its lock, statistics, notes of changes and, where the configuration
            of it is the same, its state store are taken over.

    Raises:
        ConfigurationError: Something fits together only on paper.
    """
    lock = threading.RLock() if before is None else before.engine.lock
    emitter = EventEmitter(dispatcher) if before is None else before.engine.telemetry.emitter
    logger = RequestLogger(dispatcher) if before is None else before.engine.telemetry.logger
    telemetry = Telemetry(dispatcher, emitter, logger, clock)
    statistics = _statistics(configuration, dispatcher, clock) if before is None else before.engine.statistics
    tree = build_tree(configuration)
    changes = Changes() if before is None else before.changes

    providers = {
        name: build_provider(name, entry, plugins, telemetry, clock, random, changes, statistics)
        for name, entry in configuration.providers.items()
        if entry.enabled
    }
    builder = PoolBuilder(plugins, telemetry, statistics, clock, random, lock, changes)
    pools = {name: builder.pool(name, entry, tree) for name, entry in configuration.pools.items()}
    resolver = CapabilityResolver(tree, pools, allow_model_names=configuration.routing.allow_model_names)
    registry = ModelRegistry(
        tree,
        providers,
        pools,
        {name: membership(name, entry, tree) for name, entry in configuration.pools.items()},
        resolver,
        new_state=lambda: new_model_state(clock),
    )
    for name, entry in configuration.models.items():
        if entry.provider in providers:
            registry.register(definition_of(name, entry, tree, providers[entry.provider]), refresh=False)
    registry.refresh()
    refuse_unpriced(pools)
    kept = None if before is None or not is_same_store(before.configuration, configuration) else before.state_store
    store = kept or build_state_store(configuration.storage, plugins, telemetry, clock, random)
    guard = build_guard(configuration.storage, store, telemetry, clock)
    limits = build_limits(configuration.storage, store, guard, plugins, telemetry, clock, random)
    ids = RequestIds(random) if before is None else before.engine.request_ids
    dispatcher.redactor.trust(ids.prefix)

    def new_batches() -> Batches:
        jobs = Jobs(store, clock, random)
        books = BatchBooks(limits, clock, telemetry, statistics, lock)
        carriers = ProviderBatches(jobs, providers, books, telemetry)
        return Batches(store, jobs, clock, telemetry, carriers, lambda *asked: ask(router, *asked))

    engine = Engine(
        clock,
        random,
        Driver(Recorder(telemetry, statistics, lock), plugins, limits, middleware),
        telemetry,
        statistics,
        loop,
        ids,
        before.engine.batches if before is not None and kept is not None else new_batches(),
        lock,
    )
    pipeline = RoutingPipeline.default(
        resolver,
        clock,
        trace=lambda stage, facts: telemetry.trace(Severity.DEBUG, "router", f"stage {stage}", facts),
        tracing=lambda: telemetry.wants_debug,
    )
    router = Router(pipeline, pools, emitter, logger, dispatcher, engine=engine)
    created = int(clock.time())
    graph = Graph(engine, router, registry, providers, pools, dispatcher, created, configuration, changes)
    graph.state_store = store
    graph.prober = Prober(providers, pools, clock, telemetry)
    size_error_windows(pools)
    graph.state_manager = build_state_manager(configuration.storage, graph, telemetry, clock)
    if store.guarantees.survives_restart or guard is not None:
        graph.headroom = KeptHeadroom(store, providers, clock, loop)
        graph.headroom.attach()
    if guard is not None:
        graph.shared_routing = SharedRouting(
            store, guard, pools, providers, clock, random, telemetry, loop, lock, graph.headroom
        )
        graph.shared_routing.attach(engine.driver)
    return graph


async def ask(
    router: Router, capability: str, payload: Mapping[str, Any], metadata: Mapping[str, Any]
) -> dict[str, Any]:
    """Answer one request of a batch."""
    return (await router.execute("chat", capability, payload, metadata=metadata)).data


def _statistics(configuration: Configuration, dispatcher: Dispatcher, clock: Clock) -> StatisticsCollector:
    section = configuration.observability.statistics if configuration.observability is not None else None
    if section is None:
        return StatisticsCollector(dispatcher.flush, clock=clock)
    return StatisticsCollector(
        dispatcher.flush,
        clock=clock,
        retention=section.retention,
        scopes=frozenset(StatsScope(scope) for scope in section.scopes),
    )


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
