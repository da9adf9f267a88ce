"""What is told of a reload, and to whom."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from modelmesh import ModelMesh, PipelineContext, PipelineStage
from modelmesh.interfaces.observability import EventType
from modelmesh_cdk.testing import FakeClock, ScriptedProvider

Build = Callable[..., Any]
WaitFor = Callable[[Callable[[], bool]], None]


def test_only_what_changed_is_told(build: Build, watcher: Any, wait_for: WaitFor) -> None:
    """One event for the pool whose members changed, and none for what was there before."""
    same = ScriptedProvider()
    mesh = build(same=same, observer=watcher)
    mesh.ask()

    mesh.reload(same=same, new=ScriptedProvider(), observer=watcher)

    def told() -> list[Any]:
        return [each.metadata for each in watcher.events if each.event_type is EventType.POOL_MEMBERSHIP_CHANGED]

    wait_for(lambda: len(told()) == 2)
    assert told() == [{"added": ["same-model"], "removed": []}, {"added": ["new-model"], "removed": []}]


def test_a_pool_that_stays_as_it_is_is_not_told_of(build: Build, watcher: Any, wait_for: WaitFor) -> None:
    """Neither its members nor anything else of it, while its neighbour is told to have got one more."""
    same = ScriptedProvider()
    pools = {"chat": {"capability": "chat-completion"}, "still": {"models": ["same-model"]}}
    mesh = build(same=same, observer=watcher, extra={"pools": pools})
    wait_for(lambda: {each.pool_id for each in watcher.events} == {"chat", "still"})
    watcher.events.clear()

    mesh.reload(same=same, new=ScriptedProvider(), observer=watcher, extra={"pools": pools})
    mesh.reload(same=same, new=ScriptedProvider(), observer=watcher, extra={"pools": pools})
    mesh.shutdown()

    assert [(each.event_type, each.pool_id) for each in watcher.events if each.pool_id is not None] == [
        (EventType.POOL_MEMBERSHIP_CHANGED, "chat")
    ]


def test_observers_come_and_go(build: Build, watcher: Any, wait_for: WaitFor) -> None:
    """The one that leaves is closed when it has had everything; the one that comes is attached before."""
    first, second, attached = watcher, type(watcher)(), list[ModelMesh]()
    second.attach = attached.append
    mesh = build(p=(provider := ScriptedProvider()), observer=first)

    mesh.reload(p=provider, observer=second)

    wait_for(lambda: first.is_closed)
    assert mesh.observers() == [second]
    assert attached == [mesh]
    wait_for(lambda: any("new configuration" in each.message for each in second.traces))


def test_an_observer_is_sent_what_the_new_configuration_says(build: Build, watcher: Any, wait_for: WaitFor) -> None:
    """The same connector, another subscription; a level that was set while it ran stays as long as it is the same."""
    provider = ScriptedProvider()
    quiet = {"observability": {"instance": watcher, "events": {"filter": ["rotation"]}}}
    mesh = build(p=provider, observer=watcher)
    before = len(watcher.events)

    mesh.reload(extra=quiet, p=provider, q=ScriptedProvider())
    mesh.rest("q-model")

    wait_for(lambda: any("new configuration" in each.message for each in watcher.traces))
    assert len(watcher.events) - before <= 1
    assert mesh.observers() == [watcher]
    assert EventType.MODEL_DEACTIVATED not in {each.event_type for each in watcher.events}


def test_statistics_are_kept_as_the_new_configuration_says(build: Build) -> None:
    """Scopes that are not wanted any more are dropped."""
    provider, section = ScriptedProvider(), {"connector": "modelmesh.null.v1", "statistics": {"scopes": ["pool"]}}
    mesh = build(p=provider)
    mesh.ask()

    mesh.reload(p=provider, extra={"observability": section})
    mesh.ask()

    assert mesh.get_statistics().pool("chat").total_requests == 2
    with pytest.raises(KeyError, match="not kept"):
        mesh.get_statistics().model("p-model")


def test_statistics_go_on_being_flushed(build: Build, watcher: Any, wait_for: WaitFor) -> None:
    """In the new configuration's intervals, which begin with it."""
    clock, one = FakeClock(), ScriptedProvider()
    mesh = build(clock=clock, observer=watcher, one=one)
    mesh.reload(observer=watcher, one=one)
    mesh.ask()
    flushing = mesh._built().flushing
    assert flushing is not None
    clock.advance(3_600.0)

    flushing.flush_if_due()

    wait_for(lambda: len(watcher.stats) == 1)


def test_stages_somebody_put_in_stay(build: Build) -> None:
    """A pipeline that was put together by hand is so after a reload, too."""
    seen: list[str] = []

    class Noted(PipelineStage):
        name = "noted"

        def process(self, context: PipelineContext) -> PipelineContext:
            seen.append(context.capability)
            return context

    mesh = build(old=ScriptedProvider())
    mesh.get_router().pipeline.add_stage(Noted(), 0)

    mesh.reload(new=ScriptedProvider())

    assert mesh.ask() == "new-model"
    assert seen == ["chat"]
