"""From the ``observability`` section to a dispatcher with its connectors."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from modelmesh._engine.observability import event_types
from modelmesh.interfaces.observability import EventType, ObservabilityConnector, Severity
from modelmesh.interfaces.runtime import ConnectorContext

Build = Callable[..., Any]


class Sink(ObservabilityConnector):
    """Counts what it is sent, by kind."""

    def __init__(self) -> None:
        self.kinds: list[str] = []
        self.context: ConnectorContext | None = None
        self.gate: threading.Event | None = None

    def bind(self, context: ConnectorContext) -> None:
        self.context = context

    def emit(self, event: Any) -> None:
        self._take("event")

    def log(self, entry: Any) -> None:
        self._take("log")

    def flush(self, stats: Any) -> None:
        self._take("stats")

    def trace(self, entry: Any) -> None:
        self._take("trace")

    def _take(self, kind: str) -> None:
        if self.gate is not None:
            self.gate.wait(5)
        self.kinds.append(kind)


def observed(build: Build, section: dict[str, Any]) -> Any:
    """A mesh with this section, after one request and its shutdown."""
    world = build(a=[], observe={"instance": None, **section})
    world.ask()
    world.mesh.shutdown()
    return world


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ((), None),
        (("rotation",), {EventType.MODEL_ROTATED}),
        (("deactivation",), {EventType.MODEL_DEACTIVATED, EventType.PROVIDER_DEACTIVATED}),
        (("recovery",), {EventType.MODEL_ACTIVATED, EventType.PROVIDER_RECOVERED}),
        (("health", "model_activated"), {EventType.PROVIDER_HEALTH_CHANGED, EventType.MODEL_ACTIVATED}),
    ],
    ids=["all", "rotation", "deactivation", "recovery", "mixed"],
)
def test_filters_name_events_and_groups(names: tuple[str, ...], expected: set[EventType] | None) -> None:
    """An empty filter lets everything through."""
    assert event_types(names) == expected


def test_a_filter_that_names_nothing_known_is_an_error() -> None:
    """Rather than silence."""
    with pytest.raises(ValueError, match="rotatoin"):
        event_types(["rotatoin"])


def test_without_a_section_nothing_is_built_for_anybody(build: Build) -> None:
    """No thread is started, and nobody wants a record."""
    before = threading.active_count()

    world = build(a=[])

    assert threading.active_count() == before
    assert not world.router._observability.wants_events


def test_one_connector_takes_everything(build: Build) -> None:
    """Named once, for all parts."""
    sink = Sink()

    observed(build, {"instance": sink})

    assert set(sink.kinds) == {"event", "log", "stats", "trace"}


def test_parts_may_go_to_connectors_of_their_own(build: Build) -> None:
    """Each part's records go to its own; traces go to every one of them."""
    events, logs, rest = Sink(), Sink(), Sink()

    observed(build, {"instance": rest, "routing": {"instance": events}, "logging": {"instance": logs}})

    assert [set(sink.kinds) for sink in (events, logs, rest)] == [
        {"event", "trace"},
        {"log", "trace"},
        {"stats", "trace"},
    ]


def test_one_object_named_twice_is_served_once(build: Build) -> None:
    """No record comes double."""
    sink = Sink()

    observed(build, {"instance": sink, "routing": {"instance": sink}, "logging": {"instance": sink}})

    assert sink.kinds.count("event") == sink.kinds.count("log") == 1


def test_traces_go_where_their_section_says_if_it_says(build: Build) -> None:
    """Then the others get none."""
    traces, rest = Sink(), Sink()

    observed(build, {"instance": rest, "tracing": {"instance": traces}})

    assert (set(traces.kinds), set(rest.kinds)) == ({"trace"}, {"event", "log", "stats"})


def test_a_connector_is_bound_to_the_mesh(build: Build) -> None:
    """It has the mesh's clock, and may write traces of its own."""
    sink = Sink()
    world = build(a=[], observe={"instance": sink})
    assert sink.context is not None

    sink.context.trace(Severity.ERROR, "disk full")
    world.mesh.shutdown()

    assert sink.context.clock is world.clock
    assert "trace" in sink.kinds


def test_the_null_connector_costs_nothing(build: Build) -> None:
    """It is named, and nothing is built for it."""
    world = build(a=[], observe={"instance": None, "connector": "null"})

    assert not world.router._observability.wants_logs


def test_a_sink_that_hangs_delays_no_request(build: Build) -> None:
    """Requests are answered while their records wait."""
    sink = Sink()
    sink.gate = threading.Event()
    world = build(a=[], observe={"instance": sink})

    replies = [world.ask().content for _ in range(20)]

    assert (replies, sink.kinds) == (["Hello."] * 20, [])
    sink.gate.set()


def test_a_sink_that_raises_fails_no_request(build: Build) -> None:
    """Its trouble stays with it."""

    class Broken(Sink):
        def _take(self, kind: str) -> None:
            raise RuntimeError("no")

    world = build(a=[], observe={"instance": Broken()})

    assert world.ask().content == "Hello."


def test_statistics_reach_the_sink_at_shutdown(build: Build) -> None:
    """What accrued since the last time, by bare ID; an ID of two scopes says which."""
    world = build(providers={"acme": []}, models={"a": "acme"}, observe={})
    world.ask()
    world.ask()

    (stats,) = world.seen().stats

    assert {name: figures.requests_total for name, figures in stats.items()} == {"a": 2, "acme": 2, "chat": 2}
    assert world.seen().is_closed


def test_only_the_asked_scopes_are_kept(build: Build) -> None:
    """Others are not even counted."""
    world = build(a=[], observe={"statistics": {"scopes": ["pool"]}})
    world.ask()

    (stats,) = world.seen().stats

    assert list(stats) == ["chat"]
