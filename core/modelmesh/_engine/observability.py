"""From the ``observability`` section to a dispatcher with its connectors."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from modelmesh._engine.dispatch import SECTIONS, SEVERITIES, Dispatcher, Subscription
from modelmesh._engine.lane import StartWorker, close_connector, start_thread
from modelmesh.interfaces.observability import EventType, LogLevel, ObservabilityConnector, Severity, TraceEntry
from modelmesh.interfaces.runtime import Clock, ConnectorContext, Random
from modelmesh.redaction import Redactor

if TYPE_CHECKING:
    from modelmesh.config.observability import ObservabilityConfig, ObservabilityTarget

EVENT_GROUPS: dict[str, frozenset[EventType]] = {
    "rotation": frozenset({EventType.MODEL_ROTATED}),
    "deactivation": frozenset({EventType.MODEL_DEACTIVATED, EventType.PROVIDER_DEACTIVATED}),
    "recovery": frozenset({EventType.MODEL_ACTIVATED, EventType.PROVIDER_RECOVERED}),
    "health": frozenset({EventType.PROVIDER_HEALTH_CHANGED}),
}
"""Words that stand for several events in a filter."""


class Connectors(Protocol):
    """Where connectors come from."""

    def build(self, kind: str, connector_id: str, settings: Any) -> Any:
        """Return a new connector with its settings."""
        ...


def event_types(names: list[str] | tuple[str, ...]) -> frozenset[EventType] | None:
    """Return the events a filter names, by value or group; None, for all, when it is empty.

    Raises:
        ValueError: A name is neither.
    """
    if not names:
        return None
    types: set[EventType] = set()
    for name in names:
        types |= EVENT_GROUPS.get(name) or {EventType(name)}
    return frozenset(types)


def build_observability(
    config: ObservabilityConfig | None,
    *,
    connectors: Connectors,
    redactor: Redactor,
    clock: Clock,
    random: Random,
    start_worker: StartWorker = start_thread,
) -> Dispatcher:
    """Build the dispatcher; without a section nothing is sent anywhere and nothing is spent on it."""
    dispatcher = Dispatcher(clock=clock, redactor=redactor, start_worker=start_worker)
    connect(observers_of(config, connectors=connectors), dispatcher, clock, random)
    return dispatcher


@dataclass(frozen=True, slots=True)
class Observer:
    """A connector of the configuration.

    Attributes:
        target: What named it.
        connector: The connector.
        subscription: What it is sent; of several with one ID, only the first goes by it.
        is_new: Whether it was built, or handed in, for this configuration.
    """

    target: ObservabilityTarget
    connector: ObservabilityConnector
    subscription: Subscription
    is_new: bool = True


def connect(observers: Iterable[Observer], dispatcher: Dispatcher, clock: Clock, random: Random) -> None:
    """Send each observer what it subscribed to, from now on."""
    for observer in observers:
        bind_observer(observer, dispatcher, clock, random)
        dispatcher.add(observer.connector, observer.subscription)


def bind_observer(observer: Observer, dispatcher: Dispatcher, clock: Clock, random: Random) -> None:
    """Hand a connector clock, randomness and trace, if it takes them."""
    bind = getattr(observer.connector, "bind", None)
    if bind is not None:
        bind(_context(observer.subscription.name, dispatcher, clock, random))


def observers_of(
    config: ObservabilityConfig | None, *, connectors: Connectors, known: Sequence[Observer] = ()
) -> list[Observer]:
    """Return the connectors of a configuration, building those that are not ``known`` from an earlier one.

    There is one for each distinct pair of ID and settings, however many sections name it. Traces go to every
    connector, unless the tracing section names its own.
    """
    if config is None:
        return []
    built: list[tuple[ObservabilityTarget, ObservabilityConnector, set[str]]] = []
    for section, target in config.targets():
        for same, _, sections in built:
            if same.is_same(target):
                sections.add(section)
                break
        else:
            connector = next((each.connector for each in known if each.target.is_same(target)), None)
            try:
                connector = (
                    connector or target.instance or connectors.build("observability", target.connector, target.settings)
                )
            except BaseException:
                for _, other, _ in built:
                    if all(other is not each.connector for each in known):
                        close_connector(other)
                raise
            built.append((target, connector, {section}))
    common = Subscription(
        "",
        events=event_types(config.events.filter),
        include_metadata=config.events.include_metadata,
        log_level=LogLevel(config.logging.level),
        max_payload_size=config.logging.max_payload_size,
        redact=config.logging.redact_secrets,
        min_severity=Severity(config.tracing.min_severity),
    )
    taken = {each.subscription.name for each in known}
    observers: list[Observer] = []
    for number, (target, connector, sections) in enumerate(built):
        if getattr(connector, "is_null", False):
            continue
        if not config.tracing.connectors():
            sections.add("tracing")
        before = next((each for each in known if each.connector is connector), None)
        name = _name(target.connector, number, taken) if before is None else before.subscription.name
        # What a connector would throw away is not even built, if nobody else wants it.
        lowest = max(common.min_severity, getattr(connector, "min_severity", Severity.DEBUG), key=SEVERITIES.index)
        wanted = sections & getattr(connector, "sections", SECTIONS)
        subscription = replace(common, name=name, sections=SECTIONS & wanted, min_severity=lowest)
        observers.append(Observer(target, connector, subscription, before is None))
        taken.add(name)
    return observers


def _name(connector_id: str, number: int, taken: Collection[str]) -> str:
    name = connector_id if number == 0 else f"{connector_id}#{number + 1}"
    while name in taken:
        number += 1
        name = f"{connector_id}#{number + 1}"
    return name


def _context(name: str, dispatcher: Dispatcher, clock: Clock, random: Random) -> ConnectorContext:
    from datetime import UTC, datetime

    def trace(severity: Severity, message: str) -> None:
        now = datetime.fromtimestamp(clock.time(), UTC)
        dispatcher.trace(TraceEntry(severity, now, f"observability.{name}", message))

    return ConnectorContext(name, clock, random, trace, redacts=True)
