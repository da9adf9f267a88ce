"""The contract of observability connectors."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from modelmesh.interfaces.observability import (
    AggregateStats,
    Events,
    EventType,
    Logging,
    ObservabilityConnector,
    RequestLogEntry,
    RoutingEvent,
    Severity,
    Statistics,
    TraceEntry,
    Tracing,
)
from modelmesh.interfaces.runtime import ConnectorContext
from modelmesh_cdk.testing.clock import context

MOMENT = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
CANARY = "sk-canary-5f0c2b7e91d34a6f8b20"
"""Looks like a key; must not be in any output."""


class ObservabilityContract:
    """Inherit it and write `make`, and `output` for connectors whose output can be read back."""

    # --- what subclasses write --------------------------------------------------------------

    def make(self, context: ConnectorContext) -> ObservabilityConnector:
        """Build a connector that takes everything; the contract binds it where it can be bound."""
        raise NotImplementedError(f"{type(self).__name__} must say in make() how its connector is built")

    def output(self) -> str | None:
        """Return all that the connector made last has put out; None when that cannot be read."""
        return None

    # --- taking records -----------------------------------------------------------------------

    def test_it_is_an_observability_connector(self) -> None:
        """It has all four parts of the interface."""
        connector = self.make(context())

        for part in (Events, Logging, Statistics, Tracing):
            assert isinstance(connector, part), f"it is no {part.__name__}"

    def test_every_event_is_taken(self) -> None:
        """Each event type, with all its IDs and with none, raises nothing."""
        events = [RoutingEvent(kind, MOMENT) for kind in EventType]
        events += [RoutingEvent(kind, MOMENT, "m", "p", "pool", {"reason": "quota"}) for kind in EventType]

        self.drive(lambda connector: [connector.emit(event) for event in events])

    def test_every_severity_is_taken(self) -> None:
        """Traces of each severity raise nothing, with and without an error."""
        traces = [TraceEntry(severity, MOMENT, "router", "said") for severity in Severity]
        traces += [TraceEntry(severity, MOMENT, "router", "said", {"a": 1}, "failed") for severity in Severity]

        self.drive(lambda connector: [connector.trace(trace) for trace in traces])

    def test_every_request_record_is_taken(self) -> None:
        """Successes, failures and records with every optional field raise nothing."""
        entries = [
            log_entry(),
            log_entry(status_code=504, error="no answer in time", tokens_out=0),
            log_entry(cost=0.0125, request_payload='{"messages": []}', response_payload="{}", overhead_us=12.5),
            log_entry(request_payload="x" * 1_000_000),
        ]

        self.drive(lambda connector: [connector.log(entry) for entry in entries])

    def test_statistics_are_taken(self) -> None:
        """Nothing, one scope and several are flushed, again and again."""
        figures = {"gpt": statistics(), "provider:acme": statistics(), "pool:acme": statistics()}

        def scenario(connector: ObservabilityConnector) -> None:
            connector.flush({})
            connector.flush({"gpt": statistics()})
            connector.flush(figures)
            connector.flush(figures)

        self.drive(scenario)

    def test_odd_values_are_taken(self) -> None:
        """Line breaks, other alphabets, control characters and values JSON does not know raise nothing."""
        odd: dict[str, Any] = {
            "when": MOMENT,
            "bytes": b"\xff",
            "set": {1},
            "object": object(),
            "nested": {"deep": [None, float("inf")]},
            "text": "Grüße\n\r\x00\x1b[31m🎉\u2028",
        }

        def scenario(connector: ObservabilityConnector) -> None:
            connector.emit(RoutingEvent(EventType.MODEL_ROTATED, MOMENT, "m\n", metadata=dict(odd)))
            connector.trace(TraceEntry(Severity.ERROR, MOMENT, "router", odd["text"], dict(odd), odd["text"]))
            connector.log(log_entry(model_id="Grüße/🎉", error=odd["text"]))

        self.drive(scenario)

    def test_records_are_left_as_they_were(self) -> None:
        """Several connectors get the same record: none changes it."""
        event = RoutingEvent(EventType.MODEL_ROTATED, MOMENT, "m", metadata={"api_key": CANARY, "list": [1]})
        trace = TraceEntry(Severity.ERROR, MOMENT, "router", f"Bearer {CANARY}", {"api_key": CANARY})
        entry, figures = log_entry(error=CANARY), {"gpt": statistics()}
        before = copy.deepcopy((event, trace, entry, figures))

        def scenario(connector: ObservabilityConnector) -> None:
            connector.emit(event)
            connector.trace(trace)
            connector.log(entry)
            connector.flush(figures)

        self.drive(scenario)

        assert (event, trace, entry, figures) == before

    def test_every_record_is_put_out(self) -> None:
        """An event, a request, statistics and a trace each leave something that tells them apart."""
        self._need_output()

        def scenario(connector: ObservabilityConnector) -> None:
            connector.emit(RoutingEvent(EventType.MODEL_ROTATED, MOMENT, "event-model"))
            connector.log(log_entry(model_id="logged-model"))
            connector.flush({"counted-model": statistics()})
            connector.trace(TraceEntry(Severity.ERROR, MOMENT, "router", "traced-message"))

        self.drive(scenario)

        text = self.output() or ""
        for mark in ("event-model", "logged-model", "counted-model", "traced-message"):
            assert mark in text, f"{mark} was not put out"

    def test_secrets_are_not_put_out(self) -> None:
        """Whatever looks like a credential is taken out of every kind of record."""
        self._need_output()

        def scenario(connector: ObservabilityConnector) -> None:
            secrets = {"api_key": CANARY, "headers": {"Authorization": f"Bearer {CANARY}"}}
            connector.emit(RoutingEvent(EventType.MODEL_ROTATED, MOMENT, "m", metadata=dict(secrets)))
            connector.trace(TraceEntry(Severity.ERROR, MOMENT, "router", f"key {CANARY}", dict(secrets), CANARY))
            connector.log(log_entry(error=f"401 for Bearer {CANARY}", request_payload=f'{{"api_key": "{CANARY}"}}'))
            connector.flush({f"https://host/?key={CANARY}": statistics()})

        self.drive(scenario)

        assert CANARY not in (self.output() or "")

    # --- life -----------------------------------------------------------------------------------

    def test_it_works_on_another_thread_than_it_was_made_on(self) -> None:
        """The core makes it on one thread and calls it from another."""
        connector = self._bound()
        failures: list[BaseException] = []

        def work() -> None:
            try:
                _one_of_each(connector)
                _close(connector)
            except BaseException as error:  # reported by the test's own thread
                failures.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join(10.0)

        assert not thread.is_alive(), "it blocks for ever"
        assert failures == []

    def test_close_may_be_repeated(self) -> None:
        """A second close does nothing, with or without records before."""
        used, unused = self._bound(), self._bound()
        _one_of_each(used)

        for connector in (used, used, unused, unused):
            _close(connector)

    def test_two_connectors_do_not_share_their_life(self) -> None:
        """Closing one leaves another one working."""
        one, other = self._bound(), self._bound()
        _close(one)

        _one_of_each(other)
        _close(other)

    # --- inside -----------------------------------------------------------------------------------

    def drive(self, scenario: Callable[[ObservabilityConnector], object]) -> None:
        """Run a scenario with a bound connector and close it after."""
        connector = self._bound()
        try:
            scenario(connector)
        finally:
            _close(connector)

    def _bound(self) -> ObservabilityConnector:
        about = context("observability")
        connector = self.make(about)
        bind = getattr(connector, "bind", None)
        if bind is not None:
            bind(about)
        return connector

    def _need_output(self) -> None:
        self.make(context())
        if self.output() is None:
            pytest.skip(f"{type(self).__name__} has no output()")


def log_entry(**fields: Any) -> RequestLogEntry:
    """Build a request record; any field may be given."""
    given: dict[str, Any] = {
        "timestamp": MOMENT,
        "model_id": "gpt",
        "provider_id": "acme",
        "capability": "chat-completion",
        "delivery_mode": "sync",
        "latency_ms": 12.5,
        "status_code": 200,
        "tokens_in": 3,
        "tokens_out": 5,
        **fields,
    }
    return RequestLogEntry(**given)


def statistics() -> AggregateStats:
    """Build the figures of one scope."""
    return AggregateStats(10, 9, 1, 30, 50, 0.25, 120.0, 100.0, 300.0, 400.0, 0.1, 2, MOMENT, 1.5)


def _one_of_each(connector: ObservabilityConnector) -> None:
    connector.emit(RoutingEvent(EventType.MODEL_ROTATED, MOMENT, "m"))
    connector.log(log_entry())
    connector.flush({"gpt": statistics()})
    connector.trace(TraceEntry(Severity.INFO, MOMENT, "router", "said"))


def _close(connector: ObservabilityConnector) -> None:
    close = getattr(connector, "close", None)
    if close is not None:
        close()
