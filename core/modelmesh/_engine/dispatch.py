"""Delivers records to observability connectors without ever making a request wait.

Each connector has a bounded queue and a worker thread of its own (`modelmesh._engine.lane`). Handing a record over is
an append; a connector that raises, blocks or is flooded loses records of its own and nobody else's, and what it loses
is counted.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TypeVar

from modelmesh._engine.lane import QUEUE_SIZE, DeliveryCounts, Lane, StartWorker, Worker, start_thread
from modelmesh.errors import ModelMeshError, unknown_name
from modelmesh.interfaces.observability import (
    AggregateStats,
    EventType,
    LogLevel,
    ObservabilityConnector,
    RequestLogEntry,
    RoutingEvent,
    Severity,
    TraceEntry,
)
from modelmesh.interfaces.runtime import Clock
from modelmesh.redaction import Redactor

SECTIONS = frozenset({"events", "logging", "statistics", "tracing"})
SEVERITIES = tuple(Severity)
SPEECH_LIMIT = 20
SPEECH_SECONDS = 10.0

Record = RoutingEvent | RequestLogEntry | TraceEntry | dict[str, AggregateStats]


@dataclass(frozen=True, slots=True)
class Subscription:
    """What one connector is sent.

    Attributes:
        name: For counts and people; unique within a dispatcher.
        sections: Among ``events``, ``logging``, ``statistics``, ``tracing``.
        events: Event types, or None for all.
        include_metadata: Whether events keep their metadata.
        log_level: How much of requests and answers goes into logs.
        max_payload_size: Bytes a payload is cut to; None: 1,024 at level ``summary``, whole at ``full``.
        min_severity: Traces below it are not sent.
        redact: Whether payloads lose their secrets. Everything else always does.
        queue_size: Records that may wait.
    """

    name: str
    sections: frozenset[str] = SECTIONS
    events: frozenset[EventType] | None = None
    include_metadata: bool = True
    log_level: LogLevel = LogLevel.METADATA
    max_payload_size: int | None = None
    min_severity: Severity = Severity.INFO
    redact: bool = True
    queue_size: int = QUEUE_SIZE


class _Listener:
    """One connector, and its own copies of what it is sent: without secrets, with the detail it asked for."""

    def __init__(self, connector: ObservabilityConnector, subscription: Subscription, redactor: Redactor) -> None:
        self.connector = connector
        self.subscribe(subscription)
        self.lane: Lane[Record]
        self.worker: Worker | None = None
        self._redactor = redactor
        self._spoken = 0
        self._spoken_since = float("-inf")

    def subscribe(self, subscription: Subscription) -> None:
        self.subscription = subscription
        self.log_level = subscription.log_level
        self.lowest_rank = _RANK[subscription.min_severity.value]

    def may_speak(self, now: float) -> bool:
        """Whether a record it makes while being served goes out: two that report each other would never end."""
        if now - self._spoken_since >= SPEECH_SECONDS:
            self._spoken, self._spoken_since = 0, now
        self._spoken += 1
        return self._spoken <= SPEECH_LIMIT

    def deliver(self, record: Record) -> None:
        """Hand over one record; run by the worker."""
        if isinstance(record, TraceEntry):
            self.connector.trace(self._trace(record))
        elif isinstance(record, RequestLogEntry):
            self.connector.log(self._entry(record))
        elif isinstance(record, RoutingEvent):
            event = _twin(record)
            event.metadata = self._redactor.mapping(record.metadata) if self.subscription.include_metadata else {}
            self.connector.emit(event)
        else:
            redact = self._redactor.text
            self.connector.flush({redact(name): copy(stats) for name, stats in record.items()})

    def _trace(self, record: TraceEntry) -> TraceEntry:
        redactor = self._redactor
        return TraceEntry(
            record.severity,
            record.timestamp,
            record.component,
            redactor.text(record.message),
            redactor.mapping(record.metadata),
            None if record.error is None else redactor.text(record.error),
        )

    def _entry(self, record: RequestLogEntry) -> RequestLogEntry:
        entry = _twin(record)
        entry.error = None if record.error is None else self._redactor.text(record.error)
        entry.request_payload = self._payload(record.request_payload)
        entry.response_payload = self._payload(record.response_payload)
        entry.log_level = self.log_level
        return entry

    def _payload(self, text: str | None) -> str | None:
        if text is None or self.log_level is LogLevel.METADATA:
            return None
        limit = self.subscription.max_payload_size
        if limit is None and self.log_level is LogLevel.SUMMARY:
            limit = 1_024
        if self.subscription.redact:
            # Before cutting: half a key is no longer recognised.
            text = self._redactor.text(text)
        if limit is not None and len(text.encode(errors="surrogatepass")) > limit:
            text = text.encode(errors="surrogatepass")[:limit].decode(errors="ignore") + "…"
        return text


class Dispatcher(ObservabilityConnector):
    """Hands each record to the connectors that want it; may be called from any thread, never blocks, never raises.

    What a connector hands over while it is being served goes to the others only, and only so much of it.

    Attributes:
        wants_events: Whether anybody takes events; where nobody does, callers need not build them.
        wants_logs: Whether anybody takes request logs.
        wants_payloads: Whether a log sink asks for requests and answers.
        wants_statistics: Whether anybody takes statistics.
        wants_debug: Whether anybody takes DEBUG traces; its siblings likewise.
    """

    def __init__(self, *, clock: Clock, redactor: Redactor, start_worker: StartWorker = start_thread) -> None:
        self._clock = clock
        self._redactor = redactor
        self._start_worker = start_worker
        self._listeners: tuple[_Listener, ...] = ()
        self._serving: dict[int, _Listener] = {}
        self._closed = False
        self._note_wants()

    # --- who listens ----------------------------------------------------------

    def add(self, connector: ObservabilityConnector, subscription: Subscription) -> None:
        """Send a connector what its subscription asks for, from now on."""
        listener = _Listener(connector, subscription, self._redactor)
        listener.lane = Lane(
            connector,
            listener.deliver,
            clock=self._clock,
            queue_size=subscription.queue_size,
            trouble=_Spokesman(self, subscription.name),
        )
        self._listeners = (*self._listeners, listener)
        listener.worker = self._start_worker(lambda: self._serve(listener), f"modelmesh-{subscription.name}")
        self._note_wants()

    def _serve(self, listener: _Listener) -> None:
        self._serving[threading.get_ident()] = listener
        try:
            listener.lane.run()
        finally:
            self._serving.pop(threading.get_ident(), None)

    def remove(self, connector: ObservabilityConnector, *, close: bool = False) -> None:
        """Send a connector nothing more; what waits for it is still delivered. Unknown ones are ignored.

        Args:
            connector: Whom.
            close: Whether its worker closes it after the last record.
        """
        leaving = [listener for listener in self._listeners if listener.connector is connector]
        self._listeners = tuple(listener for listener in self._listeners if listener.connector is not connector)
        for listener in leaving:
            listener.lane.close(connector=close)
        self._note_wants()

    def change(self, connector: ObservabilityConnector, subscription: Subscription) -> None:
        """Send a connector what another subscription asks for, from the next record on; its name stays."""
        for listener in self._listeners:
            if listener.connector is connector:
                listener.subscribe(replace(subscription, name=listener.subscription.name))
        self._note_wants()

    @property
    def redactor(self) -> Redactor:
        """Takes secrets out of all that is delivered; secrets may be added while it runs."""
        return self._redactor

    @property
    def connectors(self) -> list[ObservabilityConnector]:
        """Those that are sent something."""
        return [listener.connector for listener in self._listeners]

    def set_level(self, level: LogLevel | str) -> None:
        """Change how much of requests and answers goes into logs, for every connector, from the next record on.

        Args:
            level: ``metadata``, ``summary`` or ``full``.

        Raises:
            ValueError: There is no such level.
        """
        if not isinstance(level, LogLevel):
            known = [each.value for each in LogLevel]
            if level not in known:
                raise ValueError(unknown_name("log level", str(level), known))
            level = LogLevel(level)
        for listener in self._listeners:
            listener.log_level = level
        self._note_wants()

    def wants_trace(self, severity: Severity) -> bool:
        """Whether anybody takes traces of this severity."""
        return _RANK[severity._value_] >= self._lowest_severity

    def _note_wants(self) -> None:
        def takers(section: str) -> tuple[_Listener, ...]:
            return tuple(listener for listener in self._listeners if section in listener.subscription.sections)

        self._events, self._logs = takers("events"), takers("logging")
        self._statistics, self._traces = takers("statistics"), takers("tracing")
        self.wants_events = bool(self._events)
        self.wants_logs = bool(self._logs)
        self.wants_payloads = any(listener.log_level is not LogLevel.METADATA for listener in self._logs)
        self.wants_statistics = bool(self._statistics)
        self._lowest_severity = min((listener.lowest_rank for listener in self._traces), default=len(SEVERITIES))
        self.wants_debug = self.wants_trace(Severity.DEBUG)
        self.wants_info = self.wants_trace(Severity.INFO)
        self.wants_warning = self.wants_trace(Severity.WARNING)
        self.wants_error = self.wants_trace(Severity.ERROR)

    # --- handing over -----------------------------------------------------------

    def emit(self, event: RoutingEvent) -> None:
        """Hand an event to everybody who takes its type."""
        for listener in self._hearers(self._events):
            wanted = listener.subscription.events
            if wanted is None or event.event_type in wanted:
                listener.lane.offer(event)

    def log(self, entry: RequestLogEntry) -> None:
        """Hand over a request log record."""
        for listener in self._hearers(self._logs):
            listener.lane.offer(entry)

    def flush(self, stats: dict[str, AggregateStats]) -> None:
        """Hand over statistics."""
        for listener in self._hearers(self._statistics):
            listener.lane.offer(stats)

    def trace(self, entry: TraceEntry) -> None:
        """Hand a trace to everybody who takes its severity."""
        rank = _RANK[entry.severity._value_]
        for listener in self._hearers(self._traces):
            if rank >= listener.lowest_rank:
                listener.lane.offer(entry)

    def _hearers(self, listeners: tuple[_Listener, ...]) -> tuple[_Listener, ...]:
        """Return who may hear what the calling thread says: a connector never hears itself."""
        speaker = self._serving.get(threading.get_ident())
        if speaker is None:
            return listeners
        if not speaker.may_speak(self._clock.monotonic()):
            return ()
        return tuple(listener for listener in listeners if listener is not speaker)

    # --- numbers and end ------------------------------------------------------------

    def now(self) -> datetime:
        """The wall clock, timezone-aware UTC."""
        return datetime.fromtimestamp(self._clock.time(), UTC)

    def counts(self) -> Mapping[str, DeliveryCounts]:
        """What became of each connector's records so far, by the connector's name."""
        return {listener.subscription.name: listener.lane.counts() for listener in self._listeners}

    def close(self, timeout: float = 5.0) -> None:
        """Deliver what waits, within a limit of seconds for all together, and end the workers. Harmless to repeat."""
        if self._closed:
            return
        self._closed = True
        for listener in self._listeners:
            listener.lane.close(connector=True)
        ends_at = self._clock.monotonic() + timeout
        for listener in self._listeners:
            if listener.worker is not None:
                listener.worker.join(max(0.0, ends_at - self._clock.monotonic()))
            listener.lane.abandon()


_RANK: dict[str, int] = {severity.value: rank for rank, severity in enumerate(SEVERITIES)}
"""By ``_value_``: the hash of an enumeration's member, and its ``value``, are Python functions and this runs often."""


class _Spokesman:
    """Tells the other connectors that one is in trouble, and that it is over."""

    def __init__(self, dispatcher: Dispatcher, name: str) -> None:
        self._dispatcher = dispatcher
        self._name = name

    def __call__(self, counts: DeliveryCounts, *, rest: float | None, error: BaseException | None) -> None:
        facts = {"delivered": counts.delivered, "failed": counts.failed, "dropped": counts.dropped}
        if rest is None:
            severity, message = Severity.INFO, "takes records again"
        else:
            severity, message = Severity.WARNING, f"fails and is left alone for {rest:g} s; its records are dropped"
        self._dispatcher.trace(
            TraceEntry(severity, self._dispatcher.now(), f"observability.{self._name}", message, facts, _named(error))
        )


def _named(error: BaseException | None) -> str | None:
    """Return an error's type, and its text where that cannot hold a stranger's key."""
    if error is None:
        return None
    name = type(error).__name__
    return f"{name}: {error}" if isinstance(error, (OSError, ModelMeshError)) else name


Twin = TypeVar("Twin")


def _twin(record: Twin) -> Twin:
    """Return a shallow copy of a record; ``copy.copy`` takes five times as long, and this is done for each one."""
    twin: Twin = object.__new__(type(record))
    twin.__dict__.update(record.__dict__)
    return twin
