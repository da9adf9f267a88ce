"""State survives a restart: usage, health and rests, minus the time that passed."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from modelmesh import ModelMesh, PluginHost
from modelmesh.errors import AuthenticationError, ProviderServerError, StateStoreError
from modelmesh.interfaces.observability import Severity
from modelmesh.interfaces.state_store import StoreGuarantees
from modelmesh.router import CompletionRequest
from modelmesh.state_manager import (
    CORRUPT_KEY,
    FORMAT,
    KEY,
    ROUTING_KEY,
    TELL_AGAIN_SECONDS,
    WRITING_SECONDS,
    SyncStatus,
    SystemState,
)
from modelmesh_cdk.testing import FakeClock, ScriptedProvider
from modelmesh_cdk.testing.scripted import fail
from modelmesh_plugins.commands.state import command
from modelmesh_plugins.state_stores.memory import MemoryStateStore

FAILING = fail(ProviderServerError("no", status_code=500))


class Kept(MemoryStateStore):
    """A store whose records outlive it: every instance has the same."""

    guarantees = StoreGuarantees(survives_restart=True, shared_between_processes=False)
    shared: MemoryStateStore
    broken = False

    async def _load(self, key: str) -> Any:
        return await self.shared._load(key)

    async def _save(self, key: str, data: bytes, expected_version: int | None) -> Any:
        if type(self).broken:
            raise StateStoreError("the disk is full")
        return await self.shared._save(key, data, expected_version)

    async def _delete(self, key: str) -> bool:
        return await self.shared._delete(key)

    async def _list(self, prefix: str) -> Any:
        return await self.shared._list(prefix)


class Together(Kept):
    """One that many processes write to."""

    guarantees = StoreGuarantees(survives_restart=True, shared_between_processes=True)


@pytest.fixture(autouse=True)
def _fresh() -> None:
    Kept.shared, Kept.broken = MemoryStateStore(), False


Start = Callable[..., ModelMesh]


@pytest.fixture
def built() -> Iterator[list[ModelMesh]]:
    """Meshes that are shut down when the test is over."""
    meshes: list[ModelMesh] = []
    yield meshes
    for mesh in meshes:
        mesh.shutdown()


@pytest.fixture
def start(built: list[ModelMesh]) -> Start:
    """Start meshes of two models over a store that outlives them."""

    def make(
        clock: FakeClock, *script: Any, kind: type[Kept] = Kept, requests: int | None = None, **storage: Any
    ) -> ModelMesh:
        limits = {} if requests is None else {"quota": {"requests": requests, "reset_schedule": "daily"}}
        plugins = PluginHost()
        plugins.register("state_stores", "test.kept.v1", kind)
        mesh = ModelMesh(clock=clock, plugins=plugins, environ={})
        built.append(mesh)
        mesh.initialize(
            {
                "providers": {
                    "a": {"instance": ScriptedProvider(script), **limits},
                    "b": {"instance": ScriptedProvider()},
                },
                "models": {name: {"provider": name, "capabilities": ["chat-completion"]} for name in "ab"},
                "pools": {
                    "chat-completion": {
                        "strategy": "priority-selection",
                        "model_priority": ["a", "b"],
                        "retry": {"max_attempts": 0},
                        "deactivation": {"retry_limit": 1},
                        "recovery": {"cooldown": "100s"},
                    }
                },
                "storage": {"connector": "test.kept.v1", **storage},
            }
        )
        return mesh

    return make


def ask(mesh: ModelMesh) -> str:
    """Ask; return the ID of the model that answered."""
    request = CompletionRequest([{"role": "user", "content": "hi"}])
    return asyncio.run(mesh.get_router().acomplete("chat-completion", request)).model


def saved() -> Any:
    """Return the record as data."""
    record = asyncio.run(Kept.shared._load(KEY))
    return None if record is None else json.loads(record.data)


def test_usage_and_rests_are_there_after_a_restart(start: Start) -> None:
    """What was used stays used, and who rested goes on resting."""
    clock = FakeClock()
    first = start(clock, FAILING)
    assert ask(first) == "b"
    first.shutdown()

    second = start(clock)

    assert second.get_registry().get_model("b").state.quota_used == 1  # type: ignore[union-attr]
    assert second.get_router().get_pool("chat-completion").members["a"].reason == "error_threshold"
    assert ask(second) == "b"


def test_a_change_of_format_loses_no_state(start: Start) -> None:
    """What one mesh wrote in one format, the next reads and writes in its own."""
    clock = FakeClock()
    first = start(clock, FAILING, format="msgpack", compression=True)
    ask(first)
    first.shutdown()

    second = start(clock, format="yaml")
    second.shutdown()

    record = asyncio.run(Kept.shared._load(KEY))
    assert second.get_registry().get_model("b").state.quota_used == 1  # type: ignore[union-attr]
    assert record is not None
    assert record.data.startswith(b"version: 1\n")


def test_a_rest_is_shorter_by_the_time_that_passed(start: Start) -> None:
    """Of 100 seconds 60 are over when the mesh starts again, and the rest ends in time."""
    clock = FakeClock()
    first = start(clock, FAILING)
    ask(first)
    first.shutdown()
    clock.advance(60)

    second = start(clock)
    member = second.get_router().get_pool("chat-completion").members["a"]

    assert member.cooldown_remaining == pytest.approx(40, abs=11)  # up to a tenth of jitter
    assert member.model.state.cooldown_remaining == pytest.approx(member.cooldown_remaining, abs=0.1)
    assert member.model.state.status == "standby"
    clock.advance(51)
    assert ask(second) == "a"


def test_a_rest_that_ended_meanwhile_is_over(start: Start) -> None:
    """Nobody waits for time that has passed."""
    clock = FakeClock()
    first = start(clock, FAILING)
    ask(first)
    first.shutdown()
    clock.advance(1_000)

    second = start(clock)
    state = second._built().registry.list_models()[0].state
    assert (state.status, state.cooldown_remaining, state.deactivation_reason) == ("active", 0.0, None)
    assert second._built().providers["a"].state.active_model_count == 1
    assert ask(second) == "a"


@pytest.mark.parametrize(
    ("requests", "answers"), [(1, "b"), (3, "a"), (None, "a")], ids=["the_same", "raised", "taken_away"]
)
def test_a_rest_for_a_limit_is_over_when_the_limit_is_another(start: Start, requests: int | None, answers: str) -> None:
    """Whoever raises a limit and starts the mesh again need not wait for the next day."""
    clock = FakeClock()
    first = start(clock, requests=1)
    assert ask(first) + ask(first) == "ab"
    assert first.get_router().get_pool("chat-completion").members["a"].reason == "quota_exhausted"
    first.shutdown()

    assert ask(start(clock, requests=requests)) == answers


@pytest.mark.parametrize(("seconds", "callable_again"), [(1, []), (1_000, ["a"])], ids=["resting", "rested"])
def test_a_provider_may_be_called_once_no_model_of_it_rests(
    start: Start, seconds: float, callable_again: list[str]
) -> None:
    """Whatever it was that put it to rest before the restart."""
    clock = FakeClock()
    first = start(clock, fail(AuthenticationError("no", status_code=401)))
    ask(first)
    assert first.active_providers() == ["b"]
    first.shutdown()
    clock.advance(seconds)

    assert start(clock).active_providers() == [*callable_again, "b"]


def test_a_model_put_aside_by_hand_stays_aside(start: Start) -> None:
    """However long the mesh was down."""
    clock = FakeClock()
    first = start(clock)
    first.rotate("chat-completion")
    first.shutdown()
    clock.advance(1_000_000)

    assert ask(start(clock)) == "b"


def test_models_that_are_gone_are_passed_over(start: Start) -> None:
    """A changed configuration is no error."""
    clock = FakeClock()
    first = start(clock)
    first.shutdown()
    state = saved()
    state["models"]["gone"] = state["models"].pop("a")
    asyncio.run(Kept.shared._save(KEY, json.dumps(state).encode(), None))

    assert ask(start(clock)) == "a"


@pytest.mark.parametrize("at", ["start", "import"])
def test_who_is_passed_over_is_traced(start: Start, at: str) -> None:
    """By name: else all of it would seem to be restored."""
    mesh = start(FakeClock())
    manager = mesh._state_keeper()
    asyncio.run(manager.save())
    state = saved()
    state["models"]["gone"] = state["models"].pop("a")
    asyncio.run(Kept.shared._save(KEY, json.dumps(state).encode(), None))
    told: list[tuple[Any, ...]] = []
    manager._telemetry.trace = lambda *said, error=None: told.append(said)  # type: ignore[method-assign]

    if at == "start":
        asyncio.run(manager.load())
    else:
        mesh.import_state(state)

    (said,) = told
    assert said[0] == (Severity.INFO if at == "start" else Severity.WARNING)
    assert said[3]["passed_over"] == "model 'gone'"


def test_a_record_that_cannot_be_read_is_kept_aside(start: Start) -> None:
    """The mesh begins anew, and nothing is lost."""
    asyncio.run(Kept.shared._save(KEY, b"{half a rec", None))

    assert ask(start(FakeClock())) == "a"
    kept = asyncio.run(Kept.shared._load(CORRUPT_KEY))
    assert kept is not None
    assert kept.data == b"{half a rec"


def test_a_start_that_is_cut_short_leaves_the_state_alone(
    start: Start, built: list[ModelMesh], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by Ctrl-C while the store is slow: the mesh ends, and does not know yet what it would write over."""
    clock = FakeClock()
    mesh = start(clock)
    ask(mesh)
    mesh.shutdown()
    read = Kept._load

    async def load(store: Kept, key: str) -> Any:
        monkeypatch.setattr(Kept, "_load", read)
        raise asyncio.CancelledError

    monkeypatch.setattr(Kept, "_load", load)
    with pytest.raises(CancelledError):
        start(clock)
    built[-1].shutdown()

    assert saved()["models"]["a"]["quota_used"] == 1


@pytest.mark.parametrize("version", [FORMAT + 1, 99], ids=["next", "far"])
def test_a_state_from_the_future_is_refused_and_left_alone(start: Start, version: int) -> None:
    """An older version would write over what it does not understand, even where it reads like its own."""
    data = {**SystemState().to_dict(), "version": version}
    asyncio.run(Kept.shared._save(KEY, json.dumps(data).encode(), None))

    with pytest.raises(StateStoreError, match=f"format {version}, which a newer version wrote.* Upgrade, or reset"):
        start(FakeClock(), sync_policy="immediate")

    assert saved() == data
    assert asyncio.run(Kept.shared._list("")) == [KEY]


def test_a_process_that_stays_behind_at_an_upgrade_leaves_the_newer_state_alone(start: Start) -> None:
    """What a newer version wrote while it ran is there when it has ended, to the byte."""
    mesh = start(FakeClock(), kind=Together)
    ask(mesh)
    upgraded = json.dumps({"version": FORMAT + 1, "news": True}).encode()
    asyncio.run(Kept.shared.save(KEY, upgraded))

    mesh.shutdown()

    record = asyncio.run(Kept.shared.load(KEY))
    assert record is not None
    assert record.data == upgraded


def test_a_save_that_fails_fails_no_request_and_no_shutdown(start: Start) -> None:
    """It is traced; that is all."""
    mesh = start(FakeClock(), sync_policy="immediate")
    Kept.broken = True

    assert ask(mesh) == "a"
    mesh.shutdown()


def test_a_disk_that_stays_full_is_told_once_a_minute(start: Start) -> None:
    """Under the policy immediate it is tried ten times a second."""
    clock = FakeClock()
    mesh = start(clock, sync_policy="immediate")
    told: list[str | None] = []
    manager = mesh._state_keeper()
    manager._telemetry.trace = lambda *_, error=None: told.append(error)  # type: ignore[method-assign]
    Kept.broken = True

    for seconds in (0.1, 0.1, TELL_AGAIN_SECONDS):
        assert not asyncio.run(manager.save())
        clock.advance(seconds)
    asyncio.run(manager.save())

    assert told == ["the disk is full"] * 2


@pytest.mark.parametrize("freed", [True, False], ids=["soon", "never"])
def test_a_save_waits_while_another_process_writes(start: Start, freed: bool) -> None:
    """As long as ``locking.timeout`` says; then it is given up, and traced as any trouble is."""
    clock = FakeClock()
    mesh = start(clock, kind=Together, locking={"timeout": "30s", "retry_interval": "1s"})
    store, manager = mesh._built().state_store, mesh._state_keeper()
    assert store is not None

    async def scenario() -> list[bool]:
        other = await store.lock(KEY, expires_in=60.0)
        assert other is not None
        saving = asyncio.ensure_future(manager.save())
        done = []
        for second in range(31):
            if freed and second == 20:
                await store.unlock(other)
            for _ in range(20):
                await asyncio.sleep(0)
            done.append(saving.done())
            clock.advance(1.0)
        clock.advance(60.0)  # the other one is gone
        assert await saving is freed
        return done

    done = asyncio.run(scenario())
    assert done.index(True) == (20 if freed else 30)
    assert (asyncio.run(Kept.shared._load(KEY)) is not None) is freed


def test_a_process_that_died_while_it_wrote_holds_nobody_up_for_long(start: Start) -> None:
    """Neither those that write while they run nor those that end."""
    clock = FakeClock()
    mesh = start(clock, kind=Together)
    manager = mesh._state_keeper()

    async def scenario() -> bool:
        await manager._lock()  # and nothing more comes of it
        saving = asyncio.ensure_future(manager.save())
        for _ in range(round(WRITING_SECONDS) + 1):
            for _ in range(20):
                await asyncio.sleep(0)
            clock.advance(1.0)
        for _ in range(20):
            await asyncio.sleep(0)
        return saving.done() and await saving

    assert asyncio.run(scenario())


def test_without_locking_nobody_is_waited_for(start: Start) -> None:
    """``locking: {enabled: false}``: whoever writes last has written."""
    mesh = start(FakeClock(), kind=Together, locking={"enabled": False})
    store, manager = mesh._built().state_store, mesh._state_keeper()
    assert store is not None

    async def scenario() -> bool:
        assert await store.lock(KEY, expires_in=60.0) is not None
        return await manager.save()

    assert asyncio.run(scenario())


@pytest.mark.parametrize(("policy", "following"), [("periodic", 10.0), ("immediate", None)])
def test_a_sync_status_says_what_was_written_and_what_is_not(
    start: Start, policy: str, following: float | None
) -> None:
    """The last write, the next one where there are intervals, and whether there is anything to write."""
    clock = FakeClock()
    manager = start(clock, sync_policy=policy, sync_interval="10s")._state_keeper()
    clock.wait_until_sleeping()
    before, now = manager.get_sync_status(), clock.time()

    asyncio.run(manager.save())

    next_sync = None if following is None else now + following
    assert before == SyncStatus(None, next_sync, 0)
    assert manager.get_sync_status() == SyncStatus(now, next_sync, 0)


def test_in_memory_keeps_nothing(start: Start) -> None:
    """Though the store could."""
    mesh = start(FakeClock(), sync_policy="in-memory")
    ask(mesh)
    mesh.shutdown()

    assert saved() is None


@pytest.mark.parametrize(
    ("policy", "seconds"), [("periodic", 10.0), ("immediate", 0.2)], ids=["in intervals", "with each change"]
)
def test_state_is_written_while_the_mesh_runs(start: Start, policy: str, seconds: float) -> None:
    """Before it is shut down, and one write for all that happened meanwhile."""
    clock = FakeClock()
    mesh = start(clock, sync_policy=policy, sync_interval="10s")
    clock.wait_until_sleeping()
    ask(mesh)
    ask(mesh)
    clock.advance(seconds)
    clock.wait_until_sleeping()

    record = asyncio.run(Kept.shared._load(KEY))
    assert record is not None
    assert record.version == 1
    assert json.loads(record.data)["models"]["a"]["quota_used"] == 2


@pytest.mark.parametrize(
    ("policy", "written"),
    [("immediate", [True, False]), ("periodic", [True, False]), ("in-memory", [False, False])],
)
def test_whoever_asks_for_a_sync_hears_whether_something_was_written(
    start: Start, policy: str, written: list[bool]
) -> None:
    """What the policy puts off, and what has been written already, is not."""
    clock = FakeClock()
    mesh = start(clock, sync_policy=policy, sync_interval="1h")
    if policy != "in-memory":
        clock.wait_until_sleeping()
    ask(mesh)
    manager = mesh._state_keeper()

    assert [asyncio.run(manager.sync()) for _ in range(2)] == written


def test_a_state_comes_through_json_unchanged(start: Start) -> None:
    """Every field of it; only a cooldown goes on running."""
    mesh = start(FakeClock(), FAILING)
    ask(mesh)
    mesh.shutdown()
    data = saved()
    data["models"]["a"]["cooldown_remaining"] = 0.0

    assert SystemState.from_dict(data).to_dict() == data


def resting_for(remaining: float, rotations: float = 0) -> dict[str, Any]:
    """Return a pool as it is kept."""
    standby = {"a": {"reason": "manual", "remaining": remaining}}
    return {"active_models": [], "standby_models": standby, "rotation_count": rotations}


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"version": "1"},
        {**SystemState().to_dict(), "version": True},
        {**SystemState().to_dict(), "version": 0},
        {"version": 1},
        {"version": 1, "timestamp": 0, "models": [], "providers": {}, "pools": {}},
        {"version": 1, "timestamp": float("inf"), "models": {}, "providers": {}, "pools": {}},
        {"version": 1, "timestamp": 0, "models": {}, "providers": {}, "pools": {"p": resting_for(float("nan"))}},
        {"version": 1, "timestamp": 0, "models": {}, "providers": {}, "pools": {"p": resting_for(1.0, float("inf"))}},
    ],
    ids=["empty", "text", "truth", "none", "half", "list", "endless", "not_a_number", "countless"],
)
def test_what_is_no_state_says_so(data: dict[str, Any]) -> None:
    """As one error, whatever is missing."""
    with pytest.raises(ValueError, match="the state"):
        SystemState.from_dict(data)


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"models": {"a": {"quota_used": "x"}}}, "wrong in models.a: ModelState.quota_used must be int, not str"),
        ({"models": {"a": 7}}, "wrong in models.a: "),
        ({"providers": {"p": {"available": "no"}}}, "wrong in providers.p: ProviderState.available must be bool"),
        ({"pools": {"c": {"active_models": []}}}, "'standby_models' is missing in pools.c"),
    ],
    ids=["value", "number", "provider", "pool"],
)
def test_which_part_of_a_state_is_wrong_is_told(parts: dict[str, Any], said: str) -> None:
    """By kind and name."""
    with pytest.raises(ValueError, match=f"the state is .*{said}"):
        SystemState.from_dict({**SystemState().to_dict(), **parts})


# --- the command ----------------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration whose state is in a file beside it, with some state in it."""
    file = tmp_path / "modelmesh.yaml"
    file.write_text(
        "providers: {here: {connector: modelmesh.simulator.v1}}\n"
        "models: {tiny: {provider: here, capabilities: [chat-completion]}}\n"
        "pools: {chat-completion: {}}\n"
        f"storage: {{connector: modelmesh.file.v1, path: {tmp_path / 'state.json'}}}\n"
    )
    with ModelMesh() as mesh:
        mesh.initialize(file)
        mesh.get_client().chat.completions.create(model="chat-completion", messages=[{"role": "user", "content": "hi"}])
    return file


def run(*arguments: str) -> Any:
    """Run ``modelmesh state`` with these arguments."""
    return CliRunner().invoke(command, list(arguments), standalone_mode=False)


def test_the_state_is_shown(config: Path) -> None:
    """Models, and what they used."""
    output = run("show", str(config)).output

    assert "tiny" in output
    assert "active" in output


def test_how_long_a_model_rests_is_said_as_people_do(config: Path) -> None:
    """In days and hours, not in hundreds of thousands of seconds."""
    with ModelMesh() as mesh:
        mesh.initialize(config)
        pool = mesh.get_router().get_pool("chat-completion")
        pool.deactivate_member(pool.members["tiny"], "quota_exhausted", rest=803_483.0, now=pool.clock.monotonic())

    shown = " ".join(run("show", str(config)).output.split())  # a narrow terminal has it on two lines

    assert "quota_exhausted, 9d 7h (pool chat-completion)" in shown


def test_the_state_is_exported_reset_and_put_back(config: Path, tmp_path: Path) -> None:
    """What comes back is what was taken out."""
    exported = tmp_path / "out.json"

    done = run("export", str(config), str(exported))
    assert (done.return_value, done.output) == (0, f"1 model and 1 pool are in {exported}\n")
    assert "forgotten" in run("reset", str(config), "--yes").output
    assert "no state is saved" in run("show", str(config)).output
    assert run("import", str(config), str(exported)).return_value == 0
    assert "tiny" in run("show", str(config)).output


def test_an_import_ends_what_processes_told_one_another(config: Path, tmp_path: Path) -> None:
    """Else whom the file brings back would be put to rest again at the next start."""
    exported, store = tmp_path / "out.json", tmp_path / "state.json"
    run("export", str(config), str(exported))
    with ModelMesh() as mesh:
        mesh.initialize(config)
        kept = mesh._built().state_store
        assert kept is not None
        mesh._loop.run(kept.save(ROUTING_KEY, b"{}"))
    assert ROUTING_KEY in json.loads(store.read_text(encoding="utf-8"))["records"]

    run("import", str(config), str(exported))

    assert ROUTING_KEY not in json.loads(store.read_text(encoding="utf-8"))["records"]


def newer(store: Path) -> str:
    """Have a state there that a newer version wrote; return the file's text."""
    written = json.loads(store.read_text(encoding="utf-8"))
    (record,) = [each for name, each in written["records"].items() if name == KEY]
    state = {**SystemState().to_dict(), "version": FORMAT + 1}
    record["text"] = json.dumps(state)
    store.write_text(json.dumps(written), encoding="utf-8")
    return store.read_text(encoding="utf-8")


def test_an_import_overwrites_no_state_of_a_newer_version(config: Path, tmp_path: Path) -> None:
    """It says what to do, and leaves the state alone."""
    exported, store = tmp_path / "out.json", tmp_path / "state.json"
    run("export", str(config), str(exported))
    before = newer(store)

    error = run("import", str(config), str(exported)).exception

    assert f"the saved state has format {FORMAT + 1}, which a newer version wrote" in str(error)
    assert store.read_text(encoding="utf-8") == before


def test_a_store_that_comes_with_a_reload_loses_no_state_of_a_newer_version(config: Path, tmp_path: Path) -> None:
    """The mesh did not begin with what is there: it goes on, and writes nothing over it."""
    store, first = tmp_path / "state.json", tmp_path / "first.yaml"
    before = newer(store)
    first.write_text(config.read_text(encoding="utf-8").replace("state.json", "first.json"), encoding="utf-8")

    with ModelMesh() as mesh:
        mesh.initialize(first)
        mesh.reload_config(config)
        assert asyncio.run(mesh._state_keeper().save()) is False
        assert mesh.get_client().chat.completions.create(
            model="chat-completion", messages=[{"role": "user", "content": "hi"}]
        )

    assert json.loads(store.read_text(encoding="utf-8"))["records"] == json.loads(before)["records"]


@pytest.mark.parametrize(("said", "status", "left"), [("y", 0, False), ("n", 1, True)], ids=["yes", "no"])
def test_a_reset_asks_first(config: Path, said: str, status: int, left: bool) -> None:
    """And heeds the answer."""
    result = CliRunner().invoke(command, ["reset", str(config)], input=f"{said}\n", standalone_mode=False)

    assert result.return_value == status
    assert ("tiny" in run("show", str(config)).output) is left


@pytest.mark.parametrize("closed", [False, True], ids=["empty", "closed"])
def test_a_reset_that_nobody_can_confirm_names_the_option(config: Path, closed: bool) -> None:
    """As in a job of cron: no traceback, and nothing is forgotten."""
    line = f"exec {sys.executable} -m modelmesh state reset {config} {'<&-' if closed else '</dev/null'}"

    result = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=60, check=False)

    assert result.returncode == 1
    assert result.stderr.strip().splitlines()[-1].endswith("nobody is there to be asked; use --yes")
    assert "Traceback" not in result.stderr
    assert "tiny" in run("show", str(config)).output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("import", "{config}", "{folder}/nowhere.json"), "cannot be read"),
        (("import", "{config}", "{config}"), "is no exported state"),
        (("import", "{config}", "{folder}/deep.json"), "is no exported state"),
        (("export", "{config}", "{folder}/no/such/folder.json"), "cannot be written"),
    ],
    ids=["missing", "not json", "too deep", "unwritable"],
)
def test_what_is_wrong_is_one_line(config: Path, arguments: tuple[str, ...], said: str) -> None:
    """With the file's name."""
    (config.parent / "deep.json").write_text("[" * 150_000, encoding="utf-8")
    filled = [each.format(config=config, folder=config.parent) for each in arguments]

    error = run(*filled).exception

    assert said in error.format_message()
