"""`ModelMesh.reload_config`: another configuration while requests run, with the state of what survives."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from modelmesh import ModelMesh, PipelineContext, PipelineStage
from modelmesh._engine.retirement import LOOK_SECONDS
from modelmesh.errors import AuthenticationError, ConfigurationError, ProviderServerError, UsageError
from modelmesh.interfaces.observability import EventType, ObservabilityConnector, RoutingEvent
from modelmesh.interfaces.strategy import DeactivationReason
from modelmesh.router import CompletionRequest
from modelmesh_cdk.testing import FakeClock, ScriptedProvider, fail, hang, pieces

HELLO = CompletionRequest([{"role": "user", "content": "hi"}])
NEW_KEY = {"api_key": "sk-a-new-key-0123456789"}

Build = Callable[..., ModelMesh]


class Watcher(ObservabilityConnector):
    """Keeps events, and says whether it was closed."""

    def __init__(self) -> None:
        self.events: list[RoutingEvent] = []
        self.traces: list[Any] = []
        self.stats: list[Any] = []
        self.is_closed = False

    def emit(self, event: RoutingEvent) -> None:
        self.events.append(event)

    def log(self, entry: Any) -> None: ...

    def flush(self, stats: Any) -> None:
        self.stats.append(stats)

    def trace(self, entry: Any) -> None:
        self.traces.append(entry)

    def close(self) -> None:
        self.is_closed = True


def config(observer: Any = None, pool: Any = None, extra: Any = None, **providers: Any) -> dict[str, Any]:
    """A pool ``chat`` over these providers, instances or settings, each with a model ``<provider>-model``."""
    whole: dict[str, Any] = {
        "providers": {name: each if isinstance(each, dict) else {"instance": each} for name, each in providers.items()},
        "models": {f"{name}-model": {"provider": name, "capabilities": ["chat-completion"]} for name in providers},
        "pools": {"chat": {"capability": "chat-completion", **(pool or {})}},
        **(extra or {}),
    }
    if observer is not None:
        whole["observability"] = {"instance": observer}
    return whole


@pytest.fixture
def build() -> Iterator[Build]:
    """Build meshes that are shut down when the test is over."""
    meshes: list[ModelMesh] = []

    def make(clock: FakeClock | None = None, **rest: Any) -> ModelMesh:
        mesh = ModelMesh(clock=clock or FakeClock(auto_advance=True), environ={})
        meshes.append(mesh)
        mesh.initialize(config(**rest))
        return mesh

    yield make
    for mesh in meshes:
        mesh.shutdown()


def ask(mesh: ModelMesh) -> str:
    """Ask for an answer and return who gave it."""
    return mesh.get_router().complete("chat", HELLO).model


def rest(mesh: ModelMesh, model: str, reason: str = "error_threshold") -> None:
    """Put a model of the pool to rest."""
    pool = mesh.get_router().get_pool("chat")
    pool.deactivate(pool.members[model].model, reason)


def wait_for(happened: Callable[[], bool]) -> None:
    """Wait until something that another thread does has happened."""
    for _ in range(2_000):
        if happened():
            return
        threading.Event().wait(0.001)
    raise AssertionError("it never happened")


def look_again(clock: FakeClock, provider: ScriptedProvider) -> bool:
    """Let the mesh look whether what it replaced is idle; return whether a provider of that is closed."""
    clock.advance(LOOK_SECONDS)
    return provider.is_closed


# --- the swap -----------------------------------------------------------------------------


def test_the_next_request_goes_by_the_new_configuration(build: Build) -> None:
    """Through the mesh, through a client, and through a router somebody holds since before."""
    mesh = build(old=ScriptedProvider())
    router, client = mesh.get_router(), mesh.get_client()

    mesh.reload_config(config(new=ScriptedProvider()))

    assert ask(mesh) == router.complete("chat", HELLO).model == "new-model"
    reply = client.chat.completions.create(model="chat", messages=HELLO.messages)
    assert reply.receipt.attempts[0].model_id == "new-model"
    assert mesh.list_models() == ["new-model"]


def test_a_configuration_that_is_wrong_changes_nothing(build: Build, tmp_path: Path) -> None:
    """Every problem is listed with file and line; the old configuration answers on."""
    mesh = build(old=ScriptedProvider())
    file = tmp_path / "mesh.yaml"
    file.write_text("providers:\n  x: {connector: no.such.v1}\npools:\n  chat: {strategie: round-robin}\n")

    with pytest.raises(ConfigurationError) as caught:
        mesh.reload_config(file)

    assert [(problem.file, problem.line) for problem in caught.value.problems] == [(str(file), 2), (str(file), 4)]
    assert ask(mesh) == "old-model"


def test_what_cannot_be_built_changes_nothing_either(build: Build) -> None:
    """An observability connector that cannot start refuses the whole; who rests goes on resting."""

    class Stuck(Watcher):
        def attach(self, mesh: ModelMesh) -> None:
            raise ConfigurationError("port 9 is taken")

    mesh = build(old=ScriptedProvider(), other=ScriptedProvider())
    rest(mesh, "old-model")

    with pytest.raises(ConfigurationError, match="port 9"):
        mesh.reload_config(config(observer=Stuck(), new=ScriptedProvider()))

    assert mesh.pool_status()["chat"]["standby"] == 1
    assert ask(mesh) == "other-model"


def test_two_hundred_requests_on_their_way_are_all_answered(build: Build) -> None:
    """They finish where they began; whoever asks meanwhile is answered by the new one; nobody fails."""
    old, new = ScriptedProvider(default=hang()), ScriptedProvider()
    mesh = build(clock=FakeClock(), old=old)
    router = mesh.get_router()

    async def asking() -> list[str]:
        running = [asyncio.create_task(router.acomplete("chat", HELLO)) for _ in range(200)]
        await asyncio.to_thread(wait_for, lambda: old.active == 200)
        await asyncio.to_thread(mesh.reload_config, config(new=new))
        running += [asyncio.create_task(router.acomplete("chat", HELLO)) for _ in range(50)]
        await asyncio.gather(*running[200:])
        old.release()
        return [answer.model for answer in await asyncio.gather(*running)]

    assert asyncio.run(asking()) == ["old-model"] * 200 + ["new-model"] * 50


def test_reloading_again_and_again_fails_nobody(build: Build) -> None:
    """Requests come without pause from several threads while the configuration changes twenty times."""
    mesh = build(clock=None, p0=ScriptedProvider())
    over, failures = threading.Event(), list[Exception]()

    def asking() -> None:
        while not over.is_set():
            try:
                ask(mesh)
            except Exception as error:
                failures.append(error)

    threads = [threading.Thread(target=asking) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(1, 21):
        mesh.reload_config(config(**{f"p{number}": ScriptedProvider()}))
    over.set()
    for thread in threads:
        thread.join()

    assert failures == []
    assert ask(mesh) == "p20-model"


# --- the old graph -------------------------------------------------------------------------


def test_old_connectors_are_closed_when_their_last_request_is_done(build: Build) -> None:
    """Not before, and without anybody waiting for it."""
    clock, old = FakeClock(), ScriptedProvider(default=hang())
    mesh = build(clock=clock, old=old)
    asking = threading.Thread(target=ask, args=(mesh,))
    asking.start()
    wait_for(lambda: old.active == 1)
    mesh.reload_config(config(new=ScriptedProvider()))
    for _ in range(5):
        wait_for(lambda: clock.sleepers == 1)
        clock.advance(LOOK_SECONDS)
    assert not old.is_closed

    old.release()
    asking.join()

    wait_for(lambda: look_again(clock, old))


def test_a_stream_that_nobody_has_begun_to_read_keeps_its_connector(build: Build) -> None:
    """It was promised an answer."""
    clock, old = FakeClock(), ScriptedProvider(default=pieces("a", "b"))
    mesh = build(clock=clock, old=old)
    stream = mesh.get_client().chat.completions.create(model="chat", messages=HELLO.messages, stream=True)
    mesh.reload_config(config(new=ScriptedProvider()))
    for _ in range(5):
        wait_for(lambda: clock.sleepers == 1)
        clock.advance(LOOK_SECONDS)

    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)

    assert text == "ab"
    wait_for(lambda: look_again(clock, old))


def test_a_request_that_waits_before_a_retry_keeps_its_connector(build: Build) -> None:
    """It runs nowhere just then, and is on its way all the same."""
    clock, old = FakeClock(), ScriptedProvider([ProviderServerError("no", status_code=500)])
    mesh = build(clock=clock, old=old, pool={"retry": {"initial_delay": "20s", "max_delay": "20s"}})
    answers: list[str] = []
    asking = threading.Thread(target=lambda: answers.append(ask(mesh)))
    asking.start()
    wait_for(lambda: clock.sleepers == 1)
    mesh.reload_config(config(new=ScriptedProvider()))
    for _ in range(5):
        wait_for(lambda: clock.sleepers == 2)
        clock.advance(LOOK_SECONDS)
    assert not old.is_closed

    clock.advance(60.0)
    asking.join()

    assert answers == ["old-model"]


def test_a_request_that_never_ends_is_not_waited_for_for_ever(build: Build) -> None:
    """The longest deadline of the old pools is the limit."""
    clock, old = FakeClock(), ScriptedProvider(default=hang())
    mesh = build(clock=clock, old=old, pool={"deadline": "5s"})
    asking = threading.Thread(target=ask, args=(mesh,))
    asking.start()
    wait_for(lambda: old.active == 1)
    mesh.reload_config(config(new=ScriptedProvider()))

    wait_for(lambda: clock.sleepers == 1)
    clock.advance(6.0)

    wait_for(lambda: old.is_closed)
    old.release()
    asking.join()


def test_a_shutdown_closes_what_was_replaced_as_well(build: Build) -> None:
    """Even where it is still waited for."""
    old, new = ScriptedProvider(), ScriptedProvider()
    mesh = build(clock=FakeClock(), old=old)
    mesh.reload_config(config(new=new))

    mesh.shutdown()

    assert old.is_closed
    assert new.is_closed


def test_what_was_replaced_is_let_go(build: Build) -> None:
    """Though somebody holds the first of all, as a collector does from whose sight it was taken."""
    mesh = build(a=ScriptedProvider())
    held = mesh._graph
    pools = []
    for _ in range(3):
        pools.append(weakref.ref(mesh.get_router().get_pool("chat")))
        mesh.reload_config(config(a=ScriptedProvider()))
        ask(mesh)

    wait_for(lambda: not len(mesh._retired))
    gc.collect()

    assert held is not None
    assert [pool() is not None for pool in pools] == [True, False, False]


def test_an_instance_that_stays_is_not_closed(build: Build) -> None:
    """A connector passed in ready-made serves the new configuration as it did the old one."""
    stays, watcher = ScriptedProvider(), Watcher()
    mesh = build(stays=stays, gone=(gone := ScriptedProvider()), observer=watcher)

    mesh.reload_config(config(stays=stays, observer=watcher))

    wait_for(lambda: gone.is_closed)
    assert not stays.is_closed
    assert not watcher.is_closed
    assert ask(mesh) == "stays-model"


# --- what carries over ------------------------------------------------------------------------


def test_figures_carry_over(build: Build) -> None:
    """Of models, providers and pools, and the statistics of all of them."""
    same = ScriptedProvider()
    mesh = build(same=same)
    ask(mesh)

    mesh.reload_config(config(same=same, new=ScriptedProvider()))
    ask(mesh)

    assert mesh.get_registry().get_model("same-model").state.quota_used == 2  # type: ignore[union-attr]  # it is there
    assert mesh.get_statistics().model("same-model").total_requests == 2
    assert mesh.pool_status()["chat"]["total_requests"] == 2


def test_figures_carry_over_to_another_connector(build: Build) -> None:
    """What was used was used; what is on its way in the old one counts there alone."""
    mesh = build(same=ScriptedProvider())
    ask(mesh)
    before = mesh.get_registry().get_model("same-model").state  # type: ignore[union-attr]  # it is there

    mesh.reload_config(config(same=ScriptedProvider()))
    ask(mesh)

    after = mesh.get_registry().get_model("same-model").state  # type: ignore[union-attr]  # as above
    assert (before.quota_used, after.quota_used) == (1, 2)


def test_a_model_that_is_another_providers_begins_anew(build: Build) -> None:
    """Its name is all that it has in common with the earlier one."""
    one, other = ScriptedProvider(), ScriptedProvider()
    mesh = build(one=one, other=other, pool={"strategy": "round-robin"})
    ask(mesh)
    moved = config(one=one, other=other)
    moved["models"]["one-model"]["provider"] = "other"

    mesh.reload_config(moved)

    assert mesh.get_registry().get_model("one-model").state.quota_used == 0  # type: ignore[union-attr]  # it is there


def test_a_strategy_goes_on_where_it_was(build: Build) -> None:
    """Round-robin asks whoever is next, and not the first one again."""
    one, other = ScriptedProvider(), ScriptedProvider()
    mesh = build(one=one, other=other, pool={"strategy": "round-robin"})
    assert ask(mesh) == "one-model"

    mesh.reload_config(config(one=one, other=other, pool={"strategy": "round-robin", "deadline": "9s"}))

    assert ask(mesh) == "other-model"


def test_another_strategy_chooses_from_the_next_request_on(build: Build) -> None:
    """The old one is not kept because the pool has kept its name."""
    one, other = ScriptedProvider(), ScriptedProvider()
    mesh = build(one=one, other=other, pool={"strategy": "round-robin"})
    assert ask(mesh) == "one-model"
    preferring = {"strategy": "priority-selection", "model_priority": ["one-model"]}

    mesh.reload_config(config(one=one, other=other, pool=preferring))

    assert [ask(mesh), ask(mesh)] == ["one-model", "one-model"]


@pytest.mark.parametrize("reason", ["error_threshold", "rate_limited", "manual"])
def test_who_rests_goes_on_resting(build: Build, reason: str) -> None:
    """For as long as was left."""
    one, other, clock = ScriptedProvider(), ScriptedProvider(), FakeClock()
    mesh = build(clock=clock, one=one, other=other)
    rest(mesh, "one-model", reason)
    before = mesh.get_router().get_pool("chat").members["one-model"].cooldown_remaining
    clock.advance(10.0)

    mesh.reload_config(config(one=one, other=other, new=ScriptedProvider()))

    member = mesh.get_router().get_pool("chat").members["one-model"]
    assert (member.active, member.reason) == (False, reason)
    assert member.cooldown_remaining == (None if before is None else pytest.approx(before - 10.0))
    assert member.model.state.status == "standby"
    assert ask(mesh) == "other-model"


def test_a_provider_with_a_new_key_may_be_called_at_once(build: Build) -> None:
    """What it was put to rest for may be just what was corrected."""
    settings = {"connector": "modelmesh.openai-compatible.v1", "base_url": "http://127.0.0.1:9/v1"}
    mesh = build(vendor={**settings, "api_key": "sk-an-old-key-0123456789"}, other=(other := ScriptedProvider()))
    provider = mesh.get_registry().find_by_provider("vendor")[0].provider
    provider.deactivate("auth_failure", auth=True, rest=60.0, now=0.0)
    assert "vendor" not in mesh.active_providers()

    mesh.reload_config(config(vendor={**settings, **NEW_KEY}, other=other))

    assert "vendor" in mesh.active_providers()
    assert mesh.pool_status()["chat"]["standby"] == 0
    state = mesh.get_registry().find_by_provider("vendor")[0].state
    assert (state.status, state.deactivation_reason) == ("active", None)


def test_who_was_put_aside_by_hand_stays_aside_whatever_is_corrected(build: Build) -> None:
    """A person wanted it so; no new connector tells otherwise."""
    other = ScriptedProvider()
    mesh = build(one=ScriptedProvider(), other=other)
    rest(mesh, "one-model", "manual")

    mesh.reload_config(config(one=ScriptedProvider(), other=other))

    assert mesh.get_router().get_pool("chat").members["one-model"].reason == "manual"


def test_a_larger_limit_ends_the_rest_it_was_for(build: Build) -> None:
    """Where limits stay as they are, so does the rest."""
    one, other = ScriptedProvider(), ScriptedProvider()
    pool = {"deactivation": {"request_limit": 1}}
    mesh = build(one=one, other=other, pool=pool)
    rest(mesh, "one-model", DeactivationReason.REQUEST_LIMIT.value)

    mesh.reload_config(config(one=one, other=other, pool=pool))
    still = mesh.pool_status()["chat"]["standby"]
    mesh.reload_config(config(one=one, other=other, pool={"deactivation": {"request_limit": 5}}))

    assert (still, mesh.pool_status()["chat"]["standby"]) == (1, 0)


def test_what_was_spent_stays_spent(build: Build) -> None:
    """The books of limits are kept with the state store."""
    limited = {"connector": "modelmesh.simulator.v1", "quota": {"requests": 1, "reset_schedule": "monthly"}}
    mesh = build(sim=limited)
    ask(mesh)

    mesh.reload_config(config(sim=limited, new=ScriptedProvider()))

    assert [row.spent for row in mesh.get_quota()] == [1]
    assert ask(mesh) == "new-model"


def test_a_failure_that_comes_late_is_heard_in_the_new_pools(build: Build) -> None:
    """A request of before the change that finds its provider refusing the key puts it to rest there as well."""
    refusal = fail(AuthenticationError("no", status_code=401), delay=9.0)
    one, other, clock = ScriptedProvider([refusal]), ScriptedProvider(), FakeClock()
    mesh = build(clock=clock, one=one, other=other)
    asking = threading.Thread(target=ask, args=(mesh,))
    asking.start()
    wait_for(lambda: one.active == 1 and clock.sleepers == 1)
    mesh.reload_config(config(one=one, other=other))

    clock.advance(9.0)
    asking.join()

    assert mesh.get_router().get_pool("chat").members["one-model"].reason == "provider_unavailable"
    assert mesh.active_providers() == ["other"]
    assert mesh.provider_status()["one"]["reason"] == "auth_failure"


@pytest.mark.parametrize("left", ["another connector", "the last one"])
def test_a_failure_that_comes_late_says_nothing_against(build: Build, left: str) -> None:
    """A connector that has been replaced since, or the only model that is left to ask."""
    failure = fail(ProviderServerError("no", status_code=500), delay=9.0)
    one, other, clock = ScriptedProvider([failure]), ScriptedProvider(), FakeClock()
    pool = {"deactivation": {"retry_limit": 1}, "retry": {"max_attempts": 0}}
    mesh = build(clock=clock, one=one, other=other, pool=pool)
    asking = threading.Thread(target=ask, args=(mesh,))
    asking.start()
    wait_for(lambda: one.active == 1 and clock.sleepers == 1)
    rest_of_it = {"one": ScriptedProvider(), "other": other} if left == "another connector" else {"one": one}
    mesh.reload_config(config(pool=pool, **rest_of_it))

    clock.advance(9.0)
    asking.join()

    member = mesh.get_router().get_pool("chat").members["one-model"]
    assert (member.active, member.model.state.status) == (True, "active")


def test_downtime_goes_on_where_it_was(build: Build) -> None:
    """Of a model that rests on; one that is gone is not down any more."""
    one, other, clock = ScriptedProvider(), ScriptedProvider(), FakeClock()
    mesh = build(clock=clock, one=one, other=other, third=(third := ScriptedProvider()))
    for name in ("one-model", "third-model"):
        rest(mesh, name, "manual")
    clock.advance(10.0)

    mesh.reload_config(config(one=one, other=other))
    clock.advance(10.0)

    assert mesh.get_statistics().model("one-model").downtime_total == pytest.approx(20.0)
    assert mesh.get_statistics().model("third-model").downtime_total == pytest.approx(10.0)
    assert third is not None


def test_a_refused_configuration_ends_no_downtime(build: Build) -> None:
    """What was built for it said that everybody can be reached."""

    class Stuck(Watcher):
        def attach(self, mesh: ModelMesh) -> None:
            raise ConfigurationError("port 9 is taken")

    one, other, clock = ScriptedProvider(), ScriptedProvider(), FakeClock()
    mesh = build(clock=clock, one=one, other=other)
    rest(mesh, "one-model", "manual")
    with pytest.raises(ConfigurationError):
        mesh.reload_config(config(observer=Stuck(), one=one, other=other))
    clock.advance(10.0)

    assert mesh.get_statistics().model("one-model").downtime_total == pytest.approx(10.0)


def test_a_batch_goes_on_with_the_new_providers(build: Build) -> None:
    """What is left of it is asked of them."""
    old, new = ScriptedProvider(default=hang()), ScriptedProvider()
    mesh = build(clock=FakeClock(), old=old)
    router = mesh.get_router()
    job = router.batch("chat", [HELLO] * 20)
    wait_for(lambda: old.active == 8)
    mesh.reload_config(config(new=new))

    old.release()

    wait_for(lambda: router.get_batch(job.job_id).status == "completed")
    assert (len(old.requests), len(new.requests)) == (8, 12)


def test_a_batch_goes_on_with_the_new_providers_though_its_store_was_replaced(build: Build, tmp_path: Path) -> None:
    """Its job stays in the store that was; what is left of it is asked all the same."""
    old, new = ScriptedProvider(default=hang()), ScriptedProvider()
    mesh = build(clock=FakeClock(), old=old)
    mesh.get_router().batch("chat", [HELLO] * 20)
    wait_for(lambda: old.active == 8)
    mesh.reload_config(config(new=new, extra={"storage": {"connector": "file", "path": str(tmp_path / "store")}}))

    old.release()

    wait_for(lambda: len(new.requests) == 12)


def test_batches_of_another_store_follow_later_configurations(build: Build, tmp_path: Path) -> None:
    """They ask whatever is in force when they ask."""
    stored = {"storage": {"connector": "file", "path": str(tmp_path / "store")}}
    mesh = build(p=ScriptedProvider())
    mesh.reload_config(config(p=(second := ScriptedProvider()), extra=stored))
    mesh.reload_config(config(p=(third := ScriptedProvider()), extra=stored))

    router = mesh.get_router()
    job = router.batch("chat", [HELLO] * 3)

    wait_for(lambda: router.get_batch(job.job_id).status == "completed")
    assert (len(second.requests), len(third.requests)) == (0, 3)


@pytest.mark.parametrize("same", [True, False], ids=["same store", "other store"])
def test_the_store_is_kept_as_long_as_it_is_the_same(build: Build, tmp_path: Path, same: bool) -> None:
    """Another one begins with empty books."""
    limited = {"connector": "modelmesh.simulator.v1", "quota": {"requests": 5, "reset_schedule": "monthly"}}

    def stored(name: str) -> dict[str, Any]:
        return {"storage": {"connector": "file", "path": str(tmp_path / name)}}

    mesh = build(sim=limited, extra=stored("one"))
    ask(mesh)

    mesh.reload_config(config(sim=limited, extra=stored("one" if same else "two")))
    ask(mesh)

    assert [row.spent for row in mesh.get_quota()] == [2 if same else 1]
    mesh.shutdown()
    assert (tmp_path / "two").exists() is not same


# --- who watches ---------------------------------------------------------------------------------


def test_only_what_changed_is_told(build: Build) -> None:
    """One event for the pool whose members changed, and none for what was there before."""
    same, watcher = ScriptedProvider(), Watcher()
    mesh = build(same=same, observer=watcher)
    mesh.get_router().complete("chat", HELLO)

    mesh.reload_config(config(same=same, new=ScriptedProvider(), observer=watcher))

    def told() -> list[Any]:
        return [each.metadata for each in watcher.events if each.event_type is EventType.POOL_MEMBERSHIP_CHANGED]

    wait_for(lambda: len(told()) == 2)
    assert told() == [{"added": ["same-model"], "removed": []}, {"added": ["new-model"], "removed": []}]


def test_a_pool_that_stays_as_it_is_is_not_told_of(build: Build) -> None:
    """Neither its members nor anything else of it, while its neighbour is told to have got one more."""
    same, watcher = ScriptedProvider(), Watcher()
    pools = {"chat": {"capability": "chat-completion"}, "still": {"models": ["same-model"]}}
    mesh = build(same=same, observer=watcher, extra={"pools": pools})
    wait_for(lambda: {each.pool_id for each in watcher.events} == {"chat", "still"})
    watcher.events.clear()

    mesh.reload_config(config(same=same, new=ScriptedProvider(), observer=watcher, extra={"pools": pools}))
    mesh.reload_config(config(same=same, new=ScriptedProvider(), observer=watcher, extra={"pools": pools}))
    mesh.shutdown()

    assert [(each.event_type, each.pool_id) for each in watcher.events if each.pool_id is not None] == [
        (EventType.POOL_MEMBERSHIP_CHANGED, "chat")
    ]


def test_observers_come_and_go(build: Build) -> None:
    """The one that leaves is closed when it has had everything; the one that comes is attached before."""
    first, second, attached = Watcher(), Watcher(), list[ModelMesh]()
    second.attach = attached.append  # type: ignore[attr-defined]  # read with getattr
    mesh = build(p=(provider := ScriptedProvider()), observer=first)

    mesh.reload_config(config(p=provider, observer=second))

    wait_for(lambda: first.is_closed)
    assert mesh.observers() == [second]
    assert attached == [mesh]
    wait_for(lambda: any("new configuration" in each.message for each in second.traces))


def test_an_observer_is_sent_what_the_new_configuration_says(build: Build) -> None:
    """The same connector, another subscription; a level that was set while it ran stays as long as it is the same."""
    watcher, provider = Watcher(), ScriptedProvider()
    quiet = {"observability": {"instance": watcher, "events": {"filter": ["rotation"]}}}
    mesh = build(p=provider, observer=watcher)
    before = len(watcher.events)

    mesh.reload_config(config(extra=quiet, p=provider, q=ScriptedProvider()))
    rest(mesh, "q-model")

    wait_for(lambda: any("new configuration" in each.message for each in watcher.traces))
    assert len(watcher.events) - before <= 1
    assert mesh.observers() == [watcher]
    assert EventType.MODEL_DEACTIVATED not in {each.event_type for each in watcher.events}


def test_statistics_are_kept_as_the_new_configuration_says(build: Build) -> None:
    """Scopes that are not wanted any more are dropped."""
    provider, section = ScriptedProvider(), {"connector": "modelmesh.null.v1", "statistics": {"scopes": ["pool"]}}
    mesh = build(p=provider)
    ask(mesh)

    mesh.reload_config(config(p=provider, extra={"observability": section}))
    ask(mesh)

    assert mesh.get_statistics().pool("chat").total_requests == 2
    with pytest.raises(KeyError, match="not kept"):
        mesh.get_statistics().model("p-model")


def test_statistics_go_on_being_flushed(build: Build) -> None:
    """In the new configuration's intervals, which begin with it."""
    watcher, clock, one = Watcher(), FakeClock(), ScriptedProvider()
    mesh = build(clock=clock, observer=watcher, one=one)
    mesh.reload_config(config(observer=watcher, one=one))
    ask(mesh)
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

    mesh.reload_config(config(new=ScriptedProvider()))

    assert ask(mesh) == "new-model"
    assert seen == ["chat"]


# --- when it cannot be -----------------------------------------------------------------------------


def test_it_takes_a_mesh_that_runs(build: Build) -> None:
    """Before `initialize` and after `shutdown` it says what to call."""
    empty, ended = ModelMesh(environ={}), build(old=ScriptedProvider())
    ended.shutdown()

    with pytest.raises(UsageError, match="initialize"):
        empty.reload_config(config(new=ScriptedProvider()))
    with pytest.raises(UsageError, match="shut down"):
        ended.reload_config(config(new=ScriptedProvider()))


def test_secrets_given_at_the_start_are_known_to_a_reload() -> None:
    """Those that `create` was handed are in no environment."""
    settings = {"connector": "modelmesh.openai-compatible.v1", "base_url": "http://127.0.0.1:9/v1"}
    raw = config(vendor={**settings, "api_key": "${secrets:KEY}"})
    with ModelMesh(environ={}) as mesh:
        mesh.initialize(raw, secrets={"KEY": "sk-given-0123456789"})

        mesh.reload_config(raw)

        assert mesh.active_providers() == ["vendor"]
