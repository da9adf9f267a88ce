"""Another configuration in place of the running one: built aside, and swapped in whole with the state of what survives.

What carries over: counts, latencies, errors and costs of models and providers, statistics, what strategies remember,
batches, and rests, as long as what they were for is still what it was. Whose settings changed starts without rests:
they may well have been for what was just corrected.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from modelmesh._engine.build import Graph, ask, assemble, flushing_of
from modelmesh._engine.build_basis import basis_after
from modelmesh._engine.build_models import new_model_state, size_error_windows
from modelmesh._engine.dispatch import Dispatcher
from modelmesh._engine.lane import close_connector
from modelmesh._engine.member import NEVER, Member
from modelmesh._engine.observability import Observer, bind_observer, observers_of
from modelmesh._engine.origin import store_erred
from modelmesh.errors import ModelMeshError, StateStoreError
from modelmesh.interfaces.observability import EventType
from modelmesh.interfaces.strategy import DeactivationReason, ModelStatus, RecoveryTrigger
from modelmesh.state import ModelState, ProviderState
from modelmesh.state_manager import KEY
from modelmesh.statistics import StatsScope

if TYPE_CHECKING:
    from modelmesh._engine.provider_service import ProviderService
    from modelmesh.config.configuration import Configuration
    from modelmesh.config.pools import PoolConfig
    from modelmesh.interfaces.observability import ObservabilityConnector
    from modelmesh.interfaces.runtime import Random
    from modelmesh.plugins import PluginHost

_LIMITS = frozenset(
    {
        DeactivationReason.BUDGET_EXCEEDED.value,
        DeactivationReason.TOKEN_LIMIT.value,
        DeactivationReason.REQUEST_LIMIT.value,
        DeactivationReason.QUOTA_EXHAUSTED.value,
        DeactivationReason.MAINTENANCE_WINDOW.value,
    }
)
"""Reasons that go with what the configuration says of limits, rather than with how a model fares."""


@dataclass(slots=True)
class Succession:
    """A graph that is ready to take the place of another."""

    before: Graph
    after: Graph
    observers: list[Observer]

    def carry_out(self) -> None:
        """Hand everything over; no request is held up by it, and nothing can go wrong any more."""
        before, after = self.before, self.after
        likeness = _Likeness(before.configuration, after.configuration)
        with after.engine.lock:
            self._move_figures(likeness)
            for name, pool in after.pools.items():
                if name in before.pools:
                    pool.take_over(before.pools[name], likeness.holds, strategy=likeness.same_strategy(name))
            self._move_sharing()
            size_error_windows(after.pools)
            self._settle_status()
            for pool in before.pools.values():
                pool.on_move = _Follower(after, likeness)
        self._move_observers()
        self._move_router()
        self._tell_statistics()
        self._tell_members()

    def _move_sharing(self) -> None:
        before, after = self.before.shared_routing, self.after.shared_routing
        if after is not None:
            after.take_strategies(before)
        elif before is not None:
            before.let_strategies_go()

    def _move_figures(self, likeness: _Likeness) -> None:
        before, after = self.before, self.after
        for name, service in after.providers.items():
            earlier = before.providers.get(name)
            if earlier is None:
                continue
            # What other processes said of it until now may be of what was just corrected.
            service.decided_at = after.engine.clock.monotonic()
            if earlier.connector_id != service.connector_id:
                continue
            if likeness.same_service(name):
                service.state = earlier.state
                service.rate_limits, service.troubles = earlier.rate_limits, earlier.troubles
                _take_deactivation(service, earlier)
            else:
                # Its own from here on: what ends at the old credentials or address says nothing of the new ones.
                service.state = ProviderState.from_dict(earlier.state.to_dict())
                service.state.configure(clock=after.engine.clock)
                service.state.available = service.state.auth_valid = True
        for model in after.registry.list_models():
            known = before.registry.get_model(model.name)
            if known is None or known.provider.name != model.provider.name or known.wire_name != model.wire_name:
                continue
            shared = likeness.same_service(model.provider.name)
            model.state = known.state if shared else _copied(known.state, after)

    def _settle_status(self) -> None:
        """Bring what models and providers say of themselves in line with their places in pools."""
        for model in self.after.registry.list_models():
            model.settle_status()
        for service in self.after.providers.values():
            service.count_active()

    def _move_observers(self) -> None:
        before, after, dispatcher = self.before, self.after, self.before.dispatcher
        for observer in self.observers:
            if observer.is_new:
                dispatcher.add(observer.connector, observer.subscription)
            else:
                _resubscribe(dispatcher, before.observers, observer)
        staying = {id(observer.connector) for observer in self.observers}
        for observer in before.observers:
            if id(observer.connector) not in staying:
                dispatcher.remove(observer.connector, close=True)
        after.observers = self.observers
        after.dispatcher = dispatcher
        after.engine.telemetry.speak_to(dispatcher)
        if before.flushing is not None:
            before.flushing.stop()
        after.flushing = flushing_of(after.configuration, after)

    def _move_router(self) -> None:
        before, after = self.before, self.after
        router = before.router
        after.router.pipeline.take_over(router.pipeline)
        router.adopt(after.router)
        after.router = router
        after.engine.batches.move_to(after.providers, after.engine.driver.limits, lambda *asked: ask(router, *asked))

    def _tell_statistics(self) -> None:
        before, after = self.before, self.after
        statistics = after.engine.statistics
        observability = after.configuration.observability
        section = None if observability is None else observability.statistics
        if section is not None:
            statistics.reconfigure(retention=section.retention, scopes=[StatsScope(scope) for scope in section.scopes])
        for pool in after.pools.values():
            pool.note_reach()
        for name, provider in after.providers.items():
            note = statistics.record_up if provider.deactivated is None else statistics.record_down
            note(StatsScope.PROVIDER, name)
        # What is gone is not down.
        for scope, gone in (
            (StatsScope.POOL, before.pools.keys() - after.pools.keys()),
            (StatsScope.PROVIDER, before.providers.keys() - after.providers.keys()),
            (StatsScope.MODEL, _model_names(before) - _model_names(after)),
        ):
            for name in gone:
                statistics.record_up(scope, name)

    def _tell_members(self) -> None:
        telemetry = self.after.engine.telemetry
        for name in dict.fromkeys((*self.before.pools, *self.after.pools)):
            earlier = self.before.pools[name].members if name in self.before.pools else {}
            members = self.after.pools[name].members if name in self.after.pools else {}
            added = [each for each in members if each not in earlier]
            removed = [each for each in earlier if each not in members]
            moved = [*added, *removed]
            if moved:
                telemetry.event(
                    EventType.POOL_MEMBERSHIP_CHANGED,
                    pool_id=name,
                    model_id=moved[0] if len(moved) == 1 else None,
                    metadata={"added": added, "removed": removed},
                )


def prepare(
    configuration: Configuration,
    before: Graph,
    *,
    plugins: PluginHost,
    random: Random,
    attach: Callable[[ObservabilityConnector], None],
    retiring: Sequence[Graph] = (),
) -> Succession:
    """Build what a configuration becomes beside the graph that runs, which goes on undisturbed.

    Args:
        configuration: Checked.
        before: What runs.
        plugins: Where connectors come from.
        random: Randomness.
        attach: Shows the mesh to an observability connector.
        retiring: Graphs that were replaced and are still open.

    Raises:
        ModelMeshError: It cannot be built, or a connector cannot start; nothing has changed then.
    """
    clock, loop, dispatcher = before.engine.clock, before.engine.loop, before.dispatcher
    for value in configuration.known_secrets():
        dispatcher.redactor.add(value)
    observers = observers_of(configuration.observability, connectors=plugins, known=before.observers)
    fresh = [observer for observer in observers if observer.is_new]
    # Until it is swapped in, nobody hears of what happens in it.
    unheard = Dispatcher(clock=clock, redactor=dispatcher.redactor)
    after: Graph | None = None
    try:
        after = assemble(
            configuration,
            basis_after(before, unheard, plugins=plugins, random=random),
            middleware=before.engine.driver.middleware,
            before=before,
        )
        _look_into_store(before, after, retiring)
        for observer in fresh:
            bind_observer(observer, dispatcher, clock, random)
            attach(observer.connector)
    except BaseException:
        for observer in fresh:
            if observer.target.instance is None:
                close_connector(observer.connector)
        for pool in before.pools.values():
            pool.note_reach()  # pools that were filled have said that everybody can be reached
        if after is not None and after.state_store is not None and after.state_store is not before.state_store:
            loop.start(after.state_store.close())
        raise
    return Succession(before, after, observers)


def _look_into_store(before: Graph, after: Graph, retiring: Sequence[Graph]) -> None:
    """See to it that another state store answers, as a start would: limits that cannot be checked stop their calls.

    Raises:
        StateStoreError: It does not.
    """
    store = after.state_store
    if store is None or store is before.state_store or after.state_manager is None:
        return
    try:
        before.engine.loop.run(store.load(KEY))
    except StateStoreError as error:
        held = _held(after, before, retiring)
        if held is None:
            raise
        raise StateStoreError(held) from error
    except ModelMeshError:
        raise
    except Exception as error:
        redact = before.dispatcher.redactor.text
        raise store_erred(error, type(store), during="reading the state from", redact=redact) from error


def _held(after: Graph, before: Graph, retiring: Sequence[Graph]) -> str | None:
    """Say how this mesh itself keeps another store from a file that serves one store alone; None where it does not."""
    path = _file_alone(after)
    if path is None:
        return None
    if path == _file_alone(before):
        return (
            f"{path} is in use by this mesh, and a reload does not change the settings of the store there; end the mesh"
            " and start it anew"
        )
    if any(path == _file_alone(graph) for graph in retiring):
        return (
            f"{path} is in use by an earlier configuration of this mesh, until its last requests are done; reload again"
            " in a moment"
        )
    return None


def _file_alone(graph: Graph) -> str | None:
    """Return the file of a store that has it for itself."""
    section, store = graph.configuration.storage, graph.state_store
    if section is None or store is None or store.guarantees.shared_between_processes:
        return None
    path = getattr(section.settings, "path", None)
    return path if isinstance(path, str) else None


class _Likeness:
    """What two configurations have in common."""

    def __init__(self, before: Configuration, after: Configuration) -> None:
        self._before = before
        self._after = after

    def same_service(self, provider: str) -> bool:
        """Whether a provider is called in the same way: its connector with the same settings."""
        one, other = self._before.providers.get(provider), self._after.providers.get(provider)
        if one is None or other is None or one.instance is not other.instance:
            return False
        return one.connector == other.connector and bool(one.settings == other.settings)

    def same_strategy(self, pool: str) -> bool:
        """Whether a pool chooses in the same way."""
        one, other = self._before.pools[pool], self._after.pools[pool]
        return _strategy_of(one) == _strategy_of(other) and one.strategy_instance is other.strategy_instance

    def holds(self, member: Member) -> bool:
        """Whether what a member of the earlier graph rests for is still so."""
        provider, pool = member.provider_id, member.pool.name
        if member.reason == DeactivationReason.MANUAL:
            return True
        if not self.same_service(provider):
            return False
        if member.reason not in _LIMITS:
            return True
        one, other = self._before.providers[provider], self._after.providers[provider]
        return (one.budget, one.quota, one.rate_limit) == (
            other.budget,
            other.quota,
            other.rate_limit,
        ) and self._before.pools[pool].deactivation == self._after.pools[pool].deactivation


class _Follower:
    """Puts to rest whom a request that is still on its way in an earlier graph finds failing.

    It changes nothing else: that a model answers, the next request finds by itself.
    """

    def __init__(self, after: Graph, likeness: _Likeness) -> None:
        self._after = after
        self._likeness = likeness

    def __call__(self, member: Member, trigger: RecoveryTrigger | None) -> None:
        pool = self._after.pools.get(member.pool.name)
        twin = None if pool is None else pool.members.get(member.model_id)
        if trigger is not None or pool is None or twin is None or not twin.active or member.reason is None:
            return
        spared = twin.would_heal(member.reason) and pool.is_last_active(twin)
        if spared or not self._likeness.same_service(member.provider_id):
            twin.model.state.status = ModelStatus.ACTIVE.value
            return
        if member.reason == DeactivationReason.PROVIDER_UNAVAILABLE:
            _take_deactivation(twin.model.provider, member.model.provider)
        rest = None if member.due == NEVER else member.due - pool.clock.monotonic()
        pool.restore(twin.model_id, member.reason, rest=rest, ejections=member.ejections)
        twin.model.provider.count_active()
        if pool.on_move is not None:
            pool.on_move(twin, None)


def _take_deactivation(service: ProviderService, earlier: ProviderService) -> None:
    service.deactivated, service.decided_at = earlier.deactivated, earlier.decided_at


def _copied(state: ModelState, after: Graph) -> ModelState:
    copy = new_model_state(after.engine.clock)
    for name, value in state.to_dict().items():
        setattr(copy, name, value)
    return copy


def _strategy_of(pool: PoolConfig) -> tuple[Any, ...]:
    return pool.strategy, pool.strategy_settings, pool.fallback_strategy


def _resubscribe(dispatcher: Dispatcher, known: list[Observer], observer: Observer) -> None:
    """Change what a connector is sent if the configuration of it changed; a level set while it ran stays otherwise."""
    earlier = next(each for each in known if each.connector is observer.connector)
    if earlier.subscription != observer.subscription:
        dispatcher.change(observer.connector, observer.subscription)


def _model_names(graph: Graph) -> set[str]:
    return {model.name for model in graph.registry.list_models()}
