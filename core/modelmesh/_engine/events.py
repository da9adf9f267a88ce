"""Routing events, to whoever subscribed."""

from __future__ import annotations

from modelmesh._engine.dispatch import Dispatcher, Subscription
from modelmesh.interfaces.observability import ObservabilityConnector, RoutingEvent


class EventEmitter:
    """Emits routing events; delivery happens off the caller's path, and a subscriber's failure is its own."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher

    def emit(self, event: RoutingEvent) -> None:
        """Hand an event to every subscriber."""
        self._dispatcher.emit(event)

    def subscribe(self, connector: ObservabilityConnector) -> None:
        """Send a connector every event from now on; one that is subscribed already stays as it is."""
        if not any(known is connector for known in self._dispatcher.connectors):
            name = f"{type(connector).__name__}-{len(self._dispatcher.connectors) + 1}"
            self._dispatcher.add(connector, Subscription(name, sections=frozenset({"events"})))

    def unsubscribe(self, connector: ObservabilityConnector) -> None:
        """Send a connector nothing more; an unknown one is ignored."""
        self._dispatcher.remove(connector)
