"""Request logs, at a level that can be changed while running."""

from __future__ import annotations

from modelmesh._engine.dispatch import Dispatcher
from modelmesh.interfaces.observability import LogLevel, RequestLogEntry


class RequestLogger:
    """Records one entry per attempt."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher

    def log(self, entry: RequestLogEntry) -> None:
        """Hand an entry to every log connector."""
        self._dispatcher.log(entry)

    def set_level(self, level: LogLevel) -> None:
        """Change the detail level of all log connectors, from the next entry on."""
        self._dispatcher.set_level(level)
