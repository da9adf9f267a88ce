"""ModelMesh: built from a configuration, and the owner of everything in it."""

from __future__ import annotations

import asyncio
import copy
import pickle
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from modelmesh import ModelMesh
from modelmesh.client import AsyncOpenAIClient, OpenAIClient
from modelmesh.errors import (
    AuthenticationError,
    ConfigurationError,
    NoActiveModelError,
    ProviderServerError,
    UsageError,
)
from modelmesh.interfaces.observability import ObservabilityConnector, Severity
from modelmesh.router import CompletionRequest
from modelmesh.statistics import StatisticsCollector
from modelmesh_cdk.testing import FakeClock, ScriptedProvider, hang

HELLO = CompletionRequest([{"role": "user", "content": "hi"}])
YAML = """
providers:
  sim:
    connector: modelmesh.simulator.v1
models:
  small: {provider: sim, model: simulator-fast, capabilities: [chat-completion]}
pools:
  chat: {capability: chat-completion}
"""

Build = Callable[..., ModelMesh]


class Sink(ObservabilityConnector):
    """Keeps statistics and traces."""

    def __init__(self) -> None:
        self.stats: list[Any] = []
        self.traces: list[Any] = []

    def emit(self, event: Any) -> None: ...

    def log(self, entry: Any) -> None: ...

    def flush(self, stats: Any) -> None:
        self.stats.append(stats)

    def trace(self, entry: Any) -> None:
        self.traces.append(entry)


def config(observability: Any = None, pool: Any = None, **providers: Any) -> dict[str, Any]:
    """A pool ``chat`` over these providers, each with a model of its own, named ``<provider>-model``."""
    whole: dict[str, Any] = {
        "providers": {name: {"instance": provider} for name, provider in providers.items()},
        "models": {f"{name}-model": {"provider": name, "capabilities": ["chat-completion"]} for name in providers},
        "pools": {"chat": {"capability": "chat-completion", **(pool or {})}},
    }
    if observability is not None:
        whole["observability"] = {"instance": observability}
    return whole


@pytest.fixture
def build() -> Iterator[Build]:
    """Build meshes that are shut down when the test is over."""
    meshes: list[ModelMesh] = []

    def make(**rest: Any) -> ModelMesh:
        mesh = ModelMesh(clock=FakeClock(auto_advance=True), environ={})
        meshes.append(mesh)
        mesh.initialize(config(**rest))
        return mesh

    yield make
    for mesh in meshes:
        mesh.shutdown()


def ask(mesh: ModelMesh) -> str:
    """Ask for an answer and return who gave it."""
    return mesh.get_router().complete("chat", HELLO).model


# --- beginning ----------------------------------------------------------------------------


def test_a_mapping_makes_a_mesh(build: Build) -> None:
    """From configuration to answer."""
    assert ask(build(acme=ScriptedProvider())) == "acme-model"


@pytest.mark.parametrize("as_text", [False, True], ids=["path", "string"])
def test_a_file_makes_a_mesh(tmp_path: Path, as_text: bool) -> None:
    """Named by path or text; YAML or JSON."""
    file = tmp_path / "mesh.yaml"
    file.write_text(YAML)

    with ModelMesh.from_yaml(str(file) if as_text else file) as mesh:
        reply = mesh.get_router().complete("chat", HELLO)

    assert (reply.content, reply.model, reply.provider) == ("hi", "small", "sim")


def test_a_mesh_without_configuration_says_what_to_call() -> None:
    """Every use of it, until it is initialised."""
    mesh = ModelMesh()

    for use in (mesh.get_router, mesh.get_client, mesh.list_pools, mesh.describe, mesh.get_statistics):
        with pytest.raises(UsageError, match="initialize"):
            use()
    assert repr(mesh) == "ModelMesh(empty)"


def test_a_mesh_is_initialised_once(build: Build) -> None:
    """Another configuration takes another mesh."""
    mesh = build(acme=ScriptedProvider())

    with pytest.raises(UsageError, match="already"):
        mesh.initialize(config(acme=ScriptedProvider()))


def test_a_configuration_that_cannot_be_used_builds_nothing() -> None:
    """The mesh can be initialised with a better one afterwards."""
    mesh = ModelMesh()
    with pytest.raises(ConfigurationError):
        mesh.initialize({"providers": {"x": {"connector": "no.such.v1"}}, "pools": {}})

    mesh.initialize(config(acme=ScriptedProvider()))

    assert ask(mesh) == "acme-model"
    mesh.shutdown()


def test_two_meshes_never_see_each_other(build: Build) -> None:
    """Their pools, states and figures are their own."""
    one, other = build(acme=ScriptedProvider()), build(acme=ScriptedProvider())
    ask(one)

    assert one.pool_status()["chat"]["total_requests"] == 1
    assert other.pool_status()["chat"]["total_requests"] == 0


def test_secrets_come_from_where_they_are_passed_in() -> None:
    """Neither the configuration's repr nor an error shows them."""
    mesh = ModelMesh(environ={"MY_KEY": "canary-0123456789"})
    raw = config(acme=ScriptedProvider())
    raw["providers"]["openai"] = {"connector": "openai.llm.v1", "api_key": "${secrets:MY_KEY}"}
    raw["models"]["gpt"] = {"provider": "openai", "capabilities": ["chat-completion"]}

    mesh.initialize(raw)

    assert "openai" in mesh.active_providers()
    assert "canary" not in repr(mesh) + repr(mesh._graph)
    mesh.shutdown()


# --- parts ------------------------------------------------------------------------------------


def test_the_parts_are_handed_out(build: Build) -> None:
    """Router, clients, registry, statistics, plugins; the same ones each time where they hold state."""
    mesh = build(acme=ScriptedProvider())

    assert mesh.get_router() is mesh.get_router()
    assert isinstance(mesh.get_client(), OpenAIClient)
    assert isinstance(mesh.get_async_client(), AsyncOpenAIClient)
    assert [model.name for model in mesh.get_registry().list_models()] == mesh.list_models() == ["acme-model"]
    assert isinstance(mesh.get_statistics(), StatisticsCollector)
    assert mesh.stats() is mesh.get_statistics()
    assert "modelmesh.simulator.v1" in mesh.plugins.known_ids("providers")


def test_statistics_follow_requests(build: Build) -> None:
    """Also when somebody asks in the middle."""
    mesh = build(acme=ScriptedProvider())
    ask(mesh)

    assert mesh.get_statistics().model("acme-model").total_requests == 1


# --- looking ------------------------------------------------------------------------------------


def test_the_status_of_pools_says_who_is_next(build: Build) -> None:
    """Counts, and the model a request would get now; looking moves nothing."""
    mesh = build(acme=ScriptedProvider(), other=ScriptedProvider(), pool={"strategy": "round-robin"})
    ask(mesh)

    status = [mesh.pool_status()["chat"] for _ in range(2)]

    assert (
        status[0]
        == status[1]
        == {
            "active": 2,
            "standby": 0,
            "total": 2,
            "current_model": "other-model",
            "total_requests": 1,
            "rotation_events": 0,
        }
    )


def test_a_description_shows_pools_models_and_reasons(build: Build) -> None:
    """An arrow marks the current model."""
    mesh = build(acme=ScriptedProvider([AuthenticationError("no", status_code=401)]), other=ScriptedProvider())
    ask(mesh)

    assert mesh.describe().splitlines() == [
        'Pool "chat" (strategy: stick-until-failure)',
        "  capability: generation.text-generation.chat-completion",
        "    acme-model [acme] (standby: provider_unavailable)",
        "  → other-model [other] (active)",
    ]
    assert mesh.active_providers() == ["other"]


def test_a_pool_without_anybody_active_has_no_current_model(build: Build) -> None:
    """It is described all the same."""
    mesh = build(acme=ScriptedProvider())
    pool = mesh.get_router().get_pool("chat")
    pool.deactivate(pool.members["acme-model"].model)

    assert mesh.pool_status()["chat"]["current_model"] is None
    assert "→" not in mesh.describe()


def test_pools_are_what_may_be_asked_for(build: Build) -> None:
    """In the shape of OpenAI's list of models."""
    mesh = build(acme=ScriptedProvider())

    assert mesh.list_pools() == ["chat"]
    assert mesh.virtual_models() == [
        {"id": "chat", "object": "model", "created": 1_767_225_600, "owned_by": "modelmesh"}
    ]
    assert repr(mesh) == "ModelMesh(1 pool)"


@pytest.mark.parametrize("duplicate", [pickle.dumps, copy.copy, copy.deepcopy], ids=["pickle", "copy", "deepcopy"])
def test_a_mesh_is_neither_copied_nor_sent_to_another_process(build: Build, duplicate: Callable[[Any], Any]) -> None:
    """The error says what to do instead, and names no lock of the inside."""
    mesh = build(acme=ScriptedProvider())

    with pytest.raises(TypeError, match="build one in each process"):
        duplicate(mesh)


def test_rotating_puts_the_current_model_aside_by_hand(build: Build) -> None:
    """It says who is next, and time does not bring the other back."""
    mesh = build(acme=ScriptedProvider(), other=ScriptedProvider())
    ask(mesh)

    following = mesh.rotate("chat")

    assert (following, ask(mesh)) == ("other-model", "other-model")
    assert mesh.get_router().get_pool("chat").members["acme-model"].reason == "manual"


def test_rotating_is_refused_when_nobody_could_take_over(build: Build) -> None:
    """One model, none active, no such pool: three errors."""
    mesh = build(acme=ScriptedProvider())

    with pytest.raises(UsageError, match="no other active"):
        mesh.rotate("chat")
    pool = mesh.get_router().get_pool("chat")
    pool.deactivate(pool.members["acme-model"].model)
    with pytest.raises(NoActiveModelError):
        mesh.rotate("chat")
    with pytest.raises(KeyError):
        mesh.rotate("nothing")


# --- the end --------------------------------------------------------------------------------------


def test_shutdown_flushes_closes_and_ends_threads(build: Build) -> None:
    """Statistics arrive, providers are closed, no thread is left."""
    sink, provider = Sink(), ScriptedProvider()
    before = set(threading.enumerate())
    mesh = build(observability=sink, acme=provider)
    ask(mesh)

    mesh.shutdown()

    assert {name: figures.total_requests for name, figures in sink.stats[0].items()}["chat"] == 1
    assert provider.is_closed
    assert set(threading.enumerate()) <= before
    assert repr(mesh) == "ModelMesh(shut down)"


def test_shutdown_may_be_repeated(build: Build) -> None:
    """Also on a mesh that never was initialised."""
    sink = Sink()
    mesh = build(observability=sink, acme=ScriptedProvider())
    ask(mesh)

    mesh.shutdown()
    mesh.shutdown()
    ModelMesh().shutdown()

    assert len(sink.stats) == 1


def test_of_several_threads_one_shuts_down(build: Build) -> None:
    """The others return; nobody raises, and nothing is closed twice."""

    class Counting(ScriptedProvider):
        closings = 0

        async def close(self) -> None:
            self.closings += 1
            await asyncio.sleep(0.01)

    provider, sink = Counting(), Sink()
    mesh = build(observability=sink, acme=provider)
    ask(mesh)

    with ThreadPoolExecutor(8) as threads:
        for ended in [threads.submit(mesh.shutdown) for _ in range(8)]:
            ended.result(5)

    assert (provider.closings, len(sink.stats)) == (1, 1)


def test_nothing_works_after_shutdown(build: Build) -> None:
    """The error says to build another mesh."""
    mesh = build(acme=ScriptedProvider())
    mesh.shutdown()

    with pytest.raises(UsageError, match="shut down"):
        ask(mesh)
    with pytest.raises(UsageError, match="shut down"):
        mesh.initialize(config(acme=ScriptedProvider()))


@pytest.mark.parametrize(
    "error",
    [RuntimeError("sk-secret"), SystemExit(1), asyncio.CancelledError()],
    ids=lambda error: type(error).__name__,
)
def test_a_provider_that_fails_to_close_is_traced_and_keeps_nobody_open(build: Build, error: BaseException) -> None:
    """The trace names it and the kind of error, not the text."""

    class Stuck(ScriptedProvider):
        async def close(self) -> None:
            raise error

    sink, other = Sink(), ScriptedProvider()
    mesh = build(observability=sink, stuck=Stuck(), other=other)

    mesh.shutdown()

    (entry,) = [entry for entry in sink.traces if entry.severity is Severity.ERROR]
    assert (entry.component, entry.metadata) == ("provider.stuck", {"error_type": type(error).__name__})
    assert other.is_closed


def test_a_provider_that_hangs_on_closing_is_given_up(build: Build) -> None:
    """Its time is limited, and the others are closed."""

    class Endless(ScriptedProvider):
        async def close(self) -> None:
            await asyncio.get_running_loop().create_future()

    other = ScriptedProvider()
    mesh = build(endless=Endless(), other=other)
    graph = mesh._graph
    assert graph is not None

    asyncio.run(graph.aclose(within=0.01))
    graph.providers.clear()  # so that the fixture's shutdown need not wait again

    assert other.is_closed


def test_a_request_that_runs_at_shutdown_is_released(build: Build) -> None:
    """Its caller hears that the mesh was shut down."""
    provider = ScriptedProvider([hang()])
    mesh = build(acme=provider)
    outcome: list[BaseException] = []

    def waiting() -> None:
        try:
            ask(mesh)
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=waiting)
    thread.start()
    moment = threading.Event()
    while not provider.active:
        moment.wait(0.001)
    mesh.shutdown()
    thread.join(5)

    assert [type(error) for error in outcome] == [UsageError]
    assert provider.cancelled == 1


def test_a_mesh_is_a_context_manager(build: Build) -> None:
    """Leaving shuts it down, with an error as well as without."""
    provider = ScriptedProvider()

    with pytest.raises(ProviderServerError), build(acme=provider):
        raise ProviderServerError("mine")

    assert provider.is_closed


def test_a_mesh_is_an_asynchronous_context_manager(build: Build) -> None:
    """Connections are closed on the loop that used them."""
    loops: list[Any] = []

    class Noting(ScriptedProvider):
        async def close(self) -> None:
            loops.append(asyncio.get_running_loop())

    async def main() -> Any:
        async with build(acme=Noting()) as mesh:
            await mesh.get_router().acomplete("chat", HELLO)
        await mesh.ashutdown()
        return asyncio.get_running_loop()

    assert asyncio.run(main()) == loops[0]
    assert len(loops) == 1


def test_shutdown_on_the_meshs_own_loop_is_refused(build: Build) -> None:
    """It would wait for itself."""
    mesh = build(acme=ScriptedProvider())

    async def inside() -> None:
        mesh.shutdown()

    with pytest.raises(UsageError, match="own event loop"):
        mesh.run(inside())
    assert ask(mesh) == "acme-model"
