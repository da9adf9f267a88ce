"""Records reach connectors without ever making a request wait."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from modelmesh._engine.dispatch import Dispatcher, Subscription
from modelmesh._engine.events import EventEmitter
from modelmesh._engine.request_log import RequestLogger
from modelmesh.interfaces.observability import (
    EventType,
    LogLevel,
    ObservabilityConnector,
    RequestLogEntry,
    RoutingEvent,
    Severity,
    TraceEntry,
)
from modelmesh.redaction import Redactor
from modelmesh_cdk.testing import FakeClock, wait_until

NOW = datetime(2026, 1, 1, tzinfo=UTC)
KEY = "canary-0123456789abcdef"


class Sink(ObservabilityConnector):
    """Keeps what comes; ``gate`` makes it block and ``error`` makes it raise."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.got: list[Any] = []
        self.calls = 0
        self.error = error
        self.gate: threading.Event | None = None
        self.entered = threading.Event()
        self.is_closed = False

    def take(self, record: Any) -> None:
        self.calls += 1
        self.entered.set()
        if self.gate is not None:
            self.gate.wait(5)
        if self.error is not None:
            raise self.error
        self.got.append(record)

    emit = log = flush = trace = take

    def close(self) -> None:
        self.is_closed = True


class Bench:
    """A dispatcher on a clock that stands still, and the sinks it serves."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.redactor = Redactor([KEY])
        self.dispatcher = Dispatcher(clock=self.clock, redactor=self.redactor)

    def sink(self, error: BaseException | None = None, **wanted: Any) -> Sink:
        """Add a sink that is sent what is wanted."""
        sink = Sink(error)
        name = f"sink-{len(self.dispatcher.connectors) + 1}"
        self.dispatcher.add(sink, Subscription(name, **wanted))
        return sink

    def counts(self, name: str = "sink-1") -> tuple[int, int, int, int, int]:
        """Emitted, delivered, failed, dropped, waiting."""
        counts = self.dispatcher.counts()[name]
        return counts.emitted, counts.delivered, counts.failed, counts.dropped, counts.waiting


@pytest.fixture
def bench() -> Iterator[Bench]:
    """A dispatcher without sinks, closed when the test is over."""
    bench = Bench()
    yield bench
    bench.dispatcher.close(timeout=1)


def event(kind: EventType = EventType.MODEL_ROTATED, **metadata: Any) -> RoutingEvent:
    """A routing event."""
    return RoutingEvent(kind, NOW, metadata=metadata)


def trace(severity: Severity = Severity.INFO, message: str = "hello", **metadata: Any) -> TraceEntry:
    """A trace line."""
    return TraceEntry(severity, NOW, "router", message, metadata)


def entry(request: str | None = None, error: str | None = None) -> RequestLogEntry:
    """A request log record."""
    return RequestLogEntry(
        NOW, "a", "x", "chat", "sync", 1.0, 200, 1, 1, error=error, request_payload=request, response_payload=request
    )


# --- what is sent to whom ---------------------------------------------------------------


def test_each_kind_of_record_reaches_who_takes_it(bench: Bench) -> None:
    """Sections are chosen by subscription."""
    everything, logs = bench.sink(), bench.sink(sections=frozenset({"logging"}))

    bench.dispatcher.emit(event())
    bench.dispatcher.log(entry())
    bench.dispatcher.flush({})
    bench.dispatcher.trace(trace())
    bench.dispatcher.close()

    assert [type(record).__name__ for record in everything.got] == [
        "RoutingEvent",
        "RequestLogEntry",
        "dict",
        "TraceEntry",
    ]
    assert [type(record).__name__ for record in logs.got] == ["RequestLogEntry"]


def test_events_are_filtered_by_type(bench: Bench) -> None:
    """Others are not even queued."""
    sink = bench.sink(events=frozenset({EventType.MODEL_ROTATED}))

    bench.dispatcher.emit(event(EventType.MODEL_ACTIVATED))
    bench.dispatcher.emit(event())
    bench.dispatcher.close()

    assert [record.event_type for record in sink.got] == [EventType.MODEL_ROTATED]
    assert bench.counts() == (1, 1, 0, 0, 0)


def test_events_may_go_without_their_metadata(bench: Bench) -> None:
    """For sinks that may not have it; the others still do."""
    bare, full = bench.sink(include_metadata=False), bench.sink()

    bench.dispatcher.emit(event(pool="chat"))
    bench.dispatcher.close()

    assert (bare.got[0].metadata, full.got[0].metadata) == ({}, {"pool": "chat"})


@pytest.mark.parametrize("lowest", list(Severity), ids=lambda severity: severity.value)
def test_traces_below_the_severity_are_not_sent(bench: Bench, lowest: Severity) -> None:
    """The order is debug, info, warning, error, critical."""
    sink = bench.sink(min_severity=lowest)

    for severity in Severity:
        bench.dispatcher.trace(trace(severity))
    bench.dispatcher.close()

    assert [record.severity for record in sink.got] == list(Severity)[list(Severity).index(lowest) :]


def test_nobody_listening_wants_nothing(bench: Bench) -> None:
    """So that callers need not build what nobody reads."""
    wanted = bench.dispatcher

    assert not any((wanted.wants_events, wanted.wants_logs, wanted.wants_payloads, wanted.wants_error))


def test_what_is_wanted_follows_who_listens(bench: Bench) -> None:
    """Adding and removing sinks changes it at once."""
    sink = bench.sink(min_severity=Severity.WARNING, log_level=LogLevel.SUMMARY)
    wanted = bench.dispatcher
    before = (wanted.wants_events, wanted.wants_payloads, wanted.wants_info, wanted.wants_warning)

    bench.dispatcher.remove(sink)

    assert before == (True, True, False, True)
    assert (wanted.wants_events, wanted.wants_payloads, wanted.wants_warning) == (False, False, False)
    assert wanted.connectors == []


# --- payloads and secrets ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("level", "limit", "length"),
    [
        (LogLevel.METADATA, None, None),
        (LogLevel.SUMMARY, None, 1_024),
        (LogLevel.SUMMARY, 10, 10),
        (LogLevel.FULL, None, 5_000),
        (LogLevel.FULL, 100, 100),
    ],
    ids=["metadata", "summary", "summary-10", "full", "full-100"],
)
def test_payloads_are_as_long_as_the_level_allows(
    bench: Bench, level: LogLevel, limit: int | None, length: int | None
) -> None:
    """None, shortened with an ellipsis, or whole."""
    sink = bench.sink(log_level=level, max_payload_size=limit)

    bench.dispatcher.log(entry("x" * 5_000))
    bench.dispatcher.close()

    for payload in (sink.got[0].request_payload, sink.got[0].response_payload):
        assert payload is None if length is None else len(payload.removesuffix("…")) == length


def test_payloads_are_cut_between_characters(bench: Bench) -> None:
    """The limit is in bytes, and half a character is no text."""
    sink = bench.sink(log_level=LogLevel.FULL, max_payload_size=5)

    bench.dispatcher.log(entry("äöüß"))
    bench.dispatcher.close()

    assert sink.got[0].request_payload == "äö…"


def test_the_level_can_be_changed_while_running(bench: Bench) -> None:
    """From the next record on, for all sinks."""
    sink = bench.sink()
    logger = RequestLogger(bench.dispatcher)

    logger.set_level(LogLevel.FULL)
    logger.log(entry("whole"))
    bench.dispatcher.close()

    assert sink.got[0].request_payload == "whole"


def test_secrets_are_taken_out_of_everything(bench: Bench) -> None:
    """Wherever a known key stands, in any kind of record, it does not reach a sink."""
    sink = bench.sink(log_level=LogLevel.FULL)

    bench.dispatcher.emit(event(note=f"got {KEY}", api_key="short"))
    bench.dispatcher.trace(TraceEntry(Severity.ERROR, NOW, "router", KEY, {"deep": [{"x": KEY}]}, KEY))
    bench.dispatcher.log(entry(f'{{"content": "{KEY}"}}', error=f"refused {KEY}"))
    bench.dispatcher.flush({KEY: None})  # type: ignore[dict-item]  # the name is what matters
    bench.dispatcher.close()

    assert len(sink.got) == 4
    assert KEY not in repr(sink.got)
    assert sink.got[0].metadata["api_key"] == "***REDACTED***"


def test_a_secret_at_the_edge_of_a_cut_payload_is_taken_out_whole(bench: Bench) -> None:
    """Half a key would not be recognised, so redaction comes before the cut."""
    sink = bench.sink(log_level=LogLevel.SUMMARY, max_payload_size=20)

    bench.dispatcher.log(entry("x" * 10 + KEY))
    bench.dispatcher.close()

    assert KEY[:6] not in sink.got[0].request_payload


def test_payloads_may_keep_what_looks_secret_but_errors_never_do(bench: Bench) -> None:
    """``redact_secrets: false`` concerns payloads alone."""
    sink = bench.sink(log_level=LogLevel.FULL, redact=False)

    bench.dispatcher.log(entry(KEY, error=KEY))
    bench.dispatcher.close()

    assert (sink.got[0].request_payload, KEY in sink.got[0].error) == (KEY, False)


def test_each_sink_gets_a_copy_of_its_own(bench: Bench) -> None:
    """What one does to a record another does not see, nor the caller."""
    first, second = bench.sink(), bench.sink()
    record = event(pool="chat")

    bench.dispatcher.emit(record)
    bench.dispatcher.close()
    first.got[0].metadata.clear()

    assert (second.got[0].metadata, record.metadata) == ({"pool": "chat"}, {"pool": "chat"})


# --- trouble --------------------------------------------------------------------------------


def test_a_full_queue_drops_and_counts(bench: Bench) -> None:
    """A sink that blocks loses records of its own; handing over never waits."""
    slow = bench.sink(queue_size=3)
    slow.gate = threading.Event()
    bench.dispatcher.emit(event())
    assert slow.entered.wait(5)

    for _ in range(10):
        bench.dispatcher.emit(event())

    emitted, delivered, failed, dropped, waiting = bench.counts()
    assert (emitted, delivered, failed, dropped, waiting) == (11, 0, 0, 7, 4)
    slow.gate.set()


def test_a_blocked_sink_holds_nobody_else_up(bench: Bench) -> None:
    """Each has a queue and a worker of its own."""
    slow, quick = bench.sink(), bench.sink()
    slow.gate = threading.Event()

    bench.dispatcher.emit(event())

    assert quick.entered.wait(5)
    assert slow.entered.wait(5)
    slow.gate.set()


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(1)], ids=["error", "exit"])
def test_a_sink_that_raises_is_counted_and_goes_on(bench: Bench, error: BaseException) -> None:
    """The next record is tried again."""
    sink = bench.sink(error=error)

    for _ in range(3):
        bench.dispatcher.emit(event())
    bench.dispatcher.close()

    assert (sink.calls, bench.counts()) == (3, (3, 0, 3, 0, 0))


def test_a_dead_sink_is_left_alone_for_a_while(bench: Bench) -> None:
    """After five failures in a row its records are dropped until the rest is over."""
    sink = bench.sink(error=ValueError("down"))

    for _ in range(20):
        bench.dispatcher.emit(event())
    bench.dispatcher.close()

    assert (sink.calls, bench.counts()) == (5, (20, 0, 5, 15, 0))


def test_a_sink_that_healed_is_served_again(bench: Bench) -> None:
    """The rest ends, and an answer without error forgets the failures."""
    sink = bench.sink(error=ValueError("down"))
    for _ in range(5):
        bench.dispatcher.emit(event())
    wait_until(lambda: bench.counts()[2] == 5)
    sink.error = None
    bench.clock.advance(5)

    bench.dispatcher.emit(event())
    bench.dispatcher.close()

    assert len(sink.got) == 1


def test_figures_always_add_up(bench: Bench) -> None:
    """Emitted is delivered, failed, dropped and waiting together, from many threads as well."""
    bench.sink(queue_size=50)

    threads = [threading.Thread(target=lambda: [bench.dispatcher.emit(event()) for _ in range(500)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    bench.dispatcher.close()

    emitted, delivered, failed, dropped, waiting = bench.counts()
    assert (emitted, failed, waiting) == (2_000, 0, 0)
    assert delivered + dropped == 2_000


# --- the end -------------------------------------------------------------------------------


def test_closing_delivers_what_waits_and_closes_the_sinks(bench: Bench) -> None:
    """In order; and closing again is harmless."""
    sink = bench.sink()
    for number in range(100):
        bench.dispatcher.emit(event(number=number))

    bench.dispatcher.close()
    bench.dispatcher.close()

    assert [record.metadata["number"] for record in sink.got] == list(range(100))
    assert sink.is_closed


def test_closing_does_not_wait_for_a_sink_that_hangs(bench: Bench) -> None:
    """What it had not taken when the time was over is dropped and counted."""
    stuck = bench.sink()
    stuck.gate = threading.Event()
    for _ in range(3):
        bench.dispatcher.emit(event())
    assert stuck.entered.wait(5)

    bench.dispatcher.close(timeout=0.01)

    assert bench.counts()[3] == 2
    stuck.gate.set()


def test_records_after_the_end_are_dropped(bench: Bench) -> None:
    """Nobody raises, and they are counted."""
    sink = bench.sink()
    bench.dispatcher.close()

    bench.dispatcher.emit(event())

    assert (sink.got, bench.counts()) == ([], (1, 0, 0, 1, 0))


def test_a_sink_that_fails_to_close_does_not_keep_others_open(bench: Bench) -> None:
    """Nobody is left to be told."""

    class Stuck(Sink):
        def close(self) -> None:
            raise RuntimeError("no")

    bench.dispatcher.add(Stuck(), Subscription("stuck"))
    other = bench.sink()

    bench.dispatcher.close()

    assert other.is_closed


# --- subscribing ----------------------------------------------------------------------------


def test_a_subscriber_gets_events_only_and_once(bench: Bench) -> None:
    """Subscribing twice is subscribing once."""
    sink, emitter = Sink(), EventEmitter(bench.dispatcher)
    emitter.subscribe(sink)
    emitter.subscribe(sink)

    emitter.emit(event())
    bench.dispatcher.trace(trace())
    bench.dispatcher.close()

    assert [type(record).__name__ for record in sink.got] == ["RoutingEvent"]


def test_who_unsubscribes_gets_nothing_more(bench: Bench) -> None:
    """A stranger may do so, too."""
    sink, emitter = Sink(), EventEmitter(bench.dispatcher)
    emitter.subscribe(sink)
    emitter.unsubscribe(sink)
    emitter.unsubscribe(sink)

    emitter.emit(event())
    bench.dispatcher.close()

    assert sink.got == []
