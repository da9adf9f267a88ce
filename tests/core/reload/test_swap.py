"""`ModelMesh.reload_config`: another configuration while requests run, and what becomes of the one before."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modelmesh import ModelMesh
from modelmesh._engine.retirement import LOOK_SECONDS
from modelmesh.errors import ConfigurationError, ProviderServerError, StateStoreError, UsageError
from modelmesh.router import CompletionRequest
from modelmesh_cdk.testing import FakeClock, ScriptedProvider, hang, pieces

Build = Callable[..., Any]
WaitFor = Callable[[Callable[[], bool]], None]
HELLO = CompletionRequest([{"role": "user", "content": "hi"}])


def test_the_next_request_goes_by_the_new_configuration(build: Build) -> None:
    """Through the mesh, through a client, and through a router somebody holds since before."""
    mesh = build(old=ScriptedProvider())
    router, client = mesh.get_router(), mesh.get_client()

    mesh.reload(new=ScriptedProvider())

    assert mesh.ask() == router.complete("chat", HELLO).model == "new-model"
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
    assert mesh.ask() == "old-model"


def test_what_cannot_be_built_changes_nothing_either(build: Build, stuck: Any) -> None:
    """An observability connector that cannot start refuses the whole; who rests goes on resting."""
    mesh = build(old=ScriptedProvider(), other=ScriptedProvider())
    mesh.rest("old-model")

    with pytest.raises(ConfigurationError, match="port 9"):
        mesh.reload(observer=stuck, new=ScriptedProvider())

    assert mesh.pool_status()["chat"]["standby"] == 1
    assert mesh.ask() == "other-model"


def test_a_store_that_does_not_answer_changes_nothing_either(build: Build, tmp_path: Path) -> None:
    """Under it every call with a budget would be refused, though all goes well with the store that was."""
    limited = {"connector": "modelmesh.simulator.v1", "quota": {"requests": 5}}
    mesh = build(sim=limited)

    with pytest.raises(StateStoreError, match=r"the folder of .* does not exist"):
        mesh.reload(sim=limited, extra={"storage": {"connector": "file", "path": str(tmp_path / "no" / "state.json")}})

    assert mesh.ask() == "sim-model"
    assert [row.spent for row in mesh.get_quota()] == [1]


def test_a_store_that_an_earlier_configuration_still_has_is_told_from_one_of_another_mesh(
    build: Build, tmp_path: Path
) -> None:
    """It is let go by itself, so nobody has to end a mesh."""
    stored = [{"storage": {"connector": "file", "path": str(tmp_path / name)}} for name in ("one", "two")]
    only = {"connector": "modelmesh.simulator.v1"}
    mesh = build(clock=FakeClock(), sim=only, extra=stored[0])
    mesh.reload(sim=only, extra=stored[1])

    with pytest.raises(StateStoreError) as caught:
        mesh.reload(sim=only, extra=stored[0])

    assert caught.value.message == (
        f"{tmp_path / 'one'} is in use by an earlier configuration of this mesh, until its last requests are done;"
        " reload again in a moment"
    )


def test_other_settings_of_a_file_that_the_mesh_has_ask_for_a_new_start(build: Build, tmp_path: Path) -> None:
    """It serves one store alone, and the old one stays until the new one answers."""
    stored = {"connector": "file", "path": str(tmp_path / "one")}
    mesh = build(sim=(only := {"connector": "modelmesh.simulator.v1"}), extra={"storage": stored})

    with pytest.raises(StateStoreError) as caught:
        mesh.reload(sim=only, extra={"storage": {**stored, "backup": True}})

    assert caught.value.message == (
        f"{tmp_path / 'one'} is in use by this mesh, and a reload does not change the settings of the store there; end"
        " the mesh and start it anew"
    )
    assert mesh.ask() == "sim-model"


def test_two_hundred_requests_on_their_way_are_all_answered(build: Build, wait_for: WaitFor) -> None:
    """They finish where they began; whoever asks meanwhile is answered by the new one; nobody fails."""
    old, new = ScriptedProvider(default=hang()), ScriptedProvider()
    mesh = build(clock=FakeClock(), old=old)
    router = mesh.get_router()

    async def asking() -> list[str]:
        running = [asyncio.create_task(router.acomplete("chat", HELLO)) for _ in range(200)]
        await asyncio.to_thread(wait_for, lambda: old.active == 200)
        await asyncio.to_thread(mesh.reload, new=new)
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
                mesh.ask()
            except Exception as error:
                failures.append(error)

    threads = [threading.Thread(target=asking) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(1, 21):
        mesh.reload(**{f"p{number}": ScriptedProvider()})
    over.set()
    for thread in threads:
        thread.join()

    assert failures == []
    assert mesh.ask() == "p20-model"


# --- when it cannot be -------------------------------------------------------------------------


def test_it_takes_a_mesh_that_runs(build: Build) -> None:
    """Before `initialize` and after `shutdown` it says what to call."""
    empty, ended = ModelMesh(environ={}), build(old=ScriptedProvider())
    ended.shutdown()

    with pytest.raises(UsageError, match="initialize"):
        empty.reload_config({})
    with pytest.raises(UsageError, match="shut down"):
        ended.reload(new=ScriptedProvider())


def test_secrets_given_at_the_start_are_known_to_a_reload() -> None:
    """Those that `create` was handed are in no environment."""
    vendor = {"connector": "modelmesh.openai-compatible.v1", "base_url": "http://127.0.0.1:9/v1"}
    raw = {
        "providers": {"vendor": {**vendor, "api_key": "${secrets:KEY}"}},
        "models": {"small": {"provider": "vendor", "capabilities": ["chat-completion"]}},
        "pools": {"chat-completion": {}},
    }
    with ModelMesh(environ={}) as mesh:
        mesh.initialize(raw, secrets={"KEY": "sk-given-0123456789"})

        mesh.reload_config(raw)

        assert mesh.active_providers() == ["vendor"]


# --- what was replaced -------------------------------------------------------------------------


def look_again(clock: FakeClock, provider: ScriptedProvider) -> bool:
    """Let the mesh look whether what it replaced is idle; return whether a provider of that is closed."""
    clock.advance(LOOK_SECONDS)
    return provider.is_closed


def test_old_connectors_are_closed_when_their_last_request_is_done(build: Build, wait_for: WaitFor) -> None:
    """Not before, and without anybody waiting for it."""
    clock, old = FakeClock(), ScriptedProvider(default=hang())
    mesh = build(clock=clock, old=old)
    asking = threading.Thread(target=mesh.ask)
    asking.start()
    wait_for(lambda: old.active == 1)
    mesh.reload(new=ScriptedProvider())
    for _ in range(5):
        wait_for(lambda: clock.sleepers == 1)
        clock.advance(LOOK_SECONDS)
    assert not old.is_closed

    old.release()
    asking.join()

    wait_for(lambda: look_again(clock, old))


def test_a_stream_that_nobody_has_begun_to_read_keeps_its_connector(build: Build, wait_for: WaitFor) -> None:
    """It was promised an answer."""
    clock, old = FakeClock(), ScriptedProvider(default=pieces("a", "b"))
    mesh = build(clock=clock, old=old)
    stream = mesh.get_client().chat.completions.create(model="chat", messages=HELLO.messages, stream=True)
    mesh.reload(new=ScriptedProvider())
    for _ in range(5):
        wait_for(lambda: clock.sleepers == 1)
        clock.advance(LOOK_SECONDS)

    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)

    assert text == "ab"
    wait_for(lambda: look_again(clock, old))


def test_a_request_that_waits_before_a_retry_keeps_its_connector(build: Build, wait_for: WaitFor) -> None:
    """It runs nowhere just then, and is on its way all the same."""
    clock, old = FakeClock(), ScriptedProvider([ProviderServerError("no", status_code=500)])
    mesh = build(clock=clock, old=old, pool={"retry": {"initial_delay": "20s", "max_delay": "20s"}})
    answers: list[str] = []
    asking = threading.Thread(target=lambda: answers.append(mesh.ask()))
    asking.start()
    wait_for(lambda: clock.sleepers == 1)
    mesh.reload(new=ScriptedProvider())
    for _ in range(5):
        wait_for(lambda: clock.sleepers == 2)
        clock.advance(LOOK_SECONDS)
    assert not old.is_closed

    clock.advance(60.0)
    asking.join()

    assert answers == ["old-model"]


def test_a_request_that_never_ends_is_not_waited_for_for_ever(build: Build, wait_for: WaitFor) -> None:
    """The longest deadline of the old pools is the limit."""
    clock, old = FakeClock(), ScriptedProvider(default=hang())
    mesh = build(clock=clock, old=old, pool={"deadline": "5s"})
    asking = threading.Thread(target=mesh.ask)
    asking.start()
    wait_for(lambda: old.active == 1)
    mesh.reload(new=ScriptedProvider())

    wait_for(lambda: clock.sleepers == 1)
    clock.advance(6.0)

    wait_for(lambda: old.is_closed)
    old.release()
    asking.join()


def test_a_shutdown_closes_what_was_replaced_as_well(build: Build) -> None:
    """Even where it is still waited for."""
    old, new = ScriptedProvider(), ScriptedProvider()
    mesh = build(clock=FakeClock(), old=old)
    mesh.reload(new=new)

    mesh.shutdown()

    assert old.is_closed
    assert new.is_closed


def test_what_was_replaced_is_let_go(build: Build, wait_for: WaitFor) -> None:
    """Though somebody holds the first of all, as a collector does from whose sight it was taken."""
    mesh = build(a=ScriptedProvider())
    held = mesh._graph
    pools = []
    for _ in range(3):
        pools.append(weakref.ref(mesh.get_router().get_pool("chat")))
        mesh.reload(a=ScriptedProvider())
        mesh.ask()

    wait_for(lambda: not len(mesh._retired))
    gc.collect()

    assert held is not None
    assert [pool() is not None for pool in pools] == [True, False, False]


def test_an_instance_that_stays_is_not_closed(build: Build, watcher: Any, wait_for: WaitFor) -> None:
    """A connector passed in ready-made serves the new configuration as it did the old one."""
    stays = ScriptedProvider()
    mesh = build(stays=stays, gone=(gone := ScriptedProvider()), observer=watcher)

    mesh.reload(stays=stays, observer=watcher)

    wait_for(lambda: gone.is_closed)
    assert not stays.is_closed
    assert not watcher.is_closed
    assert mesh.ask() == "stays-model"
