"""Middleware: an application's own code around each attempt."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from modelmesh import Middleware, MiddlewareContext, MiddlewareStack, ModelMesh, ShortCircuit, create
from modelmesh.client import ChatStream
from modelmesh.errors import (
    AllProvidersExhaustedError,
    InvalidRequestError,
    ModelMeshError,
    ProviderError,
    ProviderServerError,
)
from modelmesh.interfaces.provider import ProviderRequest, ProviderResponse
from modelmesh.replies import Reply
from modelmesh_cdk.testing import FakeClock, ScriptedProvider, pieces

HELLO = [{"role": "user", "content": "hi"}]
CACHED = ProviderResponse.text("from the cache", model="cached")

Build = Callable[..., ModelMesh]


class Noting(Middleware):
    """Writes down what it is called for."""

    def __init__(self, name: str, notes: list[str]) -> None:
        self.name = name
        self.notes = notes

    async def before_request(self, request: ProviderRequest, context: MiddlewareContext) -> ProviderRequest:
        self.notes.append(f"{self.name} before {context.attempt}")
        return request

    async def after_response(self, response: ProviderResponse, context: MiddlewareContext) -> ProviderResponse:
        self.notes.append(f"{self.name} after {context.attempt}")
        return response

    async def on_error(self, error: ProviderError, context: MiddlewareContext) -> ProviderResponse:
        self.notes.append(f"{self.name} error {context.attempt}")
        raise error


def config(**providers: ScriptedProvider) -> dict[str, Any]:
    """A pool ``chat`` over these providers, tried in this order."""
    return {
        "providers": {name: {"instance": provider} for name, provider in providers.items()},
        "models": {
            f"{name}-model": {
                "provider": name,
                "capabilities": ["chat-completion"],
                "pricing": {"input_per_1k_tokens": 1.0, "output_per_1k_tokens": 1.0},
            }
            for name in providers
        },
        "pools": {"chat": {"capability": "chat-completion", "retry": {"max_attempts": 0}}},
    }


@pytest.fixture
def build() -> Iterator[Build]:
    """Build meshes that are shut down when the test is over."""
    meshes: list[ModelMesh] = []

    def make(*middleware: Middleware, **providers: ScriptedProvider) -> ModelMesh:
        mesh = ModelMesh(clock=FakeClock(auto_advance=True), environ={}, middleware=middleware)
        meshes.append(mesh)
        mesh.initialize(config(**providers))
        return mesh

    yield make
    for mesh in meshes:
        mesh.shutdown()


def ask(mesh: ModelMesh, *, stream: bool = False) -> tuple[str, Any]:
    """Ask, and return text and receipt."""
    answer = mesh.get_client().chat.completions.create(model="chat", messages=HELLO, stream=stream)
    if isinstance(answer, ChatStream):
        return "".join(chunk.choices[0].delta.content or "" for chunk in answer if chunk.choices), answer.receipt
    assert isinstance(answer, Reply)
    return answer.choices[0].message.content, answer.receipt


both = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


# --- order -----------------------------------------------------------------------------------


@both
def test_requests_pass_in_order_and_answers_in_reverse(build: Build, stream: bool) -> None:
    """Like layers: the first is outermost."""
    notes: list[str] = []
    mesh = build(Noting("A", notes), Noting("B", notes), acme=ScriptedProvider())

    ask(mesh, stream=stream)

    assert notes == ["A before 1", "B before 1", "B after 1", "A after 1"]


@both
def test_every_attempt_is_told_of(build: Build, stream: bool) -> None:
    """A failure passes in order; the next attempt begins anew."""
    notes: list[str] = []
    broken = ScriptedProvider(default=ProviderServerError("no", status_code=500))
    mesh = build(Noting("A", notes), Noting("B", notes), first=broken, second=ScriptedProvider())

    _, receipt = ask(mesh, stream=stream)

    first = ["A before 1", "B before 1", "A error 1", "B error 1"]
    assert notes == [*first, "A before 2", "B before 2", "B after 2", "A after 2"]
    assert [attempt.outcome for attempt in receipt.attempts] == ["server_error", "success"]


def test_it_is_told_which_attempt_it_is(build: Build) -> None:
    """Model, provider, pool, number and time; one dict for all attempts, with the caller's metadata in it."""
    seen: list[MiddlewareContext] = []

    class Counting(Middleware):
        def before_request(self, request: ProviderRequest, context: MiddlewareContext) -> Any:
            context.metadata["count"] = context.metadata.get("count", 0) + 1
            seen.append(context)
            return request

    broken = ScriptedProvider(default=ProviderServerError("no", status_code=500))
    mesh = build(Counting(), first=broken, second=ScriptedProvider())
    mesh.get_client().chat.completions.create(model="chat", messages=HELLO, session_id="s1")

    assert [(each.model_id, each.provider_id, each.pool_name, each.attempt) for each in seen] == [
        ("first-model", "first", "chat", 1),
        ("second-model", "second", "chat", 2),
    ]
    assert seen[0].metadata is seen[1].metadata
    assert seen[0].metadata == {"session_id": "s1", "count": 2}
    assert seen[0].timestamp.tzinfo is not None


# --- changing things ----------------------------------------------------------------------------


def test_a_request_may_be_changed(build: Build) -> None:
    """For this attempt only: what the next one begins with is the caller's."""

    class Louder(Middleware):
        async def before_request(self, request: ProviderRequest, context: MiddlewareContext) -> ProviderRequest:
            assert isinstance(request.payload, dict)
            request.payload["seed"] = request.payload.get("seed", 0) + 1
            return replace(request, payload={**request.payload, "temperature": 2.0})

    first = ScriptedProvider(default=ProviderServerError("no", status_code=500))
    second = ScriptedProvider()
    ask(build(Louder(), first=first, second=second))

    assert [each.requests[0].payload["seed"] for each in (first, second)] == [1, 1]
    assert second.requests[0].payload["temperature"] == 2.0


def test_an_answer_may_be_changed(build: Build) -> None:
    """It has usage and cost; the caller gets what is returned."""
    seen: list[ProviderResponse] = []

    class Shouting(Middleware):
        async def after_response(self, response: ProviderResponse, context: MiddlewareContext) -> ProviderResponse:
            seen.append(response)
            return ProviderResponse.text("LOUD", model="m")

    text, receipt = ask(build(Shouting(), acme=ScriptedProvider()))

    assert text == "LOUD"
    assert seen[0].usage is not None
    assert seen[0].usage.total_tokens == 2
    assert seen[0].cost == receipt.cost == pytest.approx(0.002)


def test_a_stream_is_shown_whole_at_its_end(build: Build) -> None:
    """What was sent stays sent."""
    seen: list[ProviderResponse] = []

    class Looking(Middleware):
        async def after_response(self, response: ProviderResponse, context: MiddlewareContext) -> ProviderResponse:
            seen.append(response)
            return CACHED

    text, _ = ask(build(Looking(), acme=ScriptedProvider(default=pieces("a", "b"))), stream=True)

    assert text == "ab"
    assert seen[0].data["choices"][0]["message"]["content"] == "ab"
    assert seen[0].usage is not None


# --- answering instead -----------------------------------------------------------------------------


@both
def test_a_cache_answers_without_a_call(build: Build, stream: bool) -> None:
    """Nobody is called, nothing is counted, and the receipt says who answered."""

    class Cache(Middleware):
        async def before_request(self, request: ProviderRequest, context: MiddlewareContext) -> ProviderRequest:
            raise ShortCircuit(CACHED)

    provider = ScriptedProvider()
    mesh = build(Cache(), acme=provider)

    text, receipt = ask(mesh, stream=stream)

    assert text == "from the cache"
    assert provider.requests == []
    assert [(each.outcome, each.reason) for each in receipt.attempts] == [("success", "answered by middleware")]
    assert mesh.get_registry().list_models()[0].state.quota_used == 0


@both
def test_a_fallback_takes_the_place_of_a_failure(build: Build, stream: bool) -> None:
    """The first that returns one has the last word; the failure counts against the model all the same."""
    notes: list[str] = []

    class Fallback(Middleware):
        async def on_error(self, error: ProviderError, context: MiddlewareContext) -> ProviderResponse:
            return CACHED

    broken, other = ScriptedProvider(default=ProviderServerError("no", status_code=500)), ScriptedProvider()
    mesh = build(Noting("A", notes), Fallback(), Noting("C", notes), first=broken, second=other)

    text, receipt = ask(mesh, stream=stream)

    assert text == "from the cache"
    assert [each.outcome for each in receipt.attempts] == ["server_error", "success"]
    assert [note for note in notes if "error" in note] == ["A error 1"]
    assert other.requests == []
    assert mesh.get_registry().get_model("first-model").state.failure_count == 1  # type: ignore[union-attr]  # it is there


def test_a_stream_that_has_begun_takes_no_other_answer(build: Build) -> None:
    """Two texts are not spliced."""

    class Fallback(Middleware):
        async def on_error(self, error: ProviderError, context: MiddlewareContext) -> ProviderResponse:
            return CACHED

    mesh = build(Fallback(), acme=ScriptedProvider(default=pieces("a", "b", end="cut")))

    with pytest.raises(ModelMeshError):
        ask(mesh, stream=True)


def test_an_error_may_be_replaced_by_another(build: Build) -> None:
    """Each that raises passes its own on, and the last one decides whether others are tried."""

    class Final(Middleware):
        async def on_error(self, error: ProviderError, context: MiddlewareContext) -> ProviderResponse:
            raise InvalidRequestError("nobody will answer this")

    broken, other = ScriptedProvider(default=ProviderServerError("no", status_code=500)), ScriptedProvider()

    with pytest.raises(InvalidRequestError, match="nobody will"):
        ask(build(Final(), first=broken, second=other))
    assert other.requests == []


# --- failing -----------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("hook", ["before_request", "after_response"])
def test_a_hook_that_fails_ends_the_request_and_hurts_nobody(build: Build, hook: str, stream: bool) -> None:
    """The error names the hook and not what it said, which may be a prompt; the model is not blamed."""

    class Broken(Middleware):
        pass

    async def raising(*_: Any) -> Any:
        raise ValueError("a secret prompt")

    broken = Broken()
    setattr(broken, hook, raising)
    mesh = build(broken, acme=ScriptedProvider())

    with pytest.raises(ModelMeshError) as caught:
        ask(mesh, stream=stream)

    assert caught.value.message == f"middleware Broken.{hook} raised ValueError"
    assert mesh.get_registry().list_models()[0].state.failure_count == 0


def test_an_error_of_the_mesh_goes_through_as_it_is(build: Build) -> None:
    """A policy refuses a request with an error of its choice."""

    class Policy(Middleware):
        async def before_request(self, request: ProviderRequest, context: MiddlewareContext) -> ProviderRequest:
            raise InvalidRequestError("not on a Sunday", status_code=400)

    provider = ScriptedProvider()

    with pytest.raises(InvalidRequestError, match="Sunday"):
        ask(build(Policy(), acme=provider))
    assert provider.requests == []


def test_a_hook_that_forgets_to_return_is_told_so(build: Build) -> None:
    """The message says what has to be returned."""

    class Forgetful(Middleware):
        async def before_request(self, request: ProviderRequest, context: MiddlewareContext) -> Any:
            return None

    with pytest.raises(ModelMeshError, match=r"Forgetful\.before_request returned NoneType.*ProviderRequest"):
        ask(build(Forgetful(), acme=ScriptedProvider()))


def test_without_an_answer_the_request_fails_as_it_would_have(build: Build) -> None:
    """Middleware that looks on changes nothing."""
    notes: list[str] = []
    broken = ScriptedProvider(default=ProviderServerError("no", status_code=500))

    with pytest.raises(AllProvidersExhaustedError):
        ask(build(Noting("A", notes), only=broken))


# --- setting it ---------------------------------------------------------------------------------------


def test_it_may_be_added_while_the_mesh_runs_and_stays_over_a_reload(build: Build) -> None:
    """From the next attempt on."""
    notes: list[str] = []
    mesh = build(acme=ScriptedProvider())
    ask(mesh)
    mesh.middleware.add(Noting("A", notes))

    ask(mesh)
    mesh.reload_config(config(other=ScriptedProvider()))
    ask(mesh)

    assert notes == ["A before 1", "A after 1"] * 2


def test_create_takes_it() -> None:
    """Beside a configuration as beside detection."""
    notes: list[str] = []
    with create(config=config(acme=ScriptedProvider()), environ={}, middleware=[Noting("A", notes)]) as client:
        client.chat.completions.create(model="chat", messages=HELLO)

    assert notes == ["A before 1", "A after 1"]


def test_a_stack_runs_by_itself() -> None:
    """For tests of one's own middleware."""
    context = MiddlewareContext("m", "p", "chat", 1, datetime(2026, 1, 1, tzinfo=UTC))
    stack = MiddlewareStack([Middleware()])
    request = ProviderRequest("m", {"messages": HELLO})
    error = ProviderServerError("no")

    async def running() -> None:
        assert await stack.run_before_request(request, context) is request
        assert await stack.run_after_response(CACHED, context) is CACHED
        with pytest.raises(ProviderServerError):
            await stack.run_on_error(error, context)

    asyncio.run(running())
