"""The router, to the letter of its document."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import Any

import pytest

from modelmesh import ModelMesh
from modelmesh.errors import (
    AllProvidersExhaustedError,
    CapabilityNotFoundError,
    InvalidRequestError,
    NoActiveModelError,
    ProviderServerError,
    StreamInterruptedError,
    UsageError,
)
from modelmesh.interfaces.provider import ProviderRequest, Receipt
from modelmesh.router import BatchJob, CompletionRequest, CompletionResponse, Router, RoutingDecision, RoutingOptions
from modelmesh_cdk.testing import FakeClock, ScriptedProvider, answer, pieces

HELLO = CompletionRequest([{"role": "user", "content": "hi"}])

Build = Callable[..., Router]


@pytest.fixture
def build() -> Iterator[Build]:
    """Build a router over scripted providers ``p1``, ``p2`` …, with a model ``m1``, ``m2`` … each, in pool ``chat``."""
    meshes: list[ModelMesh] = []

    def make(
        *providers: Any, model: dict[str, Any] | None = None, provider: dict[str, Any] | None = None, **pool: Any
    ) -> Router:
        numbered = dict(enumerate(providers, 1))
        mesh = ModelMesh(clock=FakeClock(auto_advance=True), environ={})
        meshes.append(mesh)
        mesh.initialize(
            {
                "providers": {
                    f"p{number}": {
                        "instance": each if isinstance(each, ScriptedProvider) else ScriptedProvider(each),
                        **(provider or {}),
                    }
                    for number, each in numbered.items()
                },
                "models": {
                    f"m{number}": {"provider": f"p{number}", "capabilities": ["chat-completion"], **(model or {})}
                    for number in numbered
                },
                "pools": {"chat": {"capability": "chat-completion", **pool}},
            }
        )
        return mesh.get_router()

    yield make
    for mesh in meshes:
        mesh.shutdown()


def down() -> ProviderServerError:
    """A provider's failure."""
    return ProviderServerError("down", status_code=500)


def fields(cls: Any) -> list[tuple[str, Any]]:
    """Names and defaults of a dataclass, in order."""
    missing = dataclasses.MISSING
    return [
        (each.name, each.default_factory() if each.default_factory is not missing else each.default)
        for each in dataclasses.fields(cls)
    ]


# --- the document -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cls", "expected"),
    [
        (
            RoutingOptions,
            [("delivery_mode", None), ("preferred_provider", None), ("session_id", None), ("metadata", {})],
        ),
        (
            RoutingDecision,
            [
                ("model_id", dataclasses.MISSING),
                ("provider_id", dataclasses.MISSING),
                ("pool_id", dataclasses.MISSING),
                ("score", dataclasses.MISSING),
                ("fallback_chain", []),
            ],
        ),
        (
            CompletionRequest,
            [
                ("messages", dataclasses.MISSING),
                ("temperature", None),
                ("max_tokens", None),
                ("stream", False),
                ("tools", None),
                ("metadata", {}),
            ],
        ),
        (
            CompletionResponse,
            [
                ("content", dataclasses.MISSING),
                ("model", dataclasses.MISSING),
                ("provider", dataclasses.MISSING),
                ("usage", {}),
                ("latency_ms", 0.0),
                ("metadata", {}),
            ],
        ),
        (
            BatchJob,
            [(name, dataclasses.MISSING) for name in ("job_id", "status", "model", "provider", "request_count")],
        ),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_the_dataclasses_are_the_documents(cls: Any, expected: list[tuple[str, Any]]) -> None:
    """Names, order and defaults."""
    assert fields(cls) == expected


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("route", ["self", "capability", "options"]),
        ("complete", ["self", "capability", "request"]),
        ("stream", ["self", "capability", "request"]),
        ("batch", ["self", "capability", "requests"]),
        ("get_pool", ["self", "name"]),
        ("list_pools", ["self"]),
    ],
)
def test_the_methods_are_the_documents(method: str, parameters: list[str]) -> None:
    """Names and parameters; only ``stream`` is asynchronous."""
    function = getattr(Router, method)

    assert list(inspect.signature(function).parameters) == parameters
    assert inspect.isasyncgenfunction(function) is (method == "stream")
    assert not inspect.iscoroutinefunction(function)


def test_the_attributes_are_the_documents(build: Build) -> None:
    """Pipeline, pools by name, emitter, logger, observability."""
    router = build([])

    assert set(router._pools) == {"chat"}
    assert list(Router.__annotations__) == [
        "_pipeline",
        "_pools",
        "_event_emitter",
        "_request_logger",
        "_observability",
    ]
    assert router._observability is not None


# --- route ------------------------------------------------------------------------------


def test_route_decides_and_tells_who_is_next(build: Build) -> None:
    """Model, provider, pool, score, and the others in order."""
    assert build([], [], []).route("chat") == RoutingDecision("m1", "p1", "chat", 1.0, ["m2", "m3"])


@pytest.mark.parametrize("name", ["chat", "chat-completion", "generation.text-generation.chat-completion", "m1"])
def test_route_takes_pools_capabilities_and_models(build: Build, name: str) -> None:
    """Whatever a caller may give as ``model``."""
    assert build([]).route(name).model_id == "m1"


def test_route_calls_nobody(build: Build) -> None:
    """It is a decision, no request."""
    provider = ScriptedProvider()

    build(provider).route("chat")

    assert provider.requests == []


def test_route_moves_the_strategys_pointer(build: Build) -> None:
    """It is a real choice."""
    router = build([], [], strategy="round-robin")

    assert [router.route("chat").model_id for _ in range(3)] == ["m1", "m2", "m1"]


def test_route_heeds_its_options(build: Build) -> None:
    """A preferred provider is taken, and empty options are none."""
    router = build([], [])

    assert router.route("chat", RoutingOptions(preferred_provider="p2")).model_id == "m2"
    assert router.route("chat", RoutingOptions()).model_id == "m2"  # stays where it is


def test_route_refuses_what_nobody_serves(build: Build) -> None:
    """Unknown names, and pools whose models all rest."""
    router = build([])
    with pytest.raises(CapabilityNotFoundError):
        router.route("nothing")
    router.get_pool("chat").deactivate(router.get_pool("chat").members["m1"].model)

    with pytest.raises(NoActiveModelError):
        router.route("chat")


# --- complete -----------------------------------------------------------------------------


def test_complete_answers_from_the_chosen_model(build: Build) -> None:
    """Content, who answered, usage, latency, and the facts in the metadata."""
    router = build([answer("Hello there.", 5, prompt_tokens=3, delay=0.25)])

    reply = router.complete("chat", HELLO)

    assert (reply.content, reply.model, reply.provider) == ("Hello there.", "m1", "p1")
    assert reply.usage == {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}
    assert reply.latency_ms == pytest.approx(250)
    assert set(reply.metadata) == {"raw", "receipt", "request_id", "finish_reason"}
    assert (reply.metadata["raw"]["object"], reply.metadata["finish_reason"]) == ("chat.completion", "stop")


def test_complete_fails_over_out_of_the_callers_sight(build: Build) -> None:
    """The caller sees an answer; the receipt tells what it took."""
    reply = build([down()], ["second"]).complete("chat", HELLO)

    receipt = reply.metadata["receipt"]
    assert isinstance(receipt, Receipt)
    assert (reply.content, receipt.rotations, receipt.retries, receipt.pool_id) == ("second", 1, 0, "chat")
    assert [(attempt.outcome, attempt.reason, attempt.status_code) for attempt in receipt.attempts] == [
        ("server_error", "down", 500),
        ("success", None, 200),
    ]


def test_complete_sends_what_was_set_and_nothing_else(build: Build) -> None:
    """Unset parameters stay unset; the caller's metadata is not sent."""
    provider = ScriptedProvider()
    tools = [{"type": "function", "function": {"name": "f"}}]
    router = build(provider)

    router.complete("chat", HELLO)
    router.complete("chat", CompletionRequest(HELLO.messages, 0.0, 10, tools=tools, metadata={"team": "blue"}))

    assert [dict(request.payload) for request in provider.requests] == [
        {"messages": HELLO.messages},
        {"messages": HELLO.messages, "temperature": 0.0, "max_tokens": 10, "tools": tools},
    ]


def test_complete_raises_when_everybody_failed(build: Build) -> None:
    """With how often and how the last time."""
    router = build([down()], [down()], retry={"max_attempts": 0})

    with pytest.raises(AllProvidersExhaustedError) as caught:
        router.complete("chat", HELLO)

    assert (caught.value.pool_name, caught.value.attempts) == ("chat", 2)
    assert isinstance(caught.value.last_error, ProviderServerError)


def test_complete_gives_back_the_callers_own_mistake(build: Build) -> None:
    """As the provider said it."""
    with pytest.raises(InvalidRequestError, match="temperature"):
        build([InvalidRequestError("temperature is 7", status_code=400)]).complete("chat", HELLO)


def test_complete_refuses_a_request_without_messages(build: Build) -> None:
    """As the server does; no provider is asked."""
    provider = ScriptedProvider()

    with pytest.raises(InvalidRequestError, match="at least one message; it is empty"):
        build(provider).complete("chat", CompletionRequest([]))

    assert provider.requests == []


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({"deadline": "soon"}, "number of seconds; it is a str"),
        ({"deadline": True}, "number of seconds; it is a bool"),
        ({"deadline": float("nan")}, "number of seconds; it is nan"),
        ({"parameters": ["top_p"]}, "must be a mapping .* it is a list"),
    ],
    ids=["text", "truth", "nan", "list"],
)
def test_complete_refuses_metadata_that_means_nothing(build: Build, metadata: dict[str, Any], said: str) -> None:
    """The caller is told; no provider is asked."""
    provider = ScriptedProvider()

    with pytest.raises(InvalidRequestError, match=said):
        build(provider).complete("chat", CompletionRequest(HELLO.messages, metadata=metadata))

    assert provider.requests == []


def test_a_deadline_that_never_comes_is_none(build: Build) -> None:
    """Infinity is a number of seconds, too."""
    never = CompletionRequest(HELLO.messages, metadata={"deadline": float("inf")})

    assert build([], timeouts={"total": None}).complete("chat", never).model == "m1"


def test_complete_is_refused_on_the_meshs_own_loop(build: Build) -> None:
    """A connector that calls back into the mesh must await."""

    class Recursive(ScriptedProvider):
        router: Router
        error: Exception

        async def complete(self, request: ProviderRequest) -> Any:
            try:
                self.router.complete("chat", HELLO)
            except UsageError as error:
                self.error = error
            return await super().complete(request)

    provider = Recursive()
    provider.router = build(provider)

    provider.router.complete("chat", HELLO)

    assert "acomplete" in str(provider.error)


def test_complete_may_be_called_while_another_loop_runs(build: Build) -> None:
    """It blocks that loop, as any blocking call does, and works."""
    router = build([])

    async def elsewhere() -> CompletionResponse:
        return router.complete("chat", HELLO)

    assert asyncio.run(elsewhere()).content == "Hello."


def test_many_threads_and_loops_share_one_state(build: Build) -> None:
    """Threads that block and tasks that await meet in the same figures."""
    router = build([], [], strategy="round-robin")

    async def awaiting() -> None:
        await asyncio.gather(*(router.acomplete("chat", HELLO) for _ in range(50)))

    with ThreadPoolExecutor(8) as threads:
        blocking = [threads.submit(router.complete, "chat", HELLO) for _ in range(50)]
        loops = [threads.submit(asyncio.run, awaiting()) for _ in range(2)]
        for each in (*blocking, *loops):
            each.result(20)

    pool = router.get_pool("chat")
    used = [member.model.state.quota_used for member in pool.members.values()]
    assert (used, pool.total_requests, pool.active_requests) == ([75, 75], 150, 0)
    assert [member.in_flight for member in pool.members.values()] == [0, 0]


def test_blocking_callers_run_at_once(build: Build) -> None:
    """One thread's wait does not hold another's answer up."""
    gate = asyncio.Barrier(4)

    class Meeting(ScriptedProvider):
        async def complete(self, request: ProviderRequest) -> Any:
            async with asyncio.timeout(5):
                await gate.wait()
            return await super().complete(request)

    router = build(Meeting())
    threads = [threading.Thread(target=router.complete, args=("chat", HELLO)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)

    assert router.get_pool("chat").total_requests == 4


# --- stream -------------------------------------------------------------------------------


async def read(stream: AsyncIterator[CompletionResponse], into: list[CompletionResponse]) -> None:
    """Read a stream to its end."""
    async for part in stream:
        into.append(part)  # noqa: PERF401 (what came before an error must be kept)


def text(parts: Sequence[CompletionResponse]) -> str:
    """What was streamed."""
    return "".join(part.content for part in parts)


def test_stream_yields_increments(build: Build) -> None:
    """Used with ``async for`` and not awaited; the end has finish reason and usage."""
    parts: list[CompletionResponse] = []

    asyncio.run(read(build([pieces("One ", "two.")]).stream("chat", HELLO), parts))

    assert (text(parts), {(part.model, part.provider) for part in parts}) == ("One two.", {("m1", "p1")})
    assert (parts[-1].metadata["finish_reason"], parts[-1].usage["completion_tokens"]) == ("stop", 2)
    assert {part.metadata["raw"]["object"] for part in parts} == {"chat.completion.chunk"}


def test_stream_fails_over_before_its_first_content(build: Build) -> None:
    """Unseen by the reader."""
    parts: list[CompletionResponse] = []

    asyncio.run(read(build([pieces(end="cut")], [pieces("two")]).stream("chat", HELLO), parts))

    assert (text(parts), {part.model for part in parts}) == ("two", {"m2"})


def test_stream_breaks_with_the_partial_text(build: Build) -> None:
    """After content nothing is replayed."""
    parts: list[CompletionResponse] = []

    with pytest.raises(StreamInterruptedError) as caught:
        asyncio.run(read(build([pieces("One ", end="cut")], []).stream("chat", HELLO), parts))

    assert (text(parts), caught.value.partial) == ("One ", "One ")


def test_stream_refuses_when_it_is_iterated(build: Build) -> None:
    """An unknown name is an error of the iteration, since nothing is awaited before."""
    stream = build([]).stream("nothing", HELLO)

    with pytest.raises(CapabilityNotFoundError):
        asyncio.run(read(stream, []))


def test_leaving_a_stream_early_hangs_up(build: Build) -> None:
    """The provider's stream is closed before ``aclose`` returns."""
    provider = ScriptedProvider([pieces("One ", "two ", end="stall")])
    router = build(provider)

    async def leave() -> None:
        async with aclosing(router.stream("chat", HELLO)) as stream:  # type: ignore[type-var]  # a generator behind it
            async for part in stream:
                if part.content:
                    return

    asyncio.run(leave())

    assert (provider.closed, provider.active) == (1, 0)


def test_a_routed_stream_knows_who_answers(build: Build) -> None:
    """IDs from the start, and a receipt that is complete at the end."""
    router = build([pieces(end="cut")], [pieces("two")])

    async def main() -> tuple[str, str, str, int]:
        routed = router.execute_stream("chat", {"messages": HELLO.messages})
        before = routed.model_id
        async for _ in routed:
            pass
        return before, routed.model_id, routed.provider_id, len(routed.receipt.attempts)

    assert asyncio.run(main()) == ("m1", "m2", "p2", 2)


# --- execute --------------------------------------------------------------------------------


def test_execute_carries_any_operation(build: Build) -> None:
    """The answer in OpenAI's shape with its receipt."""
    provider = ScriptedProvider()
    router = build(provider, model={"capabilities": ["chat-completion", "text-embeddings"]})

    reply = asyncio.run(router.execute("embeddings", "chat", {"input": "hi", "unheard_of": 1}))

    assert (reply.model_id, reply.provider_id, reply.receipt.attempts[0].outcome) == ("m1", "p1", "success")
    assert (provider.requests[0].operation, dict(provider.requests[0].payload)) == (
        "embeddings",
        {"input": "hi", "unheard_of": 1},
    )


# --- batch ----------------------------------------------------------------------------------


class Batching(ScriptedProvider):
    """Takes batches."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.error = error
        self.batches: list[tuple[str, Any]] = []

    async def submit_batch(self, model: str, payloads: Any) -> str:
        self.batches.append((model, payloads))
        if self.error is not None:
            raise self.error
        return f"job-{len(self.batches)}"


BATCH = {"batch": {"max_items": 2}}


def test_batch_submits_and_hands_back_a_job(build: Build) -> None:
    """All requests in one submission."""
    provider = Batching()

    router = build(provider, model=BATCH)

    job = router.batch("chat", [HELLO, HELLO])

    assert job == BatchJob(job.job_id, "queued", "m1", "p1", 2)
    assert (router.get_batch(job.job_id).provider_job, job.job_id[:6]) == ("job-1", "batch_")
    assert provider.batches == [("m1", [{"messages": HELLO.messages}] * 2)]


def test_batch_goes_on_to_the_next_when_one_fails(build: Build) -> None:
    """As a request would."""
    job = build(Batching(down()), Batching(), model=BATCH).batch("chat", [HELLO])

    assert (job.model, job.request_count) == ("m2", 1)


def test_batch_raises_when_everybody_failed(build: Build) -> None:
    """With the last error."""
    with pytest.raises(AllProvidersExhaustedError) as caught:
        build(Batching(down()), Batching(down()), model=BATCH).batch("chat", [HELLO])

    assert (caught.value.attempts, caught.value.last_error.category) == (2, "server_error")  # type: ignore[union-attr]


def test_a_batch_of_nothing_is_refused(build: Build) -> None:
    """There is nothing to submit."""
    with pytest.raises(ValueError, match="at least one"):
        build(Batching(), model=BATCH).batch("chat", [])


@pytest.mark.parametrize(
    ("model", "count"), [(BATCH, 3), ({"delivery": "streaming"}, 1)], ids=["too-many", "nobody-takes-batches"]
)
def test_the_mesh_takes_a_batch_that_no_provider_does(build: Build, model: dict[str, Any], count: int) -> None:
    """More than a model takes, or no model for batches: the job is the mesh's own."""
    job = build(Batching(), model=model).batch("chat", [HELLO] * count)

    assert (job.provider, job.model, job.request_count) == ("", "", count)


@pytest.mark.parametrize(
    ("provider", "model", "taken"),
    [
        ({"supported": False}, BATCH, False),
        ({"max_items": 1}, BATCH, False),
        ({"max_items": 2}, BATCH, True),
        ({}, {"batch": {"max_payload": 60}}, False),
        ({}, {"batch": {"max_payload": "1KB"}}, True),
    ],
    ids=["not supported", "too many", "as many", "too large", "small enough"],
)
def test_a_batch_goes_where_it_fits(build: Build, provider: dict[str, Any], model: dict[str, Any], taken: bool) -> None:
    """By the limits of the provider and of the model; otherwise the mesh carries it out."""
    connector = Batching()

    job = build(connector, model=model, provider={"batch": provider}).batch("chat", [HELLO, HELLO])

    assert (job.model == "m1") is taken
    assert bool(connector.batches) is taken


def test_a_batch_goes_to_no_provider_whose_model_cannot_serve_all_of_it(build: Build) -> None:
    """One request with an image is enough, as it would be alone; the mesh then asks for each by itself."""
    image = {"type": "image_url", "image_url": {"url": "data:,"}}
    connector = Batching()
    router = build(connector, model={"batch": True, "features": {"vision": False}})

    plain = router.batch("chat", [HELLO, HELLO])
    seeing = router.batch("chat", [HELLO, CompletionRequest([{"role": "user", "content": [image]}])])

    assert (plain.model, seeing.model, len(connector.batches)) == ("m1", "", 1)


# --- pools ----------------------------------------------------------------------------------


def test_pools_are_found_by_name(build: Build) -> None:
    """An unknown one is a KeyError that lists the near ones."""
    router = build([])

    assert router.list_pools() == [router.get_pool("chat")]
    with pytest.raises(KeyError, match="chat"):
        router.get_pool("chatt")
