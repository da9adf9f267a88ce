"""One model until its provider's limit comes near, then another."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from modelmesh import ModelMesh
from modelmesh.interfaces.provider import RateLimitStatus
from modelmesh.router import CompletionRequest
from modelmesh_cdk.testing import FakeClock, FakeRandom, ScriptedProvider, answer
from modelmesh_plugins.strategies.rate_limit_aware import RateLimitAware, RateLimitConfig


def left(remaining: int, limit: int | None = None, **more: Any) -> dict[str, Any]:
    """Return figures of a model with this much left."""
    return {"rate_limits": RateLimitStatus(remaining, requests_limit=limit, **more)}


def aware(*, models: tuple[str, ...] = (), providers: tuple[str, ...] = (), **rules: Any) -> RateLimitAware:
    """Build the strategy with these rules."""
    return RateLimitAware(
        RateLimitConfig.model_validate(
            {"rate_limit": rules, "model_priority": list(models), "provider_priority": list(providers)}
        )
    )


# --- switching --------------------------------------------------------------------------


def test_the_documentations_figures_hold(bench: Any) -> None:
    """500/80 is over the threshold, 1000/600 has most left, 300/250 less: the second one is chosen."""
    on = bench(aware(), a=left(80, 500), b=left(600, 1_000), c=left(250, 300))

    assert on.choose() == "b"
    assert [round(1 - on.score(name), 2) for name in "abc"] == [0.84, 0.4, 0.17]
    assert on.ranked("b") == "ca"


def test_it_stays_while_the_threshold_is_not_reached(bench: Any) -> None:
    """Also when others have more left, and when the one it left has recovered since."""
    on = bench(aware(), a=left(21, 100), b=left(90, 100))
    chosen = [on.choose()]
    on.member("a").rate_limits = RateLimitStatus(20, requests_limit=100)
    chosen.append(on.choose())
    on.member("a").rate_limits = RateLimitStatus(100, requests_limit=100)

    assert [*chosen, on.choose()] == ["a", "b", "b"]


@pytest.mark.parametrize(
    ("strategy", "names", "expected"),
    [
        (aware(), "abc", "a"),
        (aware(models=("c", "b")), "abc", "c"),
        (aware(models=("c", "b")), "ab", "b"),
        (aware(providers=("pb",)), "abc", "b"),
    ],
    ids=["pool-order", "model", "next-model", "provider"],
)
def test_it_begins_with_the_preferred(bench: Any, strategy: RateLimitAware, names: str, expected: str) -> None:
    """Priority lists first, then pool order."""
    assert bench(strategy, a={}, b={}, c={}).choose(names) == expected


def test_when_nobody_is_under_the_threshold_the_most_left_is_chosen(bench: Any) -> None:
    """In requests, not in shares."""
    on = bench(aware(), a=left(1, 100), b=left(150, 1_000), c=left(10, 60))

    result = on.result()

    assert (result.model_id, result.reason, result.wait_seconds) == ("b", "all near their limits", 0.0)


def test_the_unknown_is_not_near_any_limit(bench: Any) -> None:
    """Its room counts as the median of the others', here 400."""
    on = bench(aware(), a=left(10, 100), b=left(400, 1_000), c={})
    only_unknown = bench(aware(), a=left(10, 100), b={})

    assert on.choose() + on.ranked("b") == "bca"
    assert only_unknown.choose() == "b"


def test_no_more_than_max_rpm_go_to_one_model(bench: Any) -> None:
    """Counted here for providers that say nothing: 8 of 10 is the threshold. The minute slides."""
    on = bench(aware(max_rpm=10), a={}, b={})
    first = "".join(on.choose() for _ in range(10))
    on.clock.advance(59)
    second = "".join(on.choose() for _ in range(7))
    on.clock.advance(1)

    assert (first, second) == ("a" * 8 + "b" * 2, "b" * 6 + "a")
    assert on.score("a") == pytest.approx(0.9)


def test_max_rpm_holds_besides_what_the_provider_says(bench: Any) -> None:
    """All of it, as the threshold is held against the provider's figure."""
    on = bench(aware(max_rpm=5, threshold=0.5), a=left(90, 100), b=left(80, 100))

    assert "".join(on.choose() for _ in range(10)) == "aaaaabbbbb"


def test_a_model_that_was_never_asked_has_all_of_max_rpm_left(bench: Any) -> None:
    """More than one that was asked a while ago."""
    on = bench(aware(max_rpm=10), a={}, b={}, c={})
    on.choose("b")
    for _ in range(8):
        on.choose("a")

    assert on.choose() == "c"


def test_min_delta_spreads_requests_over_models(bench: Any) -> None:
    """A model that was asked a moment ago is spared."""
    on = bench(aware(min_delta="2s"), a={}, b={}, c={})
    chosen = [on.choose(), on.choose(), on.choose(), on.choose()]
    on.clock.advance(2)

    assert "".join([*chosen, on.choose()]) == "abcaa"


def test_a_window_that_ended_counts_as_fresh(bench: Any) -> None:
    """Otherwise a model would be spared until somebody happens to ask it."""
    on = bench(aware(), a=left(0, 100, reset_seconds=30.0), b=left(50, 100))
    before = on.choose("ab"), on.strategy.peek(on.active("a"), None).score
    on.clock.advance(30)

    assert (before, on.strategy.peek(on.active("a"), None).score) == (("b", 0.0), 1.0)


def test_it_does_not_go_back_to_a_model_that_rests(bench: Any) -> None:
    """A standby model is no candidate, whatever it has left."""
    on = bench(aware(), a={}, b={})

    assert [on.choose(), on.choose("b"), on.choose()] == ["a", "b", "b"]


# --- waiting ----------------------------------------------------------------------------


def test_a_delayed_request_waits_for_the_providers_window(bench: Any) -> None:
    """It stays with its model; requests that wait for the same window go together."""
    on = bench(aware(action="delay_request"), a=left(10, 100, reset_seconds=12.0), b=left(100, 100))
    waits = [on.result().wait_seconds, on.result().wait_seconds]
    on.clock.advance(5)

    result = on.result()

    assert waits == [12.0, 12.0]
    assert (result.model_id, result.reason, result.wait_seconds) == ("a", "wait", 7.0)


@pytest.mark.parametrize(
    ("action", "expected"), [("delay_request", [0.0, 3.0, 3.0, 3.0]), ("queue", [0.0, 3.0, 6.0, 9.0])]
)
def test_a_queue_keeps_the_distance_between_those_that_wait(bench: Any, action: str, expected: list[float]) -> None:
    """In order of arrival; a plain delay looks at requests that went out already."""
    on = bench(aware(action=action, min_delta=3), a={}, b={})

    assert [on.result().wait_seconds for _ in range(4)] == expected
    assert on.choose() == "a"


def test_a_queue_keeps_to_max_rpm(bench: Any) -> None:
    """Threshold 1: two go at once, two a minute later, and whoever comes then stands behind them."""
    on = bench(aware(action="queue", max_rpm=2, threshold=1, max_wait="5m"), a={})
    first = [on.result().wait_seconds for _ in range(4)]
    on.clock.advance(30)

    assert (first, on.result().wait_seconds) == ([0.0, 0.0, 60.0, 60.0], 90.0)


def test_a_wait_that_is_too_long_becomes_a_switch(bench: Any) -> None:
    """The line never grows beyond max_wait; who switches takes no place in it."""
    on = bench(aware(action="queue", min_delta=3, max_wait=5), a={}, b={})
    results = [on.result() for _ in range(3)]

    assert [(each.model_id, each.wait_seconds) for each in results] == [("a", 0.0), ("a", 3.0), ("b", 0.0)]


def test_without_knowing_for_how_long_nobody_waits(bench: Any) -> None:
    """The provider named no moment at which its window ends."""
    on = bench(aware(action="delay_request"), a=left(0, 100), b=left(50, 100))

    assert (on.result().model_id, on.result().wait_seconds) == ("b", 0.0)


def test_looking_takes_no_place_in_the_line(bench: Any) -> None:
    """An explanation shows the wait and changes nothing."""
    on = bench(aware(action="queue", min_delta=3), a={})
    on.choose()

    seen = {on.strategy.peek(on.active("a"), None).wait_seconds for _ in range(3)}

    assert seen == {3.0} == {on.result().wait_seconds}


# --- in a mesh --------------------------------------------------------------------------


def mesh_of(clock: FakeClock, *providers: ScriptedProvider, **pool: Any) -> ModelMesh:
    """Build a mesh whose pool chooses by rate limits."""
    mesh = ModelMesh(clock=clock, random=FakeRandom(), environ={})
    mesh.initialize(
        {
            "providers": {f"p{number}": {"instance": each} for number, each in enumerate(providers)},
            "models": {
                f"m{number}": {"provider": f"p{number}", "capabilities": ["chat-completion"]}
                for number in range(len(providers))
            },
            "pools": {"chat-completion": {"strategy": "rate-limit-aware", **pool}},
        }
    )
    return mesh


def says(remaining: int) -> Any:
    """Return an answer whose headers say how much of 100 is left."""
    return answer(rate_limits=RateLimitStatus(remaining, requests_limit=100))


def test_the_figures_come_from_the_providers_answers() -> None:
    """The answer that passes the threshold is the last one for now."""
    mesh = mesh_of(FakeClock(), ScriptedProvider([says(50), says(20)]), ScriptedProvider([says(90), says(89)]))
    router, hello = mesh.get_router(), CompletionRequest([{"role": "user", "content": "hi"}])

    async def ask() -> str:
        return (await router.acomplete("chat-completion", hello)).model

    answered = [asyncio.run(ask()) for _ in range(4)]
    mesh.shutdown()

    assert answered == ["m0", "m0", "m1", "m1"]


def test_waiting_requests_hold_up_nobody_else() -> None:
    """The loop goes on, other pools' requests are answered, and each waiting one goes out at its time."""
    clock = FakeClock()
    mesh = mesh_of(clock, ScriptedProvider(), rate_limit={"action": "queue", "min_delta": "10s"})
    router, hello = mesh.get_router(), CompletionRequest([{"role": "user", "content": "hi"}])

    async def story() -> list[int]:
        tasks = [asyncio.create_task(router.acomplete("chat-completion", hello)) for _ in range(3)]
        done = []
        for seconds in (0, 9, 1, 10):
            await clock.run(seconds)
            done.append(sum(task.done() for task in tasks))
        return done

    done = asyncio.run(story())
    mesh.shutdown()

    assert done == [1, 1, 2, 3]
