"""The callback connector: records themselves, handed to functions."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from modelmesh import ModelMesh
from modelmesh.errors import ConfigurationError
from modelmesh.interfaces.observability import (
    AggregateStats,
    EventType,
    ObservabilityConnector,
    RequestLogEntry,
    RoutingEvent,
    Severity,
    TraceEntry,
)
from modelmesh.interfaces.runtime import ConnectorContext
from modelmesh.router import CompletionRequest
from modelmesh_cdk.callback import CallbackConfig
from modelmesh_cdk.testing import ObservabilityContract
from modelmesh_plugins.observability.callback import CallbackConnector

NOW = datetime(2026, 1, 1, tzinfo=UTC)
EVENT = RoutingEvent(EventType.MODEL_ROTATED, NOW, "m")
LOG = RequestLogEntry(NOW, "m", "p", "chat", "sync", 1.0, 200, 1, 1)
STATS = {"m": AggregateStats(1, 1, 0, 1, 1, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0, NOW)}
TRACE = TraceEntry(Severity.INFO, NOW, "router", "hello")


class TestCallback(ObservabilityContract):
    """``modelmesh.callback.v1``."""

    def make(self, context: ConnectorContext) -> ObservabilityConnector:
        self.taken: list[Any] = []
        return CallbackConnector(callback=self.taken.append)

    def output(self) -> str:
        return repr(self.taken)

    def test_secrets_are_not_put_out(self) -> None:
        """Functions get the records the core made, which hold none any more."""
        pytest.skip("records are handed over as they come")


def feed(connector: ObservabilityConnector) -> None:
    """Send one record of each kind."""
    connector.emit(EVENT)
    connector.log(LOG)
    connector.flush(STATS)
    connector.trace(TRACE)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("on_event", [EVENT]),
        ("on_log", [LOG]),
        ("on_stats", [STATS]),
        ("on_trace", [TRACE]),
        ("callback", [EVENT, LOG, STATS, TRACE]),
    ],
)
@pytest.mark.parametrize(
    "make",
    [lambda given: CallbackConnector(**given), lambda given: CallbackConnector(CallbackConfig(**given))],
    ids=["argument", "setting"],
)
def test_each_function_gets_its_records(
    make: Callable[[dict[str, Any]], CallbackConnector], name: str, expected: list[Any]
) -> None:
    """The objects themselves, in order; ``callback`` gets all."""
    taken: list[Any] = []

    feed(make({name: taken.append}))

    assert taken == expected


def test_a_function_of_its_own_comes_before_the_one_for_all() -> None:
    """No record is handed over twice."""
    events: list[Any] = []
    rest: list[Any] = []

    feed(CallbackConnector(on_event=events.append, callback=rest.append))

    assert (events, rest) == ([EVENT], [LOG, STATS, TRACE])


def test_filters_hold_for_functions_as_well() -> None:
    """Events, severities and scopes that were not asked for do not come."""
    taken: list[Any] = []
    config = CallbackConfig(event_filter=["recovery"], min_severity=Severity.ERROR, scopes=["pool"])
    connector = CallbackConnector(config, callback=taken.append)

    feed(connector)
    connector.flush({"model:x": STATS["m"], "pool:x": STATS["m"]})

    assert taken == [LOG, STATS, {"pool:x": STATS["m"]}]


@pytest.mark.parametrize("build", [CallbackConnector, lambda: CallbackConnector(CallbackConfig())])
def test_a_connector_without_a_function_is_refused(build: Callable[[], object]) -> None:
    """It would take everything and do nothing."""
    with pytest.raises(ConfigurationError, match="no function to call") as caught:
        build()

    assert "pass one in code" in str(caught.value)


def mesh_with(**observability: Any) -> ModelMesh:
    """Build a mesh of one simulated model."""
    mesh = ModelMesh()
    mesh.initialize(
        {
            "providers": {"modelmesh.simulator.v1": {}},
            "models": {"m": {"provider": "modelmesh.simulator.v1", "capabilities": ["chat-completion"]}},
            "pools": {"chat-completion": {}},
            "observability": observability,
        }
    )
    return mesh


def test_functions_may_stand_in_a_configuration_made_in_code() -> None:
    """Beside the connector's name."""
    taken: list[RequestLogEntry] = []

    with mesh_with(connector="callback", on_log=taken.append) as mesh:
        mesh.get_router().complete("chat-completion", CompletionRequest([{"role": "user", "content": "hi"}]))

    assert [(entry.model_id, entry.status_code) for entry in taken] == [("m", 200)]


def test_a_function_that_raises_harms_no_request() -> None:
    """It is counted, and the request is answered."""

    def fail(record: object) -> None:
        raise ValueError("no")

    with mesh_with(instance=CallbackConnector(on_log=fail)) as mesh:
        answer = mesh.get_router().complete("chat-completion", CompletionRequest([{"role": "user", "content": "hi"}]))

    (counts,) = mesh.delivery_counts().values()
    assert (answer.model, counts.failed) == ("m", 1)
