"""From a checked configuration to the objects of a mesh."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from modelmesh._engine.batches import Batches
from modelmesh._engine.block_ledger import BlockLedger
from modelmesh._engine.changes import Changes
from modelmesh._engine.dispatch import Dispatcher
from modelmesh._engine.driver import Driver, is_being_cancelled
from modelmesh._engine.engine import Engine, RequestIds
from modelmesh._engine.events import EventEmitter
from modelmesh._engine.flushing import PeriodicFlush
from modelmesh._engine.guarded_ledger import GuardedLedger
from modelmesh._engine.limits import Fallback, Limits, provider_limits
from modelmesh._engine.loop_thread import LoopThread
from modelmesh._engine.model import Model, ModelDefinition, delivery_of
from modelmesh._engine.observability import build_observability
from modelmesh._engine.pipeline import RoutingPipeline
from modelmesh._engine.policies import DeactivationRules, PoolPolicy, RecoveryRules
from modelmesh._engine.pool import CapabilityPool
from modelmesh._engine.probes import Prober
from modelmesh._engine.provider_service import ProviderService
from modelmesh._engine.recorder import Recorder
from modelmesh._engine.registry import Membership, ModelRegistry
from modelmesh._engine.request_log import RequestLogger
from modelmesh._engine.resolver import CapabilityResolver
from modelmesh._engine.retry import RetryPolicy
from modelmesh._engine.rotation import DeactivationEvaluator, RecoveryEvaluator, RotationPolicyService
from modelmesh._engine.shared_moves import SharedMoves
from modelmesh._engine.telemetry import Telemetry
from modelmesh.capabilities import CapabilityTree
from modelmesh.errors import ConfigurationError, ModelMeshError, Problem
from modelmesh.interfaces.ledger import Ledger
from modelmesh.interfaces.observability import Severity, TraceEntry
from modelmesh.interfaces.provider import ModelPricing, Timeouts
from modelmesh.interfaces.runtime import Clock, ConnectorContext, Random
from modelmesh.interfaces.state_store import StateStore
from modelmesh.interfaces.strategy import SelectionStrategy
from modelmesh.redaction import Redactor
from modelmesh.router import Router
from modelmesh.state import ModelState, ProviderState
from modelmesh.state_manager import StateManager
from modelmesh.statistics import StatisticsCollector, StatsScope

if TYPE_CHECKING:
    from modelmesh.config.models import (
        Configuration,
        ModelConfig,
        PoolConfig,
        ProviderConfig,
        RecoveryConfig,
        StorageConfig,
    )
    from modelmesh.plugins import PluginHost

DEFAULT_STRATEGY = "modelmesh.stick-until-failure.v1"


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
    state_store: StateStore | None = None
    prober: Prober | None = None
    state_manager: StateManager | None = None
    shared_moves: SharedMoves | None = None
    flushing: PeriodicFlush | None = None
    observers: list[Any] = field(default_factory=list)

    async def aclose(self, within: float = 5.0) -> None:
        """Close providers and the state store; one that fails to close does not keep the others open.

        Args:
            within: Seconds each may take.
        """
        closing: list[tuple[str, Callable[[], Any]]] = [
            ("limits", self.engine.driver.limits.finish),
            *((f"provider.{name}", provider.connector.close) for name, provider in self.providers.items()),
        ]
        if self.state_store is not None:
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

    def close_observability(self, timeout: float = 5.0) -> None:
        """Deliver what is queued, within the limit (seconds), and end the workers."""
        self.dispatcher.close(timeout)


def build_graph(
    configuration: Configuration, *, plugins: PluginHost, clock: Clock, random: Random, loop: LoopThread
) -> Graph:
    """Build a mesh's objects.

    Raises:
        ConfigurationError: Something fits together only on paper.
    """
    redactor = Redactor()
    for value in configuration.known_secrets():
        redactor.add(value)
    dispatcher = build_observability(
        configuration.observability, connectors=plugins, redactor=redactor, clock=clock, random=random
    )
    try:
        return _assemble(configuration, dispatcher, plugins=plugins, clock=clock, random=random, loop=loop)
    except Exception as error:
        # Whoever watches hears of it, and no worker outlives a mesh that never came to be.
        why = str(error) if isinstance(error, ModelMeshError) else type(error).__name__
        dispatcher.trace(TraceEntry(Severity.CRITICAL, dispatcher.now(), "mesh", "could not be built", {}, why))
        dispatcher.close()
        raise


def _assemble(
    configuration: Configuration,
    dispatcher: Dispatcher,
    *,
    plugins: PluginHost,
    clock: Clock,
    random: Random,
    loop: LoopThread,
) -> Graph:
    lock = threading.RLock()
    emitter = EventEmitter(dispatcher)
    logger = RequestLogger(dispatcher)
    telemetry = Telemetry(dispatcher, emitter, logger, clock)
    statistics = _statistics(configuration, dispatcher, clock)
    tree = _tree(configuration)
    changes = Changes()

    providers = {
        name: _provider(name, entry, plugins, telemetry, clock, random, changes, statistics)
        for name, entry in configuration.providers.items()
        if entry.enabled
    }
    builder = _PoolBuilder(plugins, telemetry, statistics, clock, random, lock, changes)
    pools = {name: builder.pool(name, entry, tree) for name, entry in configuration.pools.items()}
    resolver = CapabilityResolver(tree, pools, allow_model_names=configuration.routing.allow_model_names)
    registry = ModelRegistry(
        tree,
        providers,
        pools,
        {name: _membership(name, entry, tree) for name, entry in configuration.pools.items()},
        resolver,
        new_state=lambda: _model_state(clock),
    )
    for name, entry in configuration.models.items():
        if entry.provider in providers:
            registry.register(_definition(name, entry, tree, providers[entry.provider]), refresh=False)
    registry.refresh()
    _refuse_unpriced(pools)
    store = _state_store(configuration.storage, plugins, telemetry, clock, random)
    limits = _limits(configuration.storage, store, plugins, telemetry, clock, random)
    engine = Engine(
        clock,
        random,
        Driver(Recorder(telemetry, statistics, lock), plugins, limits),
        telemetry,
        statistics,
        loop,
        RequestIds(random),
        Batches(store, clock, random, telemetry, providers, lambda *asked: _ask(router, *asked)),
        lock,
    )
    pipeline = RoutingPipeline.default(
        resolver,
        clock,
        trace=lambda stage, facts: telemetry.trace(Severity.DEBUG, "router", f"stage {stage}", facts),
        tracing=lambda: telemetry.wants_debug,
    )
    router = Router(pipeline, pools, emitter, logger, dispatcher, engine=engine)
    graph = Graph(engine, router, registry, providers, pools, dispatcher, int(clock.time()))
    graph.state_store = store
    graph.prober = Prober(providers, pools, clock, telemetry)
    _size_error_windows(pools)
    graph.state_manager = _state_manager(configuration.storage, graph, telemetry, clock)
    if store.guarantees.shared_between_processes:
        graph.shared_moves = SharedMoves(store, pools, clock, random, telemetry, loop)
        graph.shared_moves.attach()
    graph.flushing = _flushing(configuration, graph)
    return graph


async def _ask(router: Router, capability: str, payload: Mapping[str, Any]) -> dict[str, Any]:
    """Answer one request of a batch."""
    return (await router.execute("chat", capability, payload)).data


def _context(kind: str, name: str, telemetry: Telemetry, clock: Clock, random: Random) -> ConnectorContext:
    component = f"{kind}.{name}"
    return ConnectorContext(
        name, clock, random, lambda severity, message: telemetry.trace(severity, component, message)
    )


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


def _flushing(configuration: Configuration, graph: Graph) -> PeriodicFlush | None:
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


def _tree(configuration: Configuration) -> CapabilityTree:
    """Build the tree: the default one, what ``capabilities`` adds, and what models imply by dotted paths."""
    tree = CapabilityTree.default()
    for parent, children in configuration.capabilities.items():
        for child in children:
            tree.add_node(parent if parent == "" else tree.resolve(parent) or parent, child)
    for model in configuration.models.values():
        for capability in model.capabilities:
            if "." in capability and tree.resolve(capability) is None:
                _add_path(tree, capability)
    return tree


def _add_path(tree: CapabilityTree, path: str) -> None:
    parent = ""
    for part in path.split("."):
        here = f"{parent}.{part}" if parent else part
        if tree.get_node(here) is None:
            tree.add_node(parent, part)
        parent = here


def _provider(
    name: str,
    entry: ProviderConfig,
    plugins: PluginHost,
    telemetry: Telemetry,
    clock: Clock,
    random: Random,
    changes: Changes,
    statistics: StatisticsCollector,
) -> ProviderService:
    if entry.instance is not None:
        connector = entry.instance
    else:
        connector = plugins.build("providers", entry.connector, entry.settings)
    connector.bind(_context("provider", name, telemetry, clock, random))
    state = ProviderState()
    state.configure(clock=clock)
    service = ProviderService(
        name, connector, state, entry.connector, telemetry=telemetry, changes=changes, statistics=statistics
    )
    service.limits = provider_limits(name, entry.budget, entry.quota, entry.rate_limit)
    service.concurrency = None if entry.rate_limit is None else entry.rate_limit.concurrency
    return service


def _size_error_windows(pools: Mapping[str, CapabilityPool]) -> None:
    """Give each model the longest error window that one of its pools asks for."""
    for pool in pools.values():
        for member in pool.members.values():
            windows = [place.pool.policy.deactivation.error_window for place in member.model.members]
            member.model.state.set_error_window(max(windows))


def _refuse_unpriced(pools: Mapping[str, CapabilityPool]) -> None:
    """Refuse a budget over a model whose price nobody knows: counting it as nothing would make the budget a lie."""
    for pool in pools.values():
        if pool.policy.deactivation.budget_limit is None:
            continue
        unpriced = [name for name, member in pool.members.items() if member.model.definition.pricing is None]
        if unpriced:
            raise ConfigurationError.from_problems(
                [
                    Problem(
                        f"no price is known of {', '.join(unpriced)}; add pricing to the model",
                        f"pools.{pool.name}.deactivation.budget_limit",
                    )
                ]
            )


def _state_manager(
    section: StorageConfig | None, graph: Graph, telemetry: Telemetry, clock: Clock
) -> StateManager | None:
    """Return what keeps the mesh's state; None where nothing is kept."""
    store = graph.state_store
    if section is None or store is None:
        return None
    policy = section.sync_policy or ("sync-on-boundary" if store.guarantees.survives_restart else "in-memory")
    if policy == "in-memory":
        return None
    return StateManager(
        store,
        graph.registry,
        graph.providers,
        graph.pools,
        clock,
        telemetry,
        policy=policy,
        interval=section.sync_interval,
        lock_timeout=section.locking.timeout if section.locking.enabled else None,
        lock_retry=section.locking.retry_interval,
    )


def _limits(
    section: StorageConfig | None,
    store: StateStore,
    plugins: PluginHost,
    telemetry: Telemetry,
    clock: Clock,
    random: Random,
) -> Limits:
    if section is None or not store.guarantees.shared_between_processes:
        return Limits(store, clock, telemetry)
    guarded = GuardedLedger(
        store,
        clock,
        timeout=section.call_timeout,
        told=lambda line: telemetry.trace(Severity.ERROR, "storage", line),
    )
    fallback = Fallback(
        policy=section.on_store_error.model_dump(),
        ledger=_state_store(None, plugins, telemetry, clock, random),
        processes=section.processes,
    )
    ledger: Ledger = guarded
    if section.lease_share:
        ledger = BlockLedger(guarded, clock, random, share=section.lease_share)
    return Limits(ledger, clock, telemetry, shared=True, fallback=fallback)


def _state_store(
    section: StorageConfig | None, plugins: PluginHost, telemetry: Telemetry, clock: Clock, random: Random
) -> StateStore:
    from modelmesh.config.models import StorageConfig

    if section is None:
        section = StorageConfig()
    store: StateStore = plugins.build("state_stores", section.connector, section.settings)
    bind = getattr(store, "bind", None)
    if bind is not None:
        bind(_context("storage", section.connector, telemetry, clock, random))
    return store


def _model_state(clock: Clock) -> ModelState:
    state = ModelState()
    state.configure(clock=clock)
    return state


def _definition(name: str, entry: ModelConfig, tree: CapabilityTree, provider: ProviderService) -> ModelDefinition:
    capabilities = tuple(tree.resolve(capability) or capability for capability in entry.capabilities)
    default = [mode for path in capabilities for mode in tree.delivery_modes(path)]
    batch = entry.batch if isinstance(entry.batch, dict) else {}
    return ModelDefinition(
        provider=entry.provider,
        capabilities=capabilities,
        delivery=delivery_of(entry.delivery, batch=bool(entry.batch), default=default),
        batch=batch,
        features=dict(entry.features),
        constraints=dict(entry.constraints),
        name=name,
        pricing=_pricing(entry) or _known_pricing(provider, entry.model or name),
        provider_model=entry.model or "",
    )


def _pricing(entry: ModelConfig) -> ModelPricing | None:
    prices = entry.pricing
    if prices is None:
        return None
    return ModelPricing(prices.input_per_1k_tokens, prices.output_per_1k_tokens, prices.per_request)


def _known_pricing(provider: ProviderService, model: str) -> ModelPricing | None:
    """Return the price the connector's own catalogue states, if it has one that needs no network."""
    catalogue = getattr(provider.connector, "known_models", None)
    info = catalogue.get(model) if catalogue is not None else None
    return None if info is None else info.pricing


class _PoolBuilder:
    """Builds pools with their strategies."""

    def __init__(
        self,
        plugins: PluginHost,
        telemetry: Telemetry,
        statistics: StatisticsCollector,
        clock: Clock,
        random: Random,
        lock: threading.RLock,
        changes: Changes,
    ) -> None:
        self._plugins = plugins
        self._changes = changes
        self._telemetry = telemetry
        self._statistics = statistics
        self._clock = clock
        self._random = random
        self._lock = lock

    def pool(self, name: str, entry: PoolConfig, tree: CapabilityTree) -> CapabilityPool:
        policy = pool_policy(entry)
        strategy = entry.strategy_instance or self._strategy(name, entry.strategy, entry.strategy_settings)
        set_fallback = getattr(strategy, "set_fallback", None)
        if set_fallback is not None:
            fallback = entry.fallback_strategy
            set_fallback(None if fallback in (None, "error") else self._strategy(name, fallback, None))
        rotation = RotationPolicyService(
            DeactivationEvaluator(policy.deactivation), RecoveryEvaluator(policy.recovery, self._random), strategy
        )
        return CapabilityPool(
            name,
            _node_of(name, entry, tree) or "",
            rotation,
            self._telemetry,
            policy=policy,
            clock=self._clock,
            statistics=self._statistics,
            lock=self._lock,
            priority=entry.priority,
            strategy_id=entry.strategy,
            changes=self._changes,
        )

    def _strategy(self, pool: str, connector_id: str, settings: Any) -> SelectionStrategy:
        strategy: SelectionStrategy = self._plugins.build("strategies", connector_id, settings)
        strategy.bind(_context("pool", pool, self._telemetry, self._clock, self._random))
        return strategy


def _node_of(name: str, entry: PoolConfig, tree: CapabilityTree) -> str | None:
    """Return the path a pool serves: as configured, else its own name; None for an explicit pool."""
    if entry.capability is not None:
        return tree.resolve(entry.capability)
    return tree.resolve(name)


def _membership(name: str, entry: PoolConfig, tree: CapabilityTree) -> Membership:
    return Membership(
        node=_node_of(name, entry, tree),
        models=tuple(entry.models),
        include=tuple(entry.include),
        providers=frozenset(entry.providers),
        excluded_providers=frozenset(entry.excluded_providers),
        selector=None if entry.selector is None else _selector(entry.selector),
    )


def _selector(section: Any) -> Callable[[Model], bool | float]:
    """Return the test a ``selector`` section states."""
    if callable(section):
        return section  # type: ignore[no-any-return]  # a user's own scoring function

    def fits(model: Model) -> bool:
        declared = model.definition
        if any(declared.features.get(feature, False) != wanted for feature, wanted in section.features.items()):
            return False
        if (
            section.min_context_window
            and (declared.constraints.get("context_window") or 0) < section.min_context_window
        ):
            return False
        return not section.providers or model.provider.name in section.providers

    return fits


def _recovery_rules(section: RecoveryConfig) -> RecoveryRules:
    schedule = section.quota_reset_schedule if section.on_quota_reset else None
    return RecoveryRules(
        cooldown=section.cooldown,
        probe_on_start=section.probe_on_start,
        probe_interval=section.probe_interval,
        require_probe=section.require_probe,
        quota_reset=None if schedule is None else "monthly" if schedule == "monthly" else "daily",
    )


def pool_policy(entry: PoolConfig) -> PoolPolicy:
    """Return a pool's rules as plain values."""
    away, retry, clocks = entry.deactivation, entry.retry, entry.timeouts
    return PoolPolicy(
        deactivation=DeactivationRules(
            retry_limit=away.retry_limit,
            error_rate_threshold=away.error_rate_threshold,
            error_rate_min_samples=away.error_rate_min_samples,
            error_codes=frozenset(away.error_codes),
            request_limit=away.request_limit,
            token_limit=away.token_limit,
            budget_limit=away.budget_limit,
            quota_window=away.quota_window,
            timezone=away.timezone,
            error_window=away.error_window,
            maintenance_window=away.maintenance_window,
            maintenance_duration=away.maintenance_duration,
        ),
        recovery=_recovery_rules(entry.recovery),
        retry=RetryPolicy(
            max_attempts=retry.max_attempts,
            backoff=retry.backoff,
            initial_delay=retry.initial_delay,
            max_delay=retry.max_delay,
            scope=retry.scope,
            prefer=retry.prefer,
            retryable_codes=frozenset(retry.retryable_codes),
            non_retryable_codes=frozenset(retry.non_retryable_codes),
            honor_retry_after=retry.honor_retry_after,
        ),
        timeouts=Timeouts(clocks.connect, clocks.first_token, clocks.idle, clocks.total),
        deadline=entry.deadline,
        max_attempts=entry.max_attempts,
        max_cost=entry.max_cost,
        retry_percent=entry.retry_budget.percent,
        retry_minimum=entry.retry_budget.minimum,
        provider_deactivation=frozenset(entry.provider_deactivation),
        provider_recovery=entry.provider_recovery,
        on_stream_failure=entry.on_stream_failure,
        hold_time=entry.hold_time,
        on_budget_exceeded=entry.on_budget_exceeded,
    )
