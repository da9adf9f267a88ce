"""Whom a request calls next."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from modelmesh.errors import (
    AllProvidersExhaustedError,
    AuthenticationError,
    ContentFilterError,
    ContextLengthError,
    DeadlineExceededError,
    InvalidRequestError,
    MalformedResponseError,
    NoActiveModelError,
    ProviderConnectionError,
    ProviderServerError,
    ProviderTimeoutError,
    QuotaExhaustedError,
    RateLimitError,
    UnsupportedRequestError,
)
from modelmesh_cdk.testing import FakeClock, ScriptedProvider, answer, fail, pieces

DOWN = ProviderServerError("down", status_code=500)
NO_RETRY = {"max_attempts": 0}

Build = Callable[..., Any]
Outcomes = Callable[[Any], str]


def down() -> ScriptedProvider:
    """A provider that fails every time."""
    return ScriptedProvider(default=DOWN)


class Meddling(ScriptedProvider):
    """Does something whenever it is called, and fails."""

    def __init__(self, act: Callable[[], None]) -> None:
        super().__init__(default=DOWN)
        self.act = act

    async def complete(self, request: Any) -> Any:
        self.act()
        return await super().complete(request)


# --- the walk ---------------------------------------------------------------------


def test_the_chosen_model_answers_and_nobody_else_is_called(build: Build) -> None:
    """One good answer is one call."""
    world = build(a=["first"], b=["second"])

    reply = world.ask()

    assert (reply.content, reply.model, world.calls("b")) == ("first", "a", 0)


def test_a_failure_goes_on_to_the_next_model_without_any_wait(build: Build, outcomes: Outcomes) -> None:
    """Rotating beats waiting: the next candidate is called at once."""
    world = build(a=[DOWN], b=["second"])

    reply = world.ask()

    assert outcomes(reply.metadata["receipt"]) == "a:server_error b:success"
    assert world.clock.sleeps == []


def test_all_active_models_come_before_any_retry(build: Build, outcomes: Outcomes) -> None:
    """Waiting begins only when every active candidate has failed."""
    world = build(a=[DOWN, "at last"], b=[DOWN], c=[DOWN])

    reply = world.ask()

    shown = outcomes(reply.metadata["receipt"])
    assert shown == "a:server_error b:server_error c:server_error a:success"
    assert len(world.clock.sleeps) == 1


def test_resting_models_come_after_active_ones_and_before_retries(build: Build, outcomes: Outcomes) -> None:
    """A model that rests after errors may have healed, and is asked without a wait when nobody else is left."""
    world = build(a=[DOWN, "healed"], b=["one", DOWN], deactivation={"retry_limit": 1})
    world.ask()

    reply = world.ask()

    assert outcomes(reply.metadata["receipt"]) == "b:server_error a:success"
    assert world.clock.sleeps == []


def test_a_model_that_rests_only_when_its_turn_comes_is_asked_once_it_is_back(build: Build, outcomes: Outcomes) -> None:
    """It was a candidate, others put it to rest and took it back: the request has not asked it yet."""
    world = build(
        a=Meddling(lambda: world.pool.deactivate(world.member("b").model, "error_threshold")),
        b=["back"],
        c=Meddling(lambda: world.pool.recover(world.member("b").model)),
        retry=NO_RETRY,
    )

    reply = world.ask()

    assert outcomes(reply.metadata["receipt"]) == "a:server_error c:server_error b:success"


def test_the_resting_model_that_is_due_first_is_asked_first(build: Build, outcomes: Outcomes) -> None:
    """Among resting models the one whose rest ends soonest has healed most likely."""
    world = build(a=[], b=[], c=[DOWN])
    world.pool.deactivate_member(world.member("a"), "error_threshold", rest=50, now=world.clock.monotonic())
    world.pool.deactivate_member(world.member("b"), "error_threshold", rest=20, now=world.clock.monotonic())

    reply = world.ask()

    assert outcomes(reply.metadata["receipt"]) == "c:server_error b:success"


def test_a_model_that_was_put_aside_by_hand_is_never_called(build: Build) -> None:
    """Only rests after errors may be cut short."""
    world = build(a=[], b=[], retry=NO_RETRY)
    world.providers["b"].default = fail(DOWN)
    world.pool.deactivate(world.member("a").model)

    with pytest.raises(AllProvidersExhaustedError):
        world.ask()

    assert world.calls("a") == 0


def test_when_nobody_may_be_called_the_error_says_who_rests_why_and_until_when(build: Build) -> None:
    """The text names each resting model with its reason; the wait until the first returns is a figure."""
    world = build(a=[], b=[])
    world.pool.deactivate(world.member("a").model)
    world.pool.deactivate_member(world.member("b"), "budget_exceeded", rest=30, now=world.clock.monotonic())

    with pytest.raises(NoActiveModelError, match=r"pool 'chat'.*a \(manual\), b \(budget_exceeded\)") as caught:
        world.ask()

    assert caught.value.retry_after == 30
    assert caught.value.details["standby"]["a"] == {"reason": "manual", "cooldown_remaining": None}


# --- retries ------------------------------------------------------------------------


def test_a_lonely_model_is_retried_after_growing_waits(build: Build) -> None:
    """With nobody to rotate to, the same model is asked again, each wait within half and whole of twice the last."""
    world = build(a=down(), retry={"max_attempts": 3, "initial_delay": 1, "max_delay": 10}, random=[0.9, 0.0, 0.5, 0.0])

    with pytest.raises(AllProvidersExhaustedError) as caught:
        world.ask()

    assert world.clock.sleeps == [0.5, 1.5, 2.0]
    assert caught.value.attempts == 4


def test_a_retry_that_succeeds_ends_the_request(build: Build, outcomes: Outcomes) -> None:
    """Its receipt shows both attempts."""
    world = build(a=[DOWN, "again"])

    reply = world.ask()

    assert (reply.content, outcomes(reply.metadata["receipt"])) == ("again", "a:server_error a:success")
    assert reply.metadata["receipt"].retries == 1


def test_the_shortest_retry_after_is_waited_for(build: Build, outcomes: Outcomes) -> None:
    """When all are limited, whoever asked for the shortest wait is called again, after exactly that wait."""
    world = build(
        a=[RateLimitError("slow down", status_code=429, retry_after=7)],
        b=[RateLimitError("slow down", status_code=429, retry_after=2)],
    )

    reply = world.ask()

    assert outcomes(reply.metadata["receipt"]) == "a:rate_limit b:rate_limit b:success"
    assert world.clock.sleeps == [2]


def test_a_retry_after_beyond_the_longest_wait_is_not_waited_for(build: Build) -> None:
    """Who asks for minutes is not waited for: the request ends at once."""
    world = build(a=[RateLimitError("slow down", status_code=429, retry_after=90)])

    with pytest.raises(AllProvidersExhaustedError) as caught:
        world.ask()

    assert (caught.value.attempts, world.clock.sleeps) == (1, [])


def test_a_rate_limited_model_rests_as_long_as_it_asked_and_the_request_goes_on(build: Build) -> None:
    """A long Retry-After puts the model to rest for that time while the next candidate answers."""
    world = build(a=[RateLimitError("slow down", status_code=429, retry_after=90)], b=[])

    world.ask()

    assert world.active == "b"
    assert world.member("a").cooldown_remaining == pytest.approx(90)


def test_a_resting_rate_limited_model_is_left_alone_until_its_time(build: Build) -> None:
    """As a last resort it is waited for, if what is left of its rest is short enough to wait."""
    world = build(a=[RateLimitError("slow down", status_code=429, retry_after=5)], b=["one", DOWN])
    world.ask()
    world.clock.advance(1)

    reply = world.ask()

    assert (reply.model, world.clock.sleeps) == ("a", [pytest.approx(4)])


def test_the_shortest_retry_after_counts_whoever_rests(build: Build) -> None:
    """A model that was put to rest by its own short wait comes before an active one that named a longer."""
    world = build(
        a=[RateLimitError("slow down", status_code=429, retry_after=2)],
        b=[RateLimitError("slow down", status_code=429, retry_after=7)],
    )

    reply = world.ask()

    assert (reply.model, world.clock.sleeps) == ("a", [2])


def test_a_resting_rate_limited_model_is_not_waited_for_too_long(build: Build) -> None:
    """What is left of its rest is longer than any wait may be."""
    world = build(a=[RateLimitError("slow down", status_code=429, retry_after=60)], b=["one"], retry=NO_RETRY)
    world.ask()
    world.providers["b"].script(DOWN)

    with pytest.raises(AllProvidersExhaustedError):
        world.ask()

    assert (world.calls("a"), world.clock.sleeps) == (1, [])


@pytest.mark.parametrize(
    "error",
    [
        UnsupportedRequestError("no tools", status_code=404),
        ContextLengthError("too long", status_code=400),
        QuotaExhaustedError("no credit", status_code=402),
        AuthenticationError("bad key", status_code=401),
    ],
    ids=["unsupported", "context-length", "quota", "auth"],
)
def test_what_cannot_pass_is_not_retried(build: Build, error: Exception) -> None:
    """Calling the same model again cannot help, so nobody waits."""
    world = build(a=[error])

    with pytest.raises(AllProvidersExhaustedError) as caught:
        world.ask()

    assert (caught.value.attempts, caught.value.last_error) == (1, error)
    assert world.clock.sleeps == []


@pytest.mark.parametrize(
    "error",
    [
        UnsupportedRequestError("unknown model", status_code=404),
        ContextLengthError("too long", status_code=400),
        QuotaExhaustedError("no credit", status_code=402),
        AuthenticationError("bad key", status_code=403),
        ProviderTimeoutError("late"),
        ProviderConnectionError("refused"),
        MalformedResponseError("no JSON", status_code=200),
    ],
    ids=["404", "context-length", "402", "403", "timeout", "network", "malformed"],
)
def test_what_another_model_may_not_have_rotates(build: Build, error: Exception) -> None:
    """Every failure but the caller's own mistakes is somebody else's chance."""
    world = build(a=[error], b=["second"])

    assert world.ask().content == "second"


@pytest.mark.parametrize(
    "error",
    [InvalidRequestError("temperature is 7", status_code=422), ContentFilterError("refused", status_code=400)],
    ids=["invalid", "content-filter"],
)
def test_the_callers_own_mistake_is_returned_at_once_and_hurts_nobody(build: Build, error: Exception) -> None:
    """It is neither retried nor rotated, and no figure of the model's health changes."""
    world = build(a=[error], b=[])

    with pytest.raises(type(error)) as caught:
        world.ask()

    assert caught.value is error
    assert (world.calls("b"), world.state("a").failure_count, world.state("a").error_rate) == (0, 0, 0.0)


# --- the retry budget ----------------------------------------------------------------


def test_without_retry_budget_nobody_is_retried(build: Build) -> None:
    """An outage is not amplified: when the budget is nought, one call is all."""
    world = build(a=down(), retry_budget={"percent": 0, "minimum": 0})

    with pytest.raises(AllProvidersExhaustedError):
        world.ask()

    assert world.calls("a") == 1


def test_without_retry_budget_no_resting_model_is_tried_after_a_failure(build: Build) -> None:
    """A last resort is a retry like any other."""
    world = build(a=[DOWN], b=["one"], deactivation={"retry_limit": 1}, retry_budget={"percent": 0, "minimum": 0})
    world.ask()
    world.providers["b"].script(DOWN)

    with pytest.raises(AllProvidersExhaustedError):
        world.ask()

    assert world.calls("a") == 1


def test_without_retry_budget_a_resting_model_is_tried_when_nobody_else_is_there(build: Build) -> None:
    """The first call of a request is no retry."""
    world = build(a=[], retry_budget={"percent": 0, "minimum": 0})
    world.pool.deactivate_member(world.member("a"), "error_threshold", rest=60, now=world.clock.monotonic())

    assert world.ask().model == "a"


def test_only_so_many_requests_may_be_retrying_at_once(build: Build) -> None:
    """Of ten requests that fail together, the budget's minimum retries and the others give up."""
    world = build(a=down(), retry={"max_attempts": 1}, retry_budget={"percent": 0, "minimum": 3}, clock=FakeClock())

    async def outage() -> list[Any]:
        tasks = [asyncio.create_task(world.aask()) for _ in range(10)]
        await world.clock.until_sleeping(3)
        await world.clock.run(10)
        return await asyncio.gather(*tasks, return_exceptions=True)

    results = world.run(outage())

    assert sorted(error.attempts for error in results) == [1] * 7 + [2] * 3


def test_the_budget_grows_with_the_active_requests(build: Build) -> None:
    """A fifth of twenty active requests may retry at once."""
    slowly = ScriptedProvider(default=fail(DOWN, delay=1.0))
    world = build(a=slowly, retry={"max_attempts": 1}, retry_budget={"percent": 20, "minimum": 0}, clock=FakeClock())

    async def outage() -> list[Any]:
        tasks = [asyncio.create_task(world.aask()) for _ in range(20)]
        await world.clock.until_sleeping(20)
        await world.clock.run(10)
        return await asyncio.gather(*tasks, return_exceptions=True)

    results = world.run(outage())

    assert sum(error.attempts == 2 for error in results) == 4


def test_a_finished_request_gives_its_retry_back(build: Build) -> None:
    """The budget counts retries that run, not those that ever were."""
    world = build(a=down(), retry={"max_attempts": 1}, retry_budget={"percent": 0, "minimum": 1})

    for _ in range(3):
        with pytest.raises(AllProvidersExhaustedError) as caught:
            world.ask()

    assert (caught.value.attempts, world.pool.active_retries, world.pool.active_requests) == (2, 0, 0)


def test_rotating_costs_no_retry_budget(build: Build) -> None:
    """Walking on to the next candidate is no retry."""
    world = build(a=[DOWN], b=[DOWN], c=["third"], retry_budget={"percent": 0, "minimum": 0})

    assert world.ask().content == "third"


# --- prefer: retry ---------------------------------------------------------------------


def test_prefer_retry_asks_the_same_model_again_before_it_rotates(build: Build, outcomes: Outcomes) -> None:
    """With ``prefer: retry`` a model has all its retries before the next one is called."""
    world = build(a=[DOWN, DOWN, DOWN], b=[], retry={"prefer": "retry", "max_attempts": 1})

    reply = world.ask()

    assert outcomes(reply.metadata["receipt"]) == "a:server_error a:server_error b:success"
    assert len(world.clock.sleeps) == 1


def test_prefer_retry_rotates_at_once_when_a_retry_cannot_help(build: Build, outcomes: Outcomes) -> None:
    """No wait is spent on a refused key."""
    world = build(a=[AuthenticationError("bad key", status_code=401)], b=[], retry={"prefer": "retry"})

    reply = world.ask()

    assert outcomes(reply.metadata["receipt"]) == "a:auth b:success"
    assert world.clock.sleeps == []


def test_a_model_that_went_to_rest_meanwhile_is_not_retried_while_another_is_active(
    build: Build, outcomes: Outcomes
) -> None:
    """Retries count toward the error threshold; once it is reached the request rotates."""
    world = build(a=down(), b=[], retry={"prefer": "retry", "max_attempts": 5}, deactivation={"retry_limit": 2})

    reply = world.ask()

    assert outcomes(reply.metadata["receipt"]) == "a:server_error a:server_error b:success"


def test_scope_same_provider_retries_at_another_model_of_the_provider(build: Build, outcomes: Outcomes) -> None:
    """The retry goes to a sister of the model that failed."""
    acme, other = ScriptedProvider([DOWN]), ScriptedProvider()
    world = build(
        providers={"acme": acme, "other": other},
        models={"a": "acme", "x": "other", "b": "acme"},
        retry={"prefer": "retry", "scope": "same_provider"},
    )

    reply = world.ask()

    assert outcomes(reply.metadata["receipt"]) == "a:server_error b:success"
    assert len(world.clock.sleeps) == 1


def test_scope_any_retries_at_any_other_model(build: Build, outcomes: Outcomes) -> None:
    """The retry goes to another model, after the wait."""
    world = build(a=[DOWN], b=[], retry={"prefer": "retry", "scope": "any"})

    reply = world.ask()

    assert outcomes(reply.metadata["receipt"]) == "a:server_error b:success"
    assert len(world.clock.sleeps) == 1


def test_a_model_that_was_put_aside_during_the_wait_is_not_retried(build: Build) -> None:
    """What somebody deactivates by hand is left alone from that moment on."""
    world = build(a=[DOWN], clock=FakeClock())

    async def put_aside() -> None:
        asking = asyncio.create_task(world.aask())
        await world.clock.until_sleeping()
        world.pool.deactivate(world.member("a").model)
        await world.clock.run(20)
        await asking

    with pytest.raises(AllProvidersExhaustedError):
        world.run(put_aside())

    assert world.calls("a") == 1


def test_a_model_that_rests_after_errors_only_since_the_retries_began_is_asked(
    build: Build, outcomes: Outcomes
) -> None:
    """It rested for its quota before, came back during the wait and failed for somebody else: nobody else is left."""
    world = build(a=["healed"], b=[DOWN, DOWN], retry={"max_attempts": 1}, clock=FakeClock())
    now = world.clock.monotonic()
    world.pool.deactivate_member(world.member("a"), "quota_exhausted", rest=50, now=now)

    async def fail_elsewhere() -> Any:
        asking = asyncio.create_task(world.aask())
        await world.clock.until_sleeping()
        world.pool.recover(world.member("a").model)
        world.pool.deactivate_member(world.member("a"), "error_threshold", rest=50, now=now)
        await world.clock.run(5)
        return await asking

    reply = world.run(fail_elsewhere())

    assert outcomes(reply.metadata["receipt"]) == "b:server_error b:server_error a:success"


def test_a_model_that_returns_while_the_last_one_is_called_is_asked(build: Build, outcomes: Outcomes) -> None:
    """Whoever can be called is looked for until nobody is left, and not only once after the retries."""
    world = build(
        a=["back"],
        b=Meddling(lambda: world.pool.recover(world.member("d").model)),
        c=[DOWN],
        d=Meddling(lambda: world.pool.recover(world.member("a").model)),
        retry=NO_RETRY,
    )
    now = world.clock.monotonic()
    world.pool.deactivate_member(world.member("b"), "error_threshold", rest=50, now=now)
    for quiet in "ad":
        world.pool.deactivate_member(world.member(quiet), "quota_exhausted", rest=50, now=now)

    reply = world.ask()

    assert outcomes(reply.metadata["receipt"]) == "c:server_error b:server_error d:server_error a:success"


# --- caps -----------------------------------------------------------------------------


def test_the_deadline_ends_a_request_between_attempts(build: Build) -> None:
    """What the answers took counts: when the deadline has passed nobody else is called."""
    world = build(a=[fail(DOWN, delay=6)], b=[], deadline=5)

    with pytest.raises(DeadlineExceededError) as caught:
        world.ask()

    assert (caught.value.deadline, caught.value.attempts, world.calls("b")) == (5, 1, 0)
    assert caught.value.__cause__ is DOWN


def test_the_deadline_of_a_request_with_nobody_left_is_named_as_well(build: Build) -> None:
    """A single model that took too long leaves the deadline's error, not that of its last attempt."""
    world = build(a=[fail(DOWN, delay=6)], deadline=5)

    with pytest.raises(DeadlineExceededError):
        world.ask()


def test_a_wait_that_would_pass_the_deadline_is_not_begun(build: Build) -> None:
    """Better to fail now than after the deadline."""
    world = build(a=down(), deadline=1, retry={"initial_delay": 4, "backoff": "fixed"})

    with pytest.raises(AllProvidersExhaustedError):
        world.ask()

    assert world.clock.sleeps == []


def test_a_request_may_bring_its_own_deadline(build: Build) -> None:
    """``metadata["deadline"]`` wins over the pool's."""
    world = build(a=[answer(delay=3)], b=[fail(DOWN, delay=3)], deadline=100)
    world.providers["a"].default = fail(DOWN, delay=3)
    world.ask()

    with pytest.raises(DeadlineExceededError, match="2 s"):
        world.ask(deadline=2)


def test_the_attempt_cap_counts_retries_and_rotations_together(build: Build) -> None:
    """The request ends once so many calls were made, whoever is left."""
    world = build(a=down(), b=down(), c=[], max_attempts=2)

    with pytest.raises(AllProvidersExhaustedError) as caught:
        world.ask()

    assert (caught.value.attempts, world.calls("c")) == (2, 0)


def test_the_cost_cap_forbids_another_attempt_once_it_is_spent(build: Build) -> None:
    """Broken streams cost money; past the cap nobody else is called."""
    broken = pieces("a" * 400, end="cut")
    world = build(
        a=[broken],
        b=[],
        price={"output_per_1k_tokens": 1.0},
        max_cost=0.05,
        on_stream_failure="hold",
        hold_time=100,
    )

    with pytest.raises(AllProvidersExhaustedError) as caught:
        world.stream()

    assert caught.value.receipt.cost > 0.05
    assert world.calls("b") == 0


def test_exhaustion_tells_the_pool_the_attempts_and_the_last_error(build: Build, outcomes: Outcomes) -> None:
    """The error carries a receipt, and the last failure as its cause."""
    last = ProviderServerError("worse", status_code=503)
    world = build(a=[DOWN], b=[last], retry=NO_RETRY)

    with pytest.raises(AllProvidersExhaustedError, match=r"'chat'.*2 made.*worse") as caught:
        world.ask()

    assert caught.value.__cause__ is caught.value.last_error is last
    assert outcomes(caught.value.receipt) == "a:server_error b:server_error"
