"""A provider's own trouble: it concerns all its models, in all pools."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from modelmesh.errors import (
    AllProvidersExhaustedError,
    AuthenticationError,
    NoActiveModelError,
    ProviderConnectionError,
    ProviderServerError,
    QuotaExhaustedError,
)
from modelmesh.interfaces.observability import EventType
from modelmesh.interfaces.strategy import RecoveryTrigger
from modelmesh_cdk.testing import ScriptedProvider, answer, fail

Build = Callable[..., Any]
MODELS = {"a": "acme", "b": "acme", "x": "other"}
PROVIDER_EVENTS = (
    EventType.PROVIDER_DEACTIVATED,
    EventType.PROVIDER_RECOVERED,
    EventType.PROVIDER_HEALTH_CHANGED,
)


def acme(world: Any) -> Any:
    """The provider under test."""
    return world.member("a").model.provider


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_rests_all_models_of_the_provider(build: Build, status: int) -> None:
    """No second call is wasted on it: the request goes on at another provider."""
    world = build(
        providers={"acme": [AuthenticationError("no", status_code=status)], "other": []},
        models=MODELS,
    )

    reply = world.ask()

    assert (reply.model, world.active, world.calls("acme")) == ("x", "x", 1)
    assert (acme(world).state.auth_valid, acme(world).is_available()) == (False, False)
    assert world.mesh.active_providers() == ["other"]


def test_it_rests_them_in_all_pools(build: Build) -> None:
    """Also in pools that had no part in the request."""
    pool = {"capability": "chat-completion"}
    world = build(
        providers={"acme": [AuthenticationError("no", status_code=401)], "other": []},
        models=MODELS,
        pools={"chat": pool, "also": pool},
    )

    world.ask()

    assert [model.name for model in world.router.get_pool("also").get_active_models()] == ["x"]
    assert world.member("b", "also").reason == "provider_unavailable"


def test_credit_that_is_used_up_concerns_the_provider(build: Build) -> None:
    """402 with the whole account's scope rests all models; the key itself stays valid."""
    error = QuotaExhaustedError("no credit", scope="provider", status_code=402)
    world = build(providers={"acme": [error], "other": []}, models=MODELS)

    world.ask()

    assert (world.active, acme(world).state.auth_valid, acme(world).state.available) == ("x", True, False)


def test_a_models_own_quota_concerns_that_model(build: Build) -> None:
    """Its sisters go on, and it rests at least as long as the provider says."""
    error = QuotaExhaustedError("daily limit", status_code=429, retry_after=3600)
    world = build(providers={"acme": [error], "other": []}, models=MODELS)

    reply = world.ask()

    assert (reply.model, world.active) == ("b", "bx")
    assert (world.member("a").reason, world.member("a").cooldown_remaining) == ("quota_exhausted", 3600)


def test_the_last_provider_may_be_out_and_the_error_says_so(build: Build) -> None:
    """A refused key is no passing error: nobody is called until the rest is over."""
    world = build(a=[AuthenticationError("no", status_code=401)], recovery={"cooldown": 60}, random=[0.0, 0.0])
    with pytest.raises(AllProvidersExhaustedError):
        world.ask()

    with pytest.raises(NoActiveModelError, match=r"a \(provider_unavailable\)") as caught:
        world.ask()

    assert caught.value.retry_after == 60


def test_a_provider_returns_after_its_rest_with_all_its_models(build: Build) -> None:
    """One sweep brings all of them back, in all pools."""
    pool = {"capability": "chat-completion", "recovery": {"cooldown": 60}}
    world = build(
        providers={"acme": [AuthenticationError("no", status_code=401)], "other": []},
        models=MODELS,
        pools={"chat": pool, "also": pool},
    )
    world.ask()
    world.clock.advance(70)

    world.ask()

    assert (world.active, acme(world).is_available()) == ("abx", True)
    assert len(world.router.get_pool("also").get_active_models()) == 3


def test_a_model_put_aside_for_another_reason_stays_aside_when_its_provider_returns(build: Build) -> None:
    """Only those return that the provider's trouble had put in standby."""
    world = build(providers={"acme": [], "other": []}, models=MODELS, provider_recovery="on_manual")
    world.pool.deactivate(world.member("b").model)
    world.providers["acme"].script(AuthenticationError("no", status_code=401))
    world.ask()

    acme(world).recover(RecoveryTrigger.MANUAL, world.clock.monotonic())

    assert (world.active, world.member("b").reason) == ("ax", "manual")


def test_a_provider_that_returns_only_by_hand_stays_away(build: Build) -> None:
    """With ``provider_recovery: on_manual`` no time brings it back."""
    world = build(
        providers={"acme": [AuthenticationError("no", status_code=401)], "other": []},
        models=MODELS,
        provider_recovery="on_manual",
    )
    world.ask()
    world.clock.advance(1e6)

    world.ask()

    assert world.active == "x"


def test_an_answer_of_a_model_recovered_by_hand_proves_its_provider(build: Build) -> None:
    """A key that works is a valid key: the provider counts as available again, with all its models."""
    world = build(
        providers={"acme": [AuthenticationError("no", status_code=401)], "other": []},
        models=MODELS,
        provider_recovery="on_manual",
    )
    world.ask()

    world.pool.recover(world.member("a").model)
    reply = world.ask(preferred_provider="acme")

    assert (reply.model, acme(world).is_available(), world.active) == ("a", True, "abx")


def test_the_trigger_can_be_switched_off(build: Build) -> None:
    """Without ``on_auth_failure`` a refused key concerns only its request."""
    world = build(
        providers={"acme": [AuthenticationError("no", status_code=401)], "other": []},
        models=MODELS,
        provider_deactivation="on_api_outage",
    )

    assert (world.ask().model, world.active) == ("b", "abx")


# --- outages --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [ProviderConnectionError("refused"), ProviderServerError("down", status_code=500)],
    ids=["network", "5xx"],
)
def test_three_failures_in_a_row_over_its_models_are_an_outage(build: Build, error: Exception) -> None:
    """The third one rests the whole provider, whichever models had them."""
    world = build(
        providers={"acme": ScriptedProvider(default=fail(error)), "other": []},
        models=MODELS,
        provider_deactivation="on_api_outage",
        strategy="priority-selection",
        provider_priority=["acme"],
    )
    world.ask()
    after_two = world.active

    world.ask()

    assert (after_two, world.active, world.calls("acme")) == ("abx", "x", 3)


def test_an_answer_in_between_is_no_outage(build: Build) -> None:
    """Only an unbroken row counts."""
    down = ProviderServerError("down", status_code=500)
    world = build(
        providers={"acme": [down, answer(), down, answer(), down, answer(), down, answer()], "other": []},
        models=MODELS,
        provider_deactivation="on_api_outage",
        deactivation={"retry_limit": 10},
    )

    for _ in range(4):
        world.ask()

    assert (world.calls("acme"), acme(world).is_available()) == (8, True)


def test_without_the_trigger_an_outage_rests_models_one_by_one(build: Build) -> None:
    """The default leaves it to each model's own threshold."""
    world = build(
        providers={"acme": ScriptedProvider(default=fail(ProviderConnectionError("refused"))), "other": []},
        models=MODELS,
    )

    world.ask()
    world.ask()

    assert acme(world).is_available()


# --- events ---------------------------------------------------------------------------


def test_going_out_and_coming_back_are_told_once_in_order(build: Build) -> None:
    """The provider first, then its models; and on the way back likewise."""
    world = build(
        providers={"acme": [AuthenticationError("no", status_code=401)], "other": []},
        models=MODELS,
        observe={},
        random=[0.0, 0.0],
    )
    world.ask()
    world.clock.advance(60)
    world.ask()

    told = [
        (event.event_type.value, event.provider_id, event.model_id)
        for event in world.seen().events
        if event.event_type not in (EventType.POOL_MEMBERSHIP_CHANGED, EventType.MODEL_ROTATED)
    ]

    assert told == [
        ("provider_deactivated", "acme", None),
        ("model_deactivated", "acme", "a"),
        ("model_deactivated", "acme", "b"),
        ("provider_health_changed", "acme", None),
        ("provider_recovered", "acme", None),
        ("model_activated", "acme", "a"),
        ("model_activated", "acme", "b"),
        ("provider_health_changed", "acme", None),
    ]


def test_the_events_say_why(build: Build) -> None:
    """Cause on the way out, trigger on the way back, both sides of the change of health."""
    world = build(
        providers={"acme": [AuthenticationError("no", status_code=401)], "other": []},
        models=MODELS,
        observe={},
        random=[0.0, 0.0],
    )
    world.ask()
    world.clock.advance(60)
    world.ask()

    metadata = [event.metadata for event in world.seen().of(*PROVIDER_EVENTS)]

    assert metadata[0] == {"cause": "auth_failure", "cooldown": 60}
    assert metadata[1] == {"old": "healthy", "new": "unavailable", "status": "unavailable", "cause": "auth_failure"}
    assert metadata[2] == {"trigger": "cooldown_expired"}
    assert metadata[3] == {"old": "unavailable", "new": "healthy", "status": "healthy"}


# --- figures --------------------------------------------------------------------------


def test_a_provider_sums_up_its_models(build: Build) -> None:
    """Requests, cost, and how many of its models are active."""
    world = build(providers={"acme": []}, models={"a": "acme", "b": "acme"}, price={"per_request": 0.25})
    world.ask()
    world.ask()
    world.pool.deactivate(world.member("b").model)

    state = acme(world).state

    assert (state.total_quota_used, state.total_cost, state.active_model_count) == (2, 0.5, 1)
    assert [model.name for model in acme(world).get_models()] == ["a", "b"]
