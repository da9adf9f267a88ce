"""What every part of a mesh is built on, some of it taken over from the configuration before."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from modelmesh._engine.changes import Changes
from modelmesh._engine.dispatch import Dispatcher
from modelmesh._engine.events import EventEmitter
from modelmesh._engine.loop_thread import LoopThread
from modelmesh._engine.request_log import RequestLogger
from modelmesh._engine.telemetry import Telemetry
from modelmesh.interfaces.runtime import Clock, ConnectorContext, Random
from modelmesh.statistics import StatisticsCollector, StatsScope

if TYPE_CHECKING:
    from modelmesh._engine.build import Graph
    from modelmesh.config.configuration import Configuration
    from modelmesh.plugins import PluginHost


@dataclass(frozen=True, slots=True)
class Basis:
    """Where connectors come from, time and randomness, whom to tell, and one lock for all moves.

    Attributes:
        plugins: Where connectors come from.
        clock: Time.
        random: Randomness.
        loop: For blocking callers and background work.
        telemetry: For events, logs and traces.
        statistics: Counts what is requested and what it came to.
        changes: Notes whose figures have moved.
        lock: Held for every move between active and standby.
    """

    plugins: PluginHost
    clock: Clock
    random: Random
    loop: LoopThread
    telemetry: Telemetry
    statistics: StatisticsCollector
    changes: Changes
    lock: threading.RLock

    def context(self, kind: str, name: str) -> ConnectorContext:
        """Return what a connector is handed when it is built: clock, randomness and trace, as ``<kind>.<name>``."""
        component = f"{kind}.{name}"
        return ConnectorContext(
            name,
            self.clock,
            self.random,
            lambda severity, message: self.telemetry.trace(severity, component, message),
        )


def new_basis(
    configuration: Configuration,
    dispatcher: Dispatcher,
    *,
    plugins: PluginHost,
    clock: Clock,
    random: Random,
    loop: LoopThread,
) -> Basis:
    """Return the basis of a mesh that begins."""
    return Basis(
        plugins,
        clock,
        random,
        loop,
        Telemetry(dispatcher, EventEmitter(dispatcher), RequestLogger(dispatcher), clock),
        _statistics(configuration, dispatcher, clock),
        Changes(),
        threading.RLock(),
    )


def basis_after(before: Graph, dispatcher: Dispatcher, *, plugins: PluginHost, random: Random) -> Basis:
    """Return the basis of a graph that is to follow another: they share the lock, statistics and notes of changes."""
    engine = before.engine
    telemetry = Telemetry(dispatcher, engine.telemetry.emitter, engine.telemetry.logger, engine.clock)
    return Basis(plugins, engine.clock, random, engine.loop, telemetry, engine.statistics, before.changes, engine.lock)


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
