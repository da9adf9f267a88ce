"""Delivers records to observability connectors without ever making a request wait.

Each connector has a bounded queue and a worker thread of its own. Handing a record over is an append; a connector that
raises, blocks or is flooded loses records of its own and nobody else's, and what it loses is counted.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, field
from typing import Any, Protocol

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
QUEUE_SIZE = 10_000
FAILURES_BEFORE_REST = 5
REST_SECONDS = 5.0
REST_LIMIT_SECONDS = 60.0

Record = RoutingEvent | RequestLogEntry | TraceEntry | dict[str, AggregateStats]


class Worker(Protocol):
    """A started thread, or what a simulator puts in its place."""

    def join(self, timeout: float | None = None) -> None:
        """Wait for its end, at most this many seconds."""
        ...


StartWorker = Callable[[Callable[[], None], str], Worker]


def start_thread(run: Callable[[], None], name: str) -> Worker:
    """Start a daemon thread: a connector that hangs must not keep the process alive."""
    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    return thread


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


@dataclass(slots=True)
class DeliveryCounts:
    """What became of a connector's records: emitted = delivered + failed + dropped + waiting.

    Attributes:
        emitted: Handed over.
        delivered: Taken without an error.
        failed: The connector raised.
        dropped: Its queue was full, or it was resting or closed.
        waiting: Still in the queue.
    """

    emitted: int = 0
    delivered: int = 0
    failed: int = 0
    dropped: int = 0
    waiting: int = 0


@dataclass(slots=True)
class _Lane:
    """One connector's queue."""

    connector: ObservabilityConnector
    subscription: Subscription
    log_level: LogLevel
    queue: deque[Record] = field(default_factory=deque)
    counts: DeliveryCounts = field(default_factory=DeliveryCounts)
    ready: threading.Condition = field(default_factory=threading.Condition)
    closing: bool = False
    failures: int = 0
    rest_until: float = 0.0
    worker: Worker | None = None


class Dispatcher(ObservabilityConnector):
    """Hands each record to the connectors that want it; may be called from any thread, never blocks, never raises.

    Attributes:
        wants_events: Whether anybody takes events; where nobody does, callers need not build them.
        wants_logs: Whether anybody takes request logs.
        wants_payloads: Whether a log sink asks for requests and answers.
        wants_debug: Whether anybody takes DEBUG traces; its siblings likewise.
    """

    def __init__(self, *, clock: Clock, redactor: Redactor, start_worker: StartWorker = start_thread) -> None:
        self._clock = clock
        self._redactor = redactor
        self._start_worker = start_worker
        self._lanes: list[_Lane] = []
        self._closed = False
        self.wants_events = False
        self.wants_logs = False
        self.wants_payloads = False
        self.wants_debug = self.wants_info = self.wants_warning = self.wants_error = False
        self._lowest_severity = len(SEVERITIES)

    # --- who listens ----------------------------------------------------------

    def add(self, connector: ObservabilityConnector, subscription: Subscription) -> None:
        """Send a connector what its subscription asks for, from now on."""
        lane = _Lane(connector, subscription, subscription.log_level)
        self._lanes.append(lane)
        lane.worker = self._start_worker(lambda: self._deliver(lane), f"modelmesh-{subscription.name}")
        self._note_wants()

    def remove(self, connector: ObservabilityConnector) -> None:
        """Send a connector nothing more; what waits for it is still delivered. Unknown ones are ignored."""
        for lane in [lane for lane in self._lanes if lane.connector is connector]:
            self._lanes.remove(lane)
            with lane.ready:
                lane.closing = True
                lane.ready.notify_all()
        self._note_wants()

    @property
    def connectors(self) -> list[ObservabilityConnector]:
        """Those that are sent something."""
        return [lane.connector for lane in self._lanes]

    def set_level(self, level: LogLevel) -> None:
        """Change how much of requests and answers goes into logs, for every connector at once."""
        for lane in self._lanes:
            lane.log_level = level
        self._note_wants()

    def wants_trace(self, severity: Severity) -> bool:
        """Whether anybody takes traces of this severity."""
        return _RANK[severity] >= self._lowest_severity

    def _note_wants(self) -> None:
        lanes = self._lanes
        self.wants_events = any("events" in lane.subscription.sections for lane in lanes)
        logs = [lane for lane in lanes if "logging" in lane.subscription.sections]
        self.wants_logs = bool(logs)
        self.wants_payloads = any(lane.log_level is not LogLevel.METADATA for lane in logs)
        self._lowest_severity = min(
            (_RANK[lane.subscription.min_severity] for lane in lanes if "tracing" in lane.subscription.sections),
            default=len(SEVERITIES),
        )
        self.wants_debug = self.wants_trace(Severity.DEBUG)
        self.wants_info = self.wants_trace(Severity.INFO)
        self.wants_warning = self.wants_trace(Severity.WARNING)
        self.wants_error = self.wants_trace(Severity.ERROR)

    # --- handing over -----------------------------------------------------------

    def emit(self, event: RoutingEvent) -> None:
        """Hand an event to everybody who takes its type."""
        for lane in self._lanes:
            wanted = lane.subscription
            if "events" in wanted.sections and (wanted.events is None or event.event_type in wanted.events):
                self._offer(lane, event)

    def log(self, entry: RequestLogEntry) -> None:
        """Hand over a request log record."""
        for lane in self._lanes:
            if "logging" in lane.subscription.sections:
                self._offer(lane, entry)

    def flush(self, stats: dict[str, AggregateStats]) -> None:
        """Hand over statistics."""
        for lane in self._lanes:
            if "statistics" in lane.subscription.sections:
                self._offer(lane, stats)

    def trace(self, entry: TraceEntry) -> None:
        """Hand a trace to everybody who takes its severity."""
        rank = _RANK[entry.severity]
        for lane in self._lanes:
            wanted = lane.subscription
            if "tracing" in wanted.sections and rank >= _RANK[wanted.min_severity]:
                self._offer(lane, entry)

    def _offer(self, lane: _Lane, record: Record) -> None:
        with lane.ready:
            lane.counts.emitted += 1
            if lane.closing or len(lane.queue) >= lane.subscription.queue_size:
                lane.counts.dropped += 1
                return
            lane.queue.append(record)
            if len(lane.queue) == 1:
                lane.ready.notify()

    # --- delivering ----------------------------------------------------------------

    def _deliver(self, lane: _Lane) -> None:
        """Take records from a lane until it closes; run by its worker."""
        while True:
            with lane.ready:
                while not lane.queue and not lane.closing:
                    lane.ready.wait()
                if not lane.queue:
                    return
                record = lane.queue.popleft()
            self._deliver_one(lane, record)

    def _deliver_one(self, lane: _Lane, record: Record) -> None:
        if self._clock.monotonic() < lane.rest_until:
            lane.counts.dropped += 1
            return
        try:
            clean = self._clean(lane, record)
            if isinstance(clean, RoutingEvent):
                lane.connector.emit(clean)
            elif isinstance(clean, RequestLogEntry):
                lane.connector.log(clean)
            elif isinstance(clean, TraceEntry):
                lane.connector.trace(clean)
            else:
                lane.connector.flush(clean)
        except BaseException:  # whatever a connector raises stays with it
            lane.counts.failed += 1
            lane.failures += 1
            if lane.failures >= FAILURES_BEFORE_REST:
                # Rests grow, so that a dead sink costs next to nothing, and end, so that one that healed is noticed.
                rest = REST_SECONDS * 2 ** min(lane.failures - FAILURES_BEFORE_REST, 10)
                lane.rest_until = self._clock.monotonic() + min(rest, REST_LIMIT_SECONDS)
        else:
            lane.failures = 0
            lane.counts.delivered += 1

    def _clean(self, lane: _Lane, record: Record) -> Record:
        """Return a connector's own copy of a record: without secrets, and with the detail it asked for."""
        redactor = self._redactor
        if isinstance(record, RoutingEvent):
            event = copy(record)
            event.metadata = redactor.mapping(record.metadata) if lane.subscription.include_metadata else {}
            return event
        if isinstance(record, TraceEntry):
            trace = copy(record)
            trace.message = redactor.text(record.message)
            trace.metadata = redactor.mapping(record.metadata)
            trace.error = None if record.error is None else redactor.text(record.error)
            return trace
        if isinstance(record, RequestLogEntry):
            entry = copy(record)
            entry.error = None if record.error is None else redactor.text(record.error)
            entry.request_payload = self._payload(lane, record.request_payload)
            entry.response_payload = self._payload(lane, record.response_payload)
            return entry
        return {redactor.text(name): copy(stats) for name, stats in record.items()}

    def _payload(self, lane: _Lane, text: str | None) -> str | None:
        if text is None or lane.log_level is LogLevel.METADATA:
            return None
        limit = lane.subscription.max_payload_size
        if limit is None and lane.log_level is LogLevel.SUMMARY:
            limit = 1_024
        if lane.subscription.redact:
            # Before cutting: half a key is no longer recognised.
            text = self._redactor.text(text)
        if limit is not None and len(text.encode()) > limit:
            text = text.encode()[:limit].decode(errors="ignore") + "…"
        return text

    # --- numbers and end ------------------------------------------------------------

    def counts(self) -> Mapping[str, DeliveryCounts]:
        """What became of each connector's records so far."""
        found: dict[str, DeliveryCounts] = {}
        for lane in self._lanes:
            with lane.ready:
                counts = copy(lane.counts)
                counts.waiting = counts.emitted - counts.delivered - counts.failed - counts.dropped
            found[lane.subscription.name] = counts
        return found

    def close(self, timeout: float = 5.0) -> None:
        """Deliver what waits, within a limit of seconds for all together, and end the workers. Harmless to repeat."""
        if self._closed:
            return
        self._closed = True
        for lane in self._lanes:
            with lane.ready:
                lane.closing = True
                lane.ready.notify_all()
        ends_at = self._clock.monotonic() + timeout
        for lane in self._lanes:
            if lane.worker is not None:
                lane.worker.join(max(0.0, ends_at - self._clock.monotonic()))
            with lane.ready:
                lane.counts.dropped += len(lane.queue)
                lane.queue.clear()
        for lane in self._lanes:
            _close_connector(lane.connector)


_RANK: dict[Severity, int] = {severity: rank for rank, severity in enumerate(SEVERITIES)}


def _close_connector(connector: Any) -> None:
    close = getattr(connector, "close", None)
    if close is None:
        return
    with suppress(Exception):  # nobody is left to be told
        close()
