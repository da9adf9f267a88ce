"""Attempts carried out: whatever a connector does, the request has an outcome and the model a fair record."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

import pytest

from modelmesh.errors import (
    AllProvidersExhaustedError,
    AuthenticationError,
    DeadlineExceededError,
    ProviderServerError,
    ProviderTimeoutError,
    UsageError,
)
from modelmesh.interfaces.provider import (
    ErrorClassificationResult,
    ProviderRequest,
    ProviderResponse,
    RateLimitStatus,
    TokenUsage,
)
from modelmesh.router import CompletionRequest
from modelmesh_cdk.testing import FakeClock, ScriptedProvider, answer, fail, hang

Build = Callable[..., Any]
Outcomes = Callable[[Any], str]
NO_RETRY = {"max_attempts": 0}


class Garbage(ScriptedProvider):
    """Answers with whatever it was given."""

    def __init__(self, given: Any) -> None:
        super().__init__()
        self.given = given

    async def complete(self, request: ProviderRequest) -> Any:
        self.requests.append(request)
        return self.given


class Misjudging(ScriptedProvider):
    """Cannot even say what its own failures mean."""

    def __init__(self, verdict: Any) -> None:
        super().__init__(default=fail(ValueError("sk-secret-in-the-text-0123456789")))
        self.verdict = verdict

    def classify_error(self, error: Exception) -> Any:
        if isinstance(self.verdict, BaseException):
            raise self.verdict
        return self.verdict


# --- connectors that misbehave --------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        SystemExit(1),
        asyncio.CancelledError(),
        GeneratorExit(),
        ValueError("odd"),
        UsageError("not mine"),
        TimeoutError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_a_connector_raises_is_a_failed_attempt(build: Build, error: BaseException) -> None:
    """Nobody goes down with it, and the next model answers."""
    world = build(a=[fail(error)], b=["second"])

    reply = world.ask()

    assert reply.content == "second"
    assert [attempt.model_id for attempt in reply.metadata["receipt"].attempts] == ["a", "b"]


@pytest.mark.parametrize("limits", [{}, {"deactivation": {"request_limit": 5}}], ids=["free", "limited"])
def test_a_request_whose_loop_is_gone_ends_without_asking_anybody_else(build: Build, limits: dict[str, Any]) -> None:
    """The garbage collector closes it, and it can await nothing any more."""
    world = build(a=[hang()], b=[], **limits)
    asked: Any = world.mesh.get_router().acomplete("chat", CompletionRequest([{"role": "user", "content": "hi"}]))

    async def begin() -> None:
        asked.send(None)

    asyncio.run(begin())
    asked.close()

    assert (world.calls("a"), world.calls("b")) == (1, 0)
    assert (world.member("a").in_flight, world.pool.active_requests) == (0, 0)
    assert world.state("a").failure_count == 0


def test_a_failure_names_provider_and_model(build: Build) -> None:
    """Even when the connector said neither."""
    world = build(
        providers={"acme": ScriptedProvider([ProviderServerError("down")])}, models={"a": "acme"}, retry=NO_RETRY
    )

    with pytest.raises(AllProvidersExhaustedError) as caught:
        world.ask()

    assert (caught.value.last_error.provider_id, caught.value.last_error.model_id) == ("acme", "a")


@pytest.mark.parametrize("error", [SystemExit(1), ValueError("odd")], ids=lambda error: type(error).__name__)
def test_whatever_a_connector_raises_is_told_with_its_place(build: Build, error: BaseException) -> None:
    """Its author finds the line in the error."""

    class Raising(ScriptedProvider):
        async def complete(self, request: ProviderRequest) -> ProviderResponse:
            raise error

    world = build(a=Raising(), retry=NO_RETRY)

    with pytest.raises(AllProvidersExhaustedError) as caught:
        world.ask()

    said = rf"provider 'a' raised {type(error).__name__} at .*/test_driver\.py:\d+ in complete"
    assert re.fullmatch(said, caught.value.last_error.message)


def test_an_interrupt_from_the_keyboard_is_passed_on(build: Build) -> None:
    """The person at the terminal wins over any fallback."""
    world = build(a=[fail(KeyboardInterrupt())], b=[])

    with pytest.raises(KeyboardInterrupt):
        world.ask()

    assert (world.calls("b"), world.member("a").in_flight, world.pool.active_requests) == (0, 0, 0)


@pytest.mark.parametrize(
    "given",
    [None, "text", {"choices": []}, ProviderResponse(None), ProviderResponse(["choices"])],  # type: ignore[arg-type]
    ids=["none", "text", "dict", "no-data", "list"],
)
def test_an_answer_that_is_none_is_a_malformed_one(build: Build, outcomes: Outcomes, given: Any) -> None:
    """What is no answer counts as a failure of the model, and the request rotates."""
    world = build(a=Garbage(given), b=["second"])

    reply = world.ask()

    assert outcomes(reply.metadata["receipt"]) == "a:malformed b:success"
    assert world.state("a").failure_count == 1


@pytest.mark.parametrize(
    "data",
    [{}, {"choices": None}, {"choices": [{}]}, {"choices": ["x"]}, {"choices": [{"message": None}]}, {"choices": "x"}],
    ids=["empty", "null", "bare", "text", "no-message", "string"],
)
def test_an_answer_with_an_odd_inside_does_not_break_the_router(build: Build, data: dict[str, Any]) -> None:
    """Content that cannot be read is empty; the answer as it came is there to look at."""
    world = build(a=Garbage(ProviderResponse(data)))

    reply = world.ask()

    assert (reply.content, reply.metadata["raw"]) == ("", data)


@pytest.mark.parametrize(
    "verdict",
    [RuntimeError("broken"), SystemExit(1), None, ErrorClassificationResult(True, "no-such-category")],  # type: ignore[arg-type]
    ids=["raises", "exits", "none", "unknown-category"],
)
def test_a_connector_that_cannot_classify_leaves_an_unknown_error(build: Build, verdict: Any) -> None:
    """The text of the foreign exception is not shown, since it may hold anything."""
    world = build(a=Misjudging(verdict), retry=NO_RETRY)

    with pytest.raises(AllProvidersExhaustedError) as caught:
        world.ask()

    assert caught.value.last_error.category == "unknown"
    assert "ValueError" in str(caught.value)
    assert "sk-secret" not in str(caught.value)


def test_the_connector_says_what_its_own_exceptions_mean(build: Build) -> None:
    """Category, status and wait come from its verdict."""
    verdict = ErrorClassificationResult(False, "auth", None, 401, "the key is wrong")
    world = build(a=Misjudging(verdict), retry=NO_RETRY)

    with pytest.raises(AllProvidersExhaustedError) as caught:
        world.ask()

    assert isinstance(caught.value.last_error, AuthenticationError)
    assert caught.value.last_error.status_code == 401


@pytest.mark.parametrize("error", [RuntimeError("no room"), SystemExit(1)], ids=["raises", "exits"])
def test_a_connector_that_fails_to_take_a_usage_report_does_not_fail_the_answer(
    build: Build, error: BaseException
) -> None:
    """The answer is there, and the caller gets it."""

    class Forgetful(ScriptedProvider):
        def report_usage(self, model_id: str, usage: TokenUsage) -> None:
            raise error

    world = build(a=Forgetful())

    assert world.ask().content == "Hello."
    assert world.state("a").quota_used == 1


# --- what an attempt leaves behind ------------------------------------------------------


def test_usage_cost_and_latency_are_recorded(build: Build) -> None:
    """The receipt, the state and the connector hear the same figures."""
    world = build(a=[answer(tokens=20, prompt_tokens=10, delay=0.25)], price={"input_per_1k_tokens": 1})

    reply = world.ask()

    attempt = reply.metadata["receipt"].attempts[0]
    assert (attempt.tokens_in, attempt.tokens_out, attempt.cost, attempt.latency_ms) == (
        10,
        20,
        0.01,
        pytest.approx(250),
    )
    assert reply.usage == {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30}
    assert (world.state("a").tokens_used, world.state("a").latency_history) == (30, [pytest.approx(0.25)])
    assert world.providers["a"].usage_reports == [("a", TokenUsage(10, 20, 30))]


def test_an_answer_without_usage_is_estimated(build: Build) -> None:
    """Four characters a token, never nothing."""
    data = {"choices": [{"message": {"content": "x" * 40}}]}
    world = build(a=Garbage(ProviderResponse(data)))

    reply = world.ask(text="y" * 20)

    assert reply.usage == {"prompt_tokens": 5, "completion_tokens": 10, "total_tokens": 15}


def test_the_routers_own_time_leaves_out_providers_and_waits(build: Build) -> None:
    """Overhead is what the router took, not what it waited for."""
    world = build(a=[fail(ProviderServerError("down", status_code=500), delay=3), answer(delay=2)])

    reply = world.ask()

    assert world.clock.sleeps[0] == 3
    assert reply.metadata["receipt"].overhead_us == pytest.approx(0, abs=1)


def test_the_providers_rate_limits_are_remembered(build: Build) -> None:
    """Strategies see what the last answer said."""
    limits = RateLimitStatus(requests_remaining=7)
    world = build(a=[answer(rate_limits=limits)])

    world.ask()

    assert world.member("a").rate_limits is limits


def test_the_connector_gets_its_own_model_name_and_the_callers_extras(build: Build) -> None:
    """The model as its provider names it, headers, metadata, and the request's ID."""
    world = build(providers={"acme": ScriptedProvider()}, models={"a": {"provider": "acme", "model": "acme/a-1"}})

    reply = world.ask(headers={"x-own": "1"}, parameters={"top_p": 0.5}, team="blue")

    request = world.providers["acme"].requests[0]
    assert (request.model, request.headers, request.payload["top_p"]) == ("acme/a-1", {"x-own": "1"}, 0.5)
    assert (request.metadata["team"], request.request_id) == ("blue", reply.metadata["request_id"])


# --- time -----------------------------------------------------------------------------------


def test_an_answer_that_takes_too_long_is_abandoned(build: Build, outcomes: Outcomes) -> None:
    """The total clock ends the attempt, and the next model answers."""
    world = build(a=[hang()], b=["second"], timeouts={"total": 0.02})

    reply = world.ask()

    assert outcomes(reply.metadata["receipt"]) == "a:timeout b:success"
    assert world.providers["a"].cancelled == 1


def test_a_timeout_says_which_clock_and_limit(build: Build) -> None:
    """The last error holds both."""
    world = build(a=[hang()], timeouts={"total": 0.02}, retry=NO_RETRY)

    with pytest.raises(AllProvidersExhaustedError) as caught:
        world.ask()

    error = caught.value.last_error
    assert isinstance(error, ProviderTimeoutError)
    assert (error.clock, error.timeout_seconds) == ("total", 0.02)


def test_the_deadline_cuts_an_attempt_short(build: Build) -> None:
    """No attempt outlives its request; the clock of the test stands, so the next one may still begin."""
    world = build(a=[hang()], b=["second"], deadline=0.02)

    assert world.ask().content == "second"


def test_a_timeout_of_the_requests_deadline_says_so(build: Build) -> None:
    """It is told apart from the attempt's own clocks."""
    world = build(a=[hang()], timeouts={"total": 10.0}, retry=NO_RETRY)

    with pytest.raises(AllProvidersExhaustedError) as caught:
        world.ask(deadline=0.02)

    error = caught.value.last_error
    assert isinstance(error, ProviderTimeoutError)
    assert (error.clock, round(error.timeout_seconds or 0.0, 3)) == ("deadline", 0.02)


def test_an_own_timeout_of_the_connector_is_its_failure(build: Build) -> None:
    """A bare TimeoutError from inside is no limit of ours."""
    world = build(a=[fail(TimeoutError())], b=[])

    reply = world.ask()

    assert reply.metadata["receipt"].attempts[0].outcome != "success"
    assert reply.model == "b"


# --- cancelling -------------------------------------------------------------------------------


def test_cancelling_a_request_cancels_its_call_and_is_nobodys_failure(build: Build) -> None:
    """The provider is hung up on; the model's health does not change; its tokens count."""
    world = build(a=[hang()], b=[])

    async def give_up() -> None:
        async with asyncio.timeout(0.02):
            await world.aask(text="x" * 40)

    with pytest.raises(TimeoutError):
        world.run(give_up())

    assert (world.providers["a"].cancelled, world.calls("b")) == (1, 0)
    assert (world.state("a").failure_count, world.state("a").error_rate, world.state("a").tokens_used) == (0, 0.0, 10)
    assert (world.member("a").in_flight, world.pool.active_requests) == (0, 0)


def test_cancelling_a_request_that_waits_gives_its_retry_back(build: Build) -> None:
    """A request that went away during backoff holds nothing."""
    world = build(a=[ProviderServerError("down", status_code=500)], clock=FakeClock())

    async def give_up() -> None:
        asking = asyncio.create_task(world.aask())
        await world.clock.until_sleeping()
        asking.cancel()
        await asking

    with pytest.raises(asyncio.CancelledError):
        world.run(give_up())

    assert (world.pool.active_retries, world.pool.active_requests, world.clock.sleepers) == (0, 0, 0)


def test_a_request_without_time_is_not_even_tried(build: Build) -> None:
    """A deadline of nought ends before the first call."""
    world = build(a=[])

    with pytest.raises(DeadlineExceededError) as caught:
        world.ask(deadline=0)

    assert (caught.value.attempts, world.calls("a")) == (0, 0)
