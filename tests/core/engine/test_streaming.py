"""Streams: the commit point, the clocks, and what a caller gets when one breaks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import Any

import pytest

from modelmesh._engine.system import SystemClock
from modelmesh.errors import (
    AllProvidersExhaustedError,
    DeadlineExceededError,
    InvalidRequestError,
    ProviderConnectionError,
    ProviderError,
    ProviderServerError,
    ProviderTimeoutError,
    StreamInterruptedError,
)
from modelmesh.interfaces.provider import ProviderChunk, ProviderRequest, ProviderResponse, TokenUsage
from modelmesh.middleware import Middleware, MiddlewareContext
from modelmesh_cdk.testing import FakeClock, ScriptedProvider, answer, fail, hang, pieces

Build = Callable[..., Any]
NO_RETRY = {"max_attempts": 0}
REQUEST = {"messages": [{"role": "user", "content": "hi"}]}


def text(chunks: Sequence[ProviderChunk]) -> str:
    """What a caller has read."""
    return "".join(chunk.text for chunk in chunks)


def broken() -> ProviderConnectionError:
    """A connection that breaks."""
    return ProviderConnectionError("reset by peer")


class Raw(ScriptedProvider):
    """Streams exactly these objects."""

    def __init__(self, *chunks: Any) -> None:
        super().__init__()
        self.chunks = chunks

    async def stream(self, request: ProviderRequest) -> AsyncIterator[Any]:  # type: ignore[override]
        self.requests.append(request)
        for chunk in self.chunks:
            if isinstance(chunk, BaseException):
                raise chunk
            yield chunk


# --- whole streams ------------------------------------------------------------------


def test_a_stream_shows_all_its_chunks_and_records_its_usage(build: Build) -> None:
    """Role, content and end come through in order; the model's figures follow the reported usage."""
    world = build(a=[pieces("One ", "two.", usage=TokenUsage(3, 2, 5))])

    chunks = world.stream()

    assert text(chunks) == "One two."
    assert [chunk.finish_reason for chunk in chunks] == [None, None, None, "stop"]
    assert (world.state("a").quota_used, world.state("a").tokens_used) == (1, 5)


def test_a_stream_without_usage_is_estimated(build: Build) -> None:
    """Four characters a token for what was sent and seen."""
    chunk = ProviderChunk({}, text="x" * 40, commits=True)
    world = build(a=Raw(chunk, ProviderChunk({}, finish_reason="stop")))

    world.stream()

    assert world.state("a").tokens_used == 1 + 10


def test_the_time_to_the_first_token_is_in_the_receipt(build: Build) -> None:
    """Measured from the call to the first content."""
    world = build(a=[answer("One two", delay=0.4)])

    async def read() -> Any:
        routed = world.router.execute_stream("chat", REQUEST)
        async for _ in routed:
            pass
        return routed.receipt

    attempt = world.run(read()).attempts[0]

    assert (attempt.time_to_first_token_ms, attempt.latency_ms) == (pytest.approx(400), pytest.approx(400))


# --- before the commit point -----------------------------------------------------------


@pytest.mark.parametrize(
    "step",
    [fail(broken()), pieces(end="cut"), pieces(end=ProviderServerError("down", status_code=500))],
    ids=["refused", "cut-after-role", "error-after-role"],
)
def test_a_stream_that_breaks_before_its_content_is_replaced_unseen(build: Build, step: Any) -> None:
    """Role-only chunks are held back, so the caller sees one clean stream of the next model."""
    world = build(a=[step], b=[answer("One two")])

    chunks = world.stream()

    assert text(chunks) == "One two"
    assert [chunk.data["model"] for chunk in chunks] == ["b"] * len(chunks)


def test_nothing_is_shown_before_the_first_content(build: Build) -> None:
    """The caller of a stream that fails everywhere gets no chunk at all."""
    world = build(a=[pieces(end="cut")], retry=NO_RETRY)
    chunks: list[ProviderChunk] = []

    with pytest.raises(AllProvidersExhaustedError):
        world.stream(into=chunks)

    assert chunks == []


def test_the_callers_own_mistake_ends_a_stream_at_once(build: Build) -> None:
    """As for whole answers: no rotation."""
    world = build(a=[fail(InvalidRequestError("no", status_code=400))], b=[])

    with pytest.raises(InvalidRequestError):
        world.stream()

    assert world.calls("b") == 0


# --- after it --------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["cut", broken()], ids=["truncated", "error"])
def test_a_stream_that_breaks_after_content_carries_the_partial_text(build: Build, end: Any) -> None:
    """Nothing is replayed: the caller has the pieces and an error with the text so far."""
    world = build(a=[pieces("One ", "two ", end=end)], b=[])
    chunks: list[ProviderChunk] = []

    with pytest.raises(StreamInterruptedError) as caught:
        world.stream(into=chunks)

    assert (text(chunks), caught.value.partial, world.calls("b")) == ("One two ", "One two ", 0)
    assert (caught.value.provider_id, caught.value.model_id) == ("a", "a")
    assert world.state("a").failure_count == 1


def test_the_error_of_a_broken_stream_keeps_its_cause_and_category(build: Build) -> None:
    """Who looks deeper finds what the connector said."""
    cause = ProviderServerError("overloaded", status_code=503)
    world = build(a=[pieces("One ", end=cause)])

    with pytest.raises(StreamInterruptedError, match="overloaded") as caught:
        world.stream()

    assert (caught.value.__cause__, caught.value.category, caught.value.status_code) == (cause, "server_error", 503)


@pytest.mark.parametrize("chunk", [None, "text", 7], ids=["none", "text", "number"])
def test_a_chunk_that_is_none_breaks_the_attempt_only(build: Build, chunk: Any) -> None:
    """What is no chunk is a failure of the model."""
    world = build(a=Raw(chunk), b=[answer("One two")])

    assert text(world.stream()) == "One two"
    assert world.state("a").failure_count == 1


@pytest.mark.parametrize(
    "error", [SystemExit(1), asyncio.CancelledError(), ValueError("odd")], ids=lambda error: type(error).__name__
)
def test_whatever_a_stream_raises_is_a_failed_attempt(build: Build, error: BaseException) -> None:
    """Nobody goes down with it, and it counts against the model."""
    world = build(a=Raw(error), b=[answer("One two")])

    assert text(world.stream()) == "One two"
    assert world.state("a").failure_count == 1


def test_a_connector_that_returns_no_stream_is_a_failed_attempt(build: Build) -> None:
    """An object that cannot be iterated is as good as an error."""

    class NoStream(ScriptedProvider):
        def stream(self, request: ProviderRequest) -> Any:
            return None

    world = build(a=NoStream(), b=[answer("One two")])

    assert text(world.stream()) == "One two"


# --- after the terminal signal ---------------------------------------------------------------

END = ProviderChunk({}, finish_reason="stop")


@pytest.mark.parametrize("strategy", ["error", "hold"])
def test_what_goes_wrong_after_the_terminal_signal_concerns_nobody(build: Build, strategy: str) -> None:
    """The answer is whole: a connection that breaks while it is closed takes nothing back."""
    world = build(a=Raw(ProviderChunk({}, text="One", commits=True), END, broken()), on_stream_failure=strategy)

    assert text(world.stream()) == "One"
    assert (world.state("a").failure_count, world.state("a").quota_used) == (0, 1)


def test_a_caller_that_reads_no_further_than_the_end_has_had_its_answer(build: Build) -> None:
    """Many stop at the finish reason; that is a success like any other."""
    world = build(a=[pieces("One")])

    async def stop_at_the_end() -> Any:
        routed = world.router.execute_stream("chat", REQUEST)
        async with aclosing(routed):
            async for chunk in routed:
                if chunk.finish_reason:
                    break
        return routed.receipt

    receipt = world.run(stop_at_the_end())

    assert [attempt.outcome for attempt in receipt.attempts] == ["success"]
    assert (world.state("a").quota_used, world.member("a").in_flight) == (1, 0)


# --- on_stream_failure: hold ---------------------------------------------------------------


def test_hold_hides_an_early_break(build: Build) -> None:
    """Content is kept back for a while, so that another model can start over unseen."""
    world = build(a=[pieces("One ", end="cut")], b=[answer("Uno dos")], on_stream_failure="hold", hold_time=2)

    assert text(world.stream()) == "Uno dos"


def test_hold_lets_go_after_its_time(build: Build) -> None:
    """From then on the stream is committed like any other."""
    world = build(
        a=[pieces("One ", "two ", "three ", end="cut", pause=1.5)], b=[], on_stream_failure="hold", hold_time=2
    )
    chunks: list[ProviderChunk] = []

    with pytest.raises(StreamInterruptedError) as caught:
        world.stream(into=chunks)

    assert (text(chunks), caught.value.partial) == ("One two three ", "One two three ")


def test_a_short_stream_under_hold_is_shown_at_its_end(build: Build) -> None:
    """A stream that is over before the time loses nothing."""
    world = build(a=[pieces("One ", "two")], on_stream_failure="hold", hold_time=100)

    assert text(world.stream()) == "One two"


# --- on_stream_failure: continue -------------------------------------------------------------


def test_continue_lets_the_next_model_go_on_and_marks_the_seam(build: Build) -> None:
    """The text so far becomes the assistant's turn; the first chunk of the other model says so."""
    world = build(a=[pieces("One ", "two ", end="cut")], b=[pieces("three.")], on_stream_failure="continue")

    chunks = world.stream()

    assert text(chunks) == "One two three."
    seams = [chunk.data["modelmesh"] for chunk in chunks if "modelmesh" in chunk.data]
    assert seams == [{"continued": True, "model_id": "b", "after_characters": 8}]
    assert world.providers["b"].requests[0].messages[-1] == {"role": "assistant", "content": "One two "}


def test_a_continuation_that_breaks_goes_on_from_all_the_text(build: Build) -> None:
    """A third model is told what the first two wrote, once."""
    world = build(
        a=[pieces("One ", end="cut")], b=[pieces("two ", end="cut")], c=[pieces("three.")], on_stream_failure="continue"
    )

    chunks = world.stream()

    assert text(chunks) == "One two three."
    assert [message["content"] for message in world.providers["c"].requests[0].messages] == ["hi", "One two "]


def test_a_stream_that_nobody_can_continue_carries_all_the_text(build: Build) -> None:
    """When everybody has failed the caller still gets what there was."""
    world = build(
        a=[pieces("One ", end="cut")], b=[pieces("two ", end="cut")], on_stream_failure="continue", retry=NO_RETRY
    )

    with pytest.raises(StreamInterruptedError, match="nobody could continue") as caught:
        world.stream()

    assert caught.value.partial == "One two "


@pytest.mark.parametrize("again", [True, False], ids=["the same error", "one without text"])
def test_middleware_may_refuse_a_continuation_with_an_error_of_a_broken_stream(build: Build, again: bool) -> None:
    """It reaches the caller as it is, with the text that was seen, and not inside another of its kind."""

    class Refusing(Middleware):
        raised: StreamInterruptedError

        async def on_error(self, error: ProviderError, context: MiddlewareContext) -> ProviderResponse:
            assert isinstance(error, StreamInterruptedError)
            self.raised = error if again else StreamInterruptedError("no second voice")
            raise error

        async def before_request(self, request: ProviderRequest, context: MiddlewareContext) -> ProviderRequest:
            if context.attempt > 1:
                raise self.raised
            return request

    refusing = Refusing()
    world = build(a=[pieces("One ", end="cut")], b=[], on_stream_failure="continue")
    world.mesh.middleware.add(refusing)

    with pytest.raises(StreamInterruptedError) as caught:
        world.stream()

    assert caught.value is refusing.raised
    assert (caught.value.partial, world.calls("b")) == ("One ", 0)


# --- clocks -------------------------------------------------------------------------------


def test_a_stream_without_a_first_token_in_time_rotates(build: Build) -> None:
    """The first-token clock runs from the call; role chunks do not stop it."""
    world = build(a=[pieces(end="stall")], b=[answer("One two")], timeouts={"first_token": 0.02})

    assert text(world.stream()) == "One two"
    assert world.providers["a"].closed == 1


@pytest.mark.parametrize(
    ("timeouts", "clock"),
    [({"first_token": 5, "idle": 0.02}, "idle"), ({"idle": 5, "total": 0.02}, "total")],
    ids=["idle", "total"],
)
def test_a_stalled_stream_is_ended_by_its_clock(build: Build, timeouts: Any, clock: str) -> None:
    """The error names the clock, and carries the partial text."""
    world = build(a=[pieces("One ", end="stall")], timeouts=timeouts)

    with pytest.raises(StreamInterruptedError) as caught:
        world.stream()

    assert isinstance(caught.value.__cause__, ProviderTimeoutError)
    assert (caught.value.__cause__.clock, caught.value.partial, caught.value.category) == (clock, "One ", "timeout")
    assert world.providers["a"].closed == 1


def test_chunks_without_content_do_not_stop_the_idle_clock(build: Build) -> None:
    """Keep-alives are no progress."""

    class Chatty(ScriptedProvider):
        async def stream(self, request: ProviderRequest) -> Any:
            yield ProviderChunk({}, text="One ", commits=True)
            while True:
                await asyncio.sleep(0.005)
                yield ProviderChunk({})

    world = build(a=Chatty(), timeouts={"idle": 0.03}, clock=SystemClock())

    with pytest.raises(StreamInterruptedError) as caught:
        world.stream()

    assert caught.value.category == "timeout"


def test_time_the_caller_takes_is_not_the_providers(build: Build) -> None:
    """A slow reader ends no stream, and its time is not in the latency."""
    world = build(a=[pieces("One ", "two ", "three")], timeouts={"first_token": 5, "idle": 5, "total": 5})

    async def read_slowly() -> Any:
        routed = world.router.execute_stream("chat", REQUEST)
        async for _ in routed:
            world.clock.advance(60)
        return routed.receipt

    receipt = world.run(read_slowly())

    assert (receipt.attempts[0].outcome, receipt.attempts[0].latency_ms) == ("success", pytest.approx(0))
    assert receipt.overhead_us == pytest.approx(0, abs=1)


def test_the_deadline_ends_a_stream_that_has_not_begun(build: Build) -> None:
    """Before the first content it is the request's own error."""
    world = build(a=[fail(broken(), delay=6)], b=[], deadline=5)

    with pytest.raises(DeadlineExceededError):
        world.stream()


# --- leaving early -----------------------------------------------------------------------------


def test_leaving_a_stream_hangs_up_and_is_nobodys_failure(build: Build) -> None:
    """Closing the iteration closes the provider's stream before it returns."""
    world = build(a=[pieces("One ", "two ", "three")], b=[])

    async def leave() -> Any:
        routed = world.router.execute_stream("chat", REQUEST)
        async with aclosing(routed):
            async for chunk in routed:
                if chunk.text:
                    break
        return routed.receipt, world.providers["a"].closed

    receipt, closed = world.run(leave())

    assert (receipt.attempts[0].outcome, closed) == ("cancelled", 1)
    assert (world.providers["a"].active, world.calls("b")) == (0, 0)
    assert (world.state("a").failure_count, world.member("a").in_flight, world.pool.active_requests) == (0, 0, 0)


def test_cancelling_the_reader_hangs_up(build: Build) -> None:
    """A cancelled task leaves no connection behind, and its tokens count."""
    world = build(a=[pieces("One " * 10, end="stall")])

    async def give_up() -> int:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await world.astream()
        return world.providers["a"].closed

    assert world.run(give_up()) == 1
    assert (world.member("a").in_flight, world.pool.active_requests) == (0, 0)
    assert (world.state("a").failure_count, world.state("a").tokens_used) == (0, 1 + 10)


def test_a_stream_that_fails_to_close_does_not_concern_the_caller(build: Build) -> None:
    """Its outcome was settled."""

    class Sticky(ScriptedProvider):
        async def stream(self, request: ProviderRequest) -> Any:
            try:
                yield ProviderChunk({}, text="One", commits=True)
                await asyncio.get_running_loop().create_future()
            finally:
                raise ProviderError("cannot close")

    world = build(a=Sticky(), timeouts={"idle": 0.02})

    with pytest.raises(StreamInterruptedError, match="broke after 3"):
        world.stream()


def test_waiting_between_attempts_of_a_stream_can_be_cancelled(build: Build) -> None:
    """The retry is given back."""
    world = build(a=[fail(broken())], clock=FakeClock())

    async def give_up() -> None:
        reading = asyncio.create_task(world.astream())
        await world.clock.until_sleeping()
        reading.cancel()
        await reading

    with pytest.raises(asyncio.CancelledError):
        world.run(give_up())

    assert (world.pool.active_retries, world.pool.active_requests) == (0, 0)


def test_a_hanging_stream_can_be_left(build: Build) -> None:
    """Even one that has shown nothing yet."""
    world = build(a=[hang()])

    async def leave() -> None:
        routed = world.router.execute_stream("chat", REQUEST)
        reading = asyncio.create_task(anext(routed.generator))
        for _ in range(5):
            await asyncio.sleep(0)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        await routed.aclose()

    world.run(leave())

    assert (world.providers["a"].closed, world.providers["a"].active) == (1, 0)
