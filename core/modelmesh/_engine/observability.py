"""From the ``observability`` section to a dispatcher with its connectors."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from modelmesh._engine.dispatch import SECTIONS, SEVERITIES, Dispatcher, Subscription
from modelmesh._engine.lane import StartWorker, close_connector, start_thread
from modelmesh.interfaces.observability import EventType, LogLevel, ObservabilityConnector, Severity, TraceEntry
from modelmesh.interfaces.runtime import Clock, ConnectorContext, Random
from modelmesh.redaction import Redactor

if TYPE_CHECKING:
    from modelmesh.config.models import ObservabilityConfig, ObservabilityTarget

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
    """Build the dispatcher; without a section nothing is sent anywhere and nothing is spent on it.

    One connector is built for each distinct pair of ID and settings, however many sections name it. Traces go to
    every connector, unless the tracing section names its own.
    """
    dispatcher = Dispatcher(clock=clock, redactor=redactor, start_worker=start_worker)
    if config is None:
        return dispatcher
    built: list[tuple[ObservabilityTarget, ObservabilityConnector, set[str]]] = []
    for section, target in config.targets():
        for known, _, sections in built:
            if known.is_same(target):
                sections.add(section)
                break
        else:
            try:
                connector = target.instance or connectors.build("observability", target.connector, target.settings)
            except BaseException:
                for _, other, _ in built:
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
    for number, (target, connector, sections) in enumerate(built):
        if getattr(connector, "is_null", False):
            continue
        if not config.tracing.connectors():
            sections.add("tracing")
        name = target.connector if number == 0 else f"{target.connector}#{number + 1}"
        bind = getattr(connector, "bind", None)
        if bind is not None:
            bind(_context(name, dispatcher, clock, random))
        # What a connector would throw away is not even built, if nobody else wants it.
        lowest = max(common.min_severity, getattr(connector, "min_severity", Severity.DEBUG), key=SEVERITIES.index)
        wanted = sections & getattr(connector, "sections", SECTIONS)
        dispatcher.add(connector, replace(common, name=name, sections=SECTIONS & wanted, min_severity=lowest))
    return dispatcher


def _context(name: str, dispatcher: Dispatcher, clock: Clock, random: Random) -> ConnectorContext:
    from datetime import UTC, datetime

    def trace(severity: Severity, message: str) -> None:
        now = datetime.fromtimestamp(clock.time(), UTC)
        dispatcher.trace(TraceEntry(severity, now, f"observability.{name}", message))

    return ConnectorContext(name, clock, random, trace, redacts=True)
