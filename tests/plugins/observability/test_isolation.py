"""Seeing never costs a request: sinks that raise, block, flood or call back harm nobody but themselves."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from modelmesh import ModelMesh
from modelmesh.interfaces.observability import ObservabilityConnector, Severity, TraceEntry
from modelmesh.plugins import PluginHost
from modelmesh.router import CompletionRequest
from modelmesh_cdk.testing import FakeClock, wait_until

REQUESTS = 1_000
MESSAGES = [{"role": "user", "content": "hi"}]


class Sink(ObservabilityConnector):
    """Counts what it takes; what else it does, each kind says for itself."""

    def __init__(self) -> None:
        self.taken = 0
        self.calls = 0

    def take(self, record: Any) -> None:
        self.calls += 1
        self.misbehave(record)
        self.taken += 1

    def misbehave(self, record: Any) -> None:
        """Do no harm."""

    emit = log = flush = trace = take


class Raising(Sink):
    """Raises until it is healed."""

    is_healed = False

    def misbehave(self, record: Any) -> None:
        if not self.is_healed:
            raise ValueError("no")


class Blocking(Sink):
    """Takes one record and never comes back, until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.entered = threading.Event()

    def misbehave(self, record: Any) -> None:
        self.entered.set()
        self.gate.wait(30)


class Flooding(Sink):
    """Makes twenty traces of each record it gets: through its context, and into the mesh itself."""

    mesh: ModelMesh | None = None
    context: Any = None

    def bind(self, context: Any) -> None:
        self.context = context

    def misbehave(self, record: Any) -> None:
        for _ in range(10):
            self.context.trace(Severity.ERROR, "flood")
            if self.mesh is not None and isinstance(record, TraceEntry):
                self.mesh.get_router()._observability.trace(record)


class Exiting(Sink):
    """Wants to end the process."""

    def misbehave(self, record: Any) -> None:
        raise SystemExit(1)


Make = Callable[..., ModelMesh]


@pytest.fixture
def mesh_with(plugins: PluginHost) -> Iterator[Make]:
    """Build meshes of one simulated model that report everything to one sink, and errors to a second."""
    meshes: list[ModelMesh] = []

    def make(sink: Sink, **others: Any) -> ModelMesh:
        mesh = ModelMesh(clock=others.pop("clock", None), plugins=plugins)
        meshes.append(mesh)
        mesh.initialize(
            {
                "providers": {"modelmesh.simulator.v1": {}},
                "models": {"m": {"provider": "modelmesh.simulator.v1", "capabilities": ["chat-completion"]}},
                "pools": {"chat-completion": {}},
                "observability": {"instance": sink, "tracing": {"min_severity": "debug"}, **others},
            }
        )
        return mesh

    yield make
    for mesh in meshes:
        mesh.shutdown()


async def ask_often(mesh: ModelMesh, number: int = REQUESTS) -> int:
    """Make requests one after another; return how many were answered."""
    router, request = mesh.get_router(), CompletionRequest(MESSAGES)
    answered = 0
    for _ in range(number):
        answered += (await router.acomplete("chat-completion", request)).model == "m"
    return answered


@pytest.mark.parametrize("kind", [Sink, Raising, Blocking, Flooding, Exiting])
def test_no_sink_harms_a_request(mesh_with: Make, kind: type[Sink]) -> None:
    """A thousand requests are answered, and every record is accounted for to the last."""
    sink = kind()
    mesh = mesh_with(sink)
    if isinstance(sink, Flooding):
        sink.mesh = mesh

    answered = mesh.run(ask_often(mesh))
    if isinstance(sink, Blocking):
        assert mesh._graph is not None
        mesh._graph.close_observability(0.05)
    mesh.shutdown()

    (counts,) = mesh.delivery_counts().values()
    assert answered == REQUESTS
    assert counts.emitted >= 3 * REQUESTS
    assert counts.emitted == counts.delivered + counts.failed + counts.dropped + counts.waiting
    assert counts.delivered == sink.taken
    assert counts.failed + counts.delivered + counts.waiting == sink.calls
    if isinstance(sink, Blocking):
        assert (counts.waiting, counts.delivered) == (1, 0)
        sink.gate.set()
    else:
        assert counts.waiting == 0


def test_a_bad_sink_takes_nothing_from_a_good_one(mesh_with: Make) -> None:
    """Both are sent the same; one loses all of it, the other nothing."""
    bad, good = Raising(), Sink()
    mesh = mesh_with(bad, logging={"instance": good})

    mesh.run(ask_often(mesh))
    mesh.shutdown()

    first, second = mesh.delivery_counts().values()
    assert (first.delivered, second.failed, second.dropped) == (0, 0, 0)
    assert second.delivered == good.taken >= REQUESTS


def test_a_failing_sink_is_left_alone_and_tried_again(mesh_with: Make) -> None:
    """After five failures it rests; when the rest is over and it works, it gets everything again."""
    clock = FakeClock(auto_advance=True)
    sink = Raising()
    mesh = mesh_with(sink, clock=clock)
    mesh.run(ask_often(mesh, 20))
    wait_until(lambda: not _counts(mesh).waiting)
    rested = (sink.calls, _counts(mesh).failed)
    sink.is_healed = True
    clock.advance(5)

    mesh.run(ask_often(mesh, 20))
    mesh.shutdown()

    assert rested == (5, 5)
    assert sink.taken >= 20
    assert _counts(mesh).delivered == sink.taken


def test_others_are_told_that_a_sink_is_in_trouble_and_when_it_is_over(mesh_with: Make) -> None:
    """With what was lost; the sink itself is told nothing, as it could not take it."""
    clock = FakeClock(auto_advance=True)
    told: list[TraceEntry] = []
    sink = Raising()

    class Listening(Sink):
        def misbehave(self, record: Any) -> None:
            if isinstance(record, TraceEntry) and record.component.startswith("observability."):
                told.append(record)

    mesh = mesh_with(sink, logging={"instance": Listening()}, clock=clock)
    mesh.run(ask_often(mesh, 20))
    wait_until(lambda: len(told) == 1)
    sink.is_healed = True
    clock.advance(5)
    mesh.run(ask_often(mesh, 1))
    wait_until(lambda: len(told) == 2)

    assert [(trace.severity, trace.message) for trace in told] == [
        (Severity.WARNING, "fails and is left alone for 5 s; its records are dropped"),
        (Severity.INFO, "takes records again"),
    ]
    assert (told[0].component, told[0].error) == ("observability.Raising", "ValueError")
    assert told[0].metadata["failed"] == 5


def test_a_sink_does_not_hear_itself(mesh_with: Make) -> None:
    """What it says while it is served goes to the others; or it would never come to an end."""
    heard: dict[str, set[str]] = {"one": set(), "other": set()}

    class Talking(Flooding):
        name = "one"

        def misbehave(self, record: Any) -> None:
            if isinstance(record, TraceEntry):
                heard[self.name].add(record.message)
            super().misbehave(record)

    class Listening(Talking):
        name = "other"

        def bind(self, context: Any) -> None:
            """Say nothing."""

        def misbehave(self, record: Any) -> None:
            if isinstance(record, TraceEntry):
                heard[self.name].add(record.message)

    mesh = mesh_with(Talking(), logging={"instance": Listening()})
    mesh.run(ask_often(mesh, 3))
    wait_until(lambda: "flood" in heard["other"])
    mesh.shutdown()

    assert "flood" not in heard["one"]


def test_two_sinks_that_report_each_other_come_to_an_end(mesh_with: Make) -> None:
    """What a sink says while it is served goes to the others, a little of it, and never round and round."""
    one, other = Flooding(), Flooding()
    mesh = mesh_with(one, logging={"instance": other})

    mesh.run(ask_often(mesh, 10))
    mesh.shutdown()

    for counts in mesh.delivery_counts().values():
        assert counts.emitted < 300


def _counts(mesh: ModelMesh) -> Any:
    (counts,) = mesh.delivery_counts().values()
    return counts
