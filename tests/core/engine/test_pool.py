"""A pool: who takes traffic, who rests, and every move between the two."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from modelmesh.errors import (
    AllProvidersExhaustedError,
    NoActiveModelError,
    ProviderServerError,
    RateLimitError,
)
from modelmesh.interfaces.strategy import SelectionRequest
from modelmesh_cdk.testing import FakeClock, answer

Build = Callable[..., Any]
NO_RETRY = {"max_attempts": 0}


def down(status: int = 500) -> ProviderServerError:
    """A provider's failure."""
    return ProviderServerError("down", status_code=status)


def fail_once(world: Any, model: str) -> None:
    """Rest a model after errors, as three failures would."""
    now = world.clock.monotonic()
    rest = world.pool.rotation.recovery.rest_after(world.member(model).ejections + 1)
    world.pool.deactivate_member(world.member(model), "error_threshold", rest=rest, now=now)


# --- leaving ------------------------------------------------------------------------


def test_a_model_leaves_at_its_retry_limit_of_consecutive_failures(build: Build) -> None:
    """Two failures are forgiven, the third is not."""
    world = build(a=[down(), down(), down()], b=[], strategy="priority-selection", model_priority=["a"])

    active = [(world.ask(), world.active)[1] for _ in range(3)]

    assert active == ["ab", "ab", "b"]
    assert world.state("a").deactivation_reason == "error_threshold"


def test_a_success_in_between_starts_the_count_anew(build: Build) -> None:
    """Only failures in a row count."""
    world = build(a=[down(), down(), "fine", down(), down()], b=[], strategy="round-robin")

    for _ in range(10):
        world.ask()

    assert (world.active, world.state("a").failure_count) == ("ab", 2)


def test_a_high_error_rate_rests_a_model_that_never_fails_often_in_a_row(build: Build) -> None:
    """From ten outcomes on, half of them failures, the model leaves."""
    world = build(a=[down(), "ok"] * 10, b=[], strategy="round-robin")

    while world.active == "ab":
        world.ask()

    assert (world.calls("a"), world.member("a").reason) == (11, "error_threshold")


@pytest.mark.parametrize(("status", "counted"), [(500, 1), (503, 1), (502, 0), (504, 0)])
def test_only_listed_statuses_count_as_failures(build: Build, status: int, counted: int) -> None:
    """Others rotate and leave the model's figures alone."""
    world = build(a=[down(status)], b=[])

    world.ask()

    assert world.state("a").failure_count == counted


def test_the_last_active_model_is_never_rested_by_errors(build: Build) -> None:
    """Errors alone never leave a pool without anybody."""
    world = build(a=[], retry=NO_RETRY)
    world.providers["a"].script(*[down() for _ in range(20)])

    for _ in range(20):
        with pytest.raises(AllProvidersExhaustedError):
            world.ask()

    assert (world.active, world.state("a").failure_count) == ("a", 20)


def test_the_last_active_model_is_not_rested_by_a_retry_after_either(build: Build) -> None:
    """A limited last model still takes traffic: some of it may get through."""
    world = build(a=[RateLimitError("slow", status_code=429, retry_after=60)])

    with pytest.raises(AllProvidersExhaustedError):
        world.ask()

    assert world.active == "a"


@pytest.mark.parametrize(
    ("limits", "price", "reason"),
    [
        ({"request_limit": 2}, None, "request_limit"),
        ({"token_limit": 4}, None, "token_limit"),
        ({"budget_limit": 0.002}, {"input_per_1k_tokens": 0.5, "output_per_1k_tokens": 0.5}, "budget_exceeded"),
    ],
    ids=["requests", "tokens", "money"],
)
def test_a_model_leaves_when_a_limit_is_reached(build: Build, limits: Any, price: Any, reason: str) -> None:
    """Usage is counted with each answer, and the answer that reaches the limit is the last."""
    world = build(a=[], b=[], deactivation=limits, price=price)

    assert [world.ask().model for _ in range(3)] == ["a", "a", "b"]
    assert world.member("a").reason == reason


def test_a_limit_may_rest_the_last_model(build: Build) -> None:
    """A limit is no error: nobody is called beyond it."""
    world = build(a=[], deactivation={"request_limit": 1})
    world.ask()

    with pytest.raises(NoActiveModelError, match="request_limit"):
        world.ask()


# --- returning ----------------------------------------------------------------------


def test_a_rest_ends_after_its_cooldown(build: Build) -> None:
    """Not a moment earlier, and the next request finds the model active."""
    world = build(a=[], b=[], recovery={"cooldown": 60}, random=[0.0, 0.0])
    fail_once(world, "a")

    world.clock.advance(59.9)
    world.router.route("chat")
    before = world.active
    world.clock.advance(0.2)
    world.router.route("chat")

    assert (before, world.active) == ("b", "ab")


def test_each_rest_in_a_row_is_twice_as_long_up_to_a_limit(build: Build) -> None:
    """60, 120, 240 and then always 300 seconds."""
    world = build(a=[], b=[], random=[0.0] * 9)
    rests = []

    for _ in range(5):
        fail_once(world, "a")
        rests.append(world.member("a").cooldown_remaining)
        world.clock.advance(rests[-1])
        world.router.route("chat")

    assert rests == [60, 120, 240, 300, 300]


def test_jitter_only_lengthens_a_rest(build: Build) -> None:
    """Many processes do not come back together, and none comes back early."""
    world = build(a=[], b=[], random=[0.0, 0.999_999])

    fail_once(world, "a")

    assert world.member("a").cooldown_remaining == pytest.approx(66, abs=0.01)


def test_a_model_that_holds_out_is_forgiven_its_earlier_rests(build: Build) -> None:
    """An answer long after the last rest makes the next rest a first one again."""
    world = build(a=[], b=[], strategy="priority-selection", model_priority=["a"], random=[0.0] * 9)
    for _ in range(3):
        fail_once(world, "a")
        world.clock.advance(300)
        world.ask()
    world.clock.advance(121)
    world.ask()

    fail_once(world, "a")

    assert world.member("a").cooldown_remaining == 60


def test_one_failure_on_probation_sends_a_model_off_again(build: Build) -> None:
    """Having come back, it gets no second chance before its first answer."""
    world = build(a=[], b=[], strategy="priority-selection", model_priority=["a"])
    fail_once(world, "a")
    world.clock.advance(70)
    world.providers["a"].script(down())

    world.ask()

    assert world.active == "b"
    assert world.member("a").cooldown_remaining > 100


def test_an_answer_ends_probation(build: Build) -> None:
    """From then on single failures are forgiven again."""
    world = build(a=[], b=[], strategy="priority-selection", model_priority=["a"])
    fail_once(world, "a")
    world.clock.advance(70)
    world.ask()
    world.providers["a"].script(down())

    world.ask()

    assert world.active == "ab"


def test_only_one_request_tries_a_model_on_probation(build: Build) -> None:
    """While its first call runs, the others go elsewhere."""
    world = build(a=[answer(delay=5)], b=[], strategy="priority-selection", model_priority=["a"], clock=FakeClock())
    fail_once(world, "a")
    world.clock.advance(70)

    async def crowd() -> list[str]:
        first = asyncio.create_task(world.aask())
        await world.clock.until_sleeping()
        others = [(await world.aask()).model for _ in range(5)]
        await world.clock.run(5)
        return [*others, (await first).model]

    assert world.run(crowd()) == ["b"] * 5 + ["a"]


def test_a_last_resort_that_answers_is_active_again(build: Build) -> None:
    """A resting model that answered has proved itself."""
    world = build(a=[], b=[down()])
    fail_once(world, "a")
    world.ask()

    assert world.active == "ab"


def test_recovering_by_hand_ends_any_rest_and_forgets_earlier_ones(build: Build) -> None:
    """``recover`` is an order: the model is active at once, without probation."""
    world = build(a=[], b=[], random=[0.0] * 9)
    fail_once(world, "a")
    model = world.member("a").model

    world.pool.recover(model)

    assert (world.active, world.member("a").probation, world.member("a").ejections) == ("ab", False, 0)
    assert (model.state.status, model.state.deactivation_reason) == ("active", None)


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [(90, 10, "rate_limited"), (10, 90, "error_threshold")],
    ids=["the first", "the second"],
)
def test_a_longer_rest_wins_over_a_shorter_one(build: Build, first: float, second: float, reason: str) -> None:
    """A resting model never comes back before the later of two times."""
    world = build(a=[], b=[])
    now = world.clock.monotonic()
    world.pool.deactivate_member(world.member("a"), "rate_limited", rest=first, now=now)

    moved = world.pool.deactivate_member(world.member("a"), "error_threshold", rest=second, now=now)

    assert (moved, world.member("a").cooldown_remaining, world.member("a").reason) == (False, 90, reason)


def test_putting_a_resting_model_aside_by_hand_keeps_it_aside(build: Build) -> None:
    """The order outlasts the rest."""
    world = build(a=[], b=[])
    fail_once(world, "a")
    world.pool.deactivate(world.member("a").model)
    world.clock.advance(10_000)

    world.ask()

    assert (world.active, world.member("a").reason) == ("b", "manual")


# --- the state of a model, and of a pool ------------------------------------------------


def test_a_model_is_standby_only_when_it_is_so_in_all_its_pools(build: Build) -> None:
    """Active and standby are each pool's own; the model's status is standby once all agree."""
    pool = {"capability": "chat-completion"}
    world = build(a=[], b=[], pools={"chat": pool, "other": pool})
    world.pool.deactivate(world.member("a").model)
    in_one = world.state("a").status

    world.router.get_pool("other").deactivate(world.member("a").model)

    assert (in_one, world.state("a").status) == ("active", "standby")
    assert world.member("a", "other").model.pools == ["chat", "other"]


def test_moving_twice_is_moving_once(build: Build) -> None:
    """Deactivating a standby model and recovering an active one do nothing and count for nothing."""
    world = build(a=[], b=[])
    model = world.member("a").model

    world.pool.recover(model)
    world.pool.deactivate(model)
    world.pool.deactivate(model)

    assert world.pool.get_state().rotation_events == 1


def test_the_state_of_a_pool_counts_requests_and_not_attempts(build: Build) -> None:
    """Two requests of three attempts together."""
    world = build(a=[down()], b=[])
    world.pool.deactivate(world.member("b").model)
    world.pool.recover(world.member("b").model)

    world.ask()
    world.ask()

    state = world.pool.get_state()
    assert (state.name, state.hierarchy_node.rsplit(".", 1)[-1]) == ("chat", "chat-completion")
    assert (state.active_count, state.standby_count, state.total_requests, state.rotation_events) == (2, 0, 2, 2)


def test_selecting_sweeps_and_refuses_when_nobody_is_active(build: Build) -> None:
    """``select`` hands out an active model, and says so when there is none."""
    world = build(a=[])
    assert world.pool.select(SelectionRequest()).name == "a"
    world.pool.deactivate(world.member("a").model)

    with pytest.raises(NoActiveModelError):
        world.pool.select(SelectionRequest())


def test_models_can_join_and_leave(build: Build) -> None:
    """Joining twice is joining once, and a stranger cannot leave."""
    world = build(a=[], b=[], pools={"chat": {"models": ["a"]}, "other": {"models": ["b"]}})
    stranger = world.member("b", "other").model

    world.pool.remove_model(stranger)
    world.pool.add_model(stranger)
    world.pool.add_model(stranger)
    joined = world.active
    world.pool.remove_model(world.member("a").model)

    assert (joined, world.active, stranger.pools) == ("ab", "b", ["other", "chat"])


def test_views_that_callers_ask_for_do_not_pile_up(build: Build) -> None:
    """Whatever is filtered by: a caller may prefer a provider that nobody has ever heard of, each time another."""
    world = build(a=[])

    for number in range(3_000):
        assert not world.pool.candidates(provider=f"p{number}")

    assert len(world.pool._views) <= 1_000
    assert [member.model_id for member in world.pool.candidates(active=True)] == ["a"]


def test_a_member_shows_strategies_the_models_figures(build: Build) -> None:
    """The live view of a candidate: usage, latency, times in UTC."""
    world = build(a=[], price={"input_per_1k_tokens": 1, "output_per_1k_tokens": 1})
    world.ask()

    member = world.member("a")

    assert (member.quota_used, member.tokens_used, member.cost_accumulated) == (1, 2, pytest.approx(0.002))
    assert (member.latency_avg, member.in_flight, member.status, member.cooldown_remaining) == (0, 0, "active", None)
    assert member.last_request.isoformat() == "2026-01-01T00:00:00+00:00"
    assert member.last_failure is None


@pytest.mark.parametrize(
    ("rest", "others", "message", "retry_after"),
    [
        (
            803_483.0,
            "bc",
            "rests for 9d 7h more: quota_exhausted; ask for the pool to let one of its 2 active models",
            803_483.0,
        ),
        (None, "b", "rests until it is recovered: quota_exhausted; ask for the pool to let its active model", None),
        (803_483.0, "", "rests for 9d 7h more: quota_exhausted", 803_483.0),
    ],
    ids=["for a time", "until recovered", "no other"],
)
def test_a_model_that_was_asked_for_by_name_rests_and_the_error_says_why_and_how_long(
    build: Build, rest: float | None, others: str, message: str, retry_after: float | None
) -> None:
    """Others of its pool are active, so nobody reads that none is."""
    world = build(a=[], **{name: [] for name in others})
    now = world.clock.monotonic()
    world.pool.deactivate_member(world.member("a"), "quota_exhausted", rest=rest, now=now)

    with pytest.raises(NoActiveModelError) as caught:
        world.ask("a")

    assert str(caught.value).startswith(f"model 'a' of pool 'chat' {message}")
    assert caught.value.retry_after == retry_after
    assert list(caught.value.details["standby"]) == ["a"]
