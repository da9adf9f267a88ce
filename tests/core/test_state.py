"""ModelState and ProviderState: the documented dataclasses, to the field, and what they answer."""

from __future__ import annotations

import inspect
import json
from dataclasses import MISSING, fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmesh.state import ModelState, ProviderState
from modelmesh_cdk.testing import FakeClock

MODEL_FIELDS: dict[str, tuple[str, Any]] = {
    "status": ("str", "active"),
    "failure_count": ("int", 0),
    "error_rate": ("float", 0.0),
    "cooldown_remaining": ("float", 0.0),
    "quota_used": ("int", 0),
    "tokens_used": ("int", 0),
    "cost_accumulated": ("float", 0.0),
    "latency_history": ("list[float]", []),
    "last_request": ("float | None", None),
    "last_failure": ("float | None", None),
    "deactivation_reason": ("str | None", None),
}
PROVIDER_FIELDS: dict[str, tuple[str, Any]] = {
    "available": ("bool", True),
    "auth_valid": ("bool", True),
    "last_probe": ("float | None", None),
    "availability_score": ("float", 1.0),
    "active_model_count": ("int", 0),
    "total_quota_used": ("int", 0),
    "total_cost": ("float", 0.0),
}
FULL_MODEL: dict[str, Any] = {
    "status": "standby",
    "failure_count": 3,
    "error_rate": 0.25,
    "cooldown_remaining": 30.0,
    "quota_used": 10,
    "tokens_used": 999,
    "cost_accumulated": 1.25,
    "latency_history": [0.5, 0.25],
    "last_request": 1_700_000_000.0,
    "last_failure": 1_700_000_001.5,
    "deactivation_reason": "error_threshold",
}
FULL_PROVIDER: dict[str, Any] = {
    "available": False,
    "auth_valid": False,
    "last_probe": 1_700_000_000.5,
    "availability_score": 0.25,
    "active_model_count": 2,
    "total_quota_used": 12,
    "total_cost": 3.5,
}
BOOM = RuntimeError("boom")


@pytest.fixture
def clock() -> FakeClock:
    """Time that stands still."""
    return FakeClock()


@pytest.fixture
def model(clock: FakeClock) -> ModelState:
    """A fresh model's state on that clock."""
    state = ModelState()
    state.configure(clock=clock)
    return state


@pytest.fixture
def provider(clock: FakeClock) -> ProviderState:
    """A fresh provider's state on that clock."""
    state = ProviderState()
    state.configure(clock=clock)
    return state


# --- the documents, to the letter -------------------------------------------------------


@pytest.mark.parametrize(
    ("cls", "documented"), [(ModelState, MODEL_FIELDS), (ProviderState, PROVIDER_FIELDS)], ids=["model", "provider"]
)
def test_fields_types_and_defaults_are_the_documented_ones(
    cls: type[ModelState | ProviderState], documented: dict[str, tuple[str, Any]]
) -> None:
    """In their order, and nothing more."""
    found = {
        each.name: (each.type, each.default if each.default is not MISSING else each.default_factory())  # type: ignore[misc]  # one of the two is there
        for each in fields(cls)
    }

    assert list(found) == list(documented)
    assert found == documented


@pytest.mark.parametrize(
    ("method", "signature"),
    [
        (ModelState.is_healthy, "(self) -> bool"),
        (ModelState.is_over_quota, "(self) -> bool"),
        (ModelState.is_over_budget, "(self) -> bool"),
        (ModelState.record_success, "(self, latency: float, tokens: int, cost: float) -> None"),
        (ModelState.record_failure, "(self, error: Exception) -> None"),
        (ModelState.to_dict, "(self) -> dict[str, Any]"),
        (ModelState.from_dict, "(data: dict[str, Any]) -> ModelState"),
        (ProviderState.is_healthy, "(self) -> bool"),
        (ProviderState.record_probe, "(self, success: bool, latency: float | None = None) -> None"),
        (ProviderState.to_dict, "(self) -> dict[str, Any]"),
        (ProviderState.from_dict, "(data: dict[str, Any]) -> ProviderState"),
    ],
    ids=lambda value: getattr(value, "__qualname__", ""),
)
def test_methods_have_the_documented_signatures(method: Any, signature: str) -> None:
    """Names, order, types and defaults."""
    assert str(inspect.signature(method)).replace("'", "") == signature


@pytest.mark.parametrize("cls", [ModelState, ProviderState])
def test_a_fresh_state_has_its_defaults_and_is_healthy(cls: type[ModelState | ProviderState]) -> None:
    """Two fresh ones are equal and share nothing."""
    one, other = cls(), cls()

    documented = MODEL_FIELDS if cls is ModelState else PROVIDER_FIELDS
    assert one.to_dict() == {name: default for name, (_, default) in documented.items()}
    assert one == other
    assert one.is_healthy()


def test_histories_are_not_shared(model: ModelState) -> None:
    """A list that is a field's default belongs to one state."""
    model.record_success(1.0, 1, 0.0)

    assert ModelState().latency_history == []


# --- recording --------------------------------------------------------------------------


def test_a_success_is_counted(model: ModelState, clock: FakeClock) -> None:
    """It resets the consecutive failures, and adds latency, quota, tokens and cost."""
    model.record_failure(BOOM)

    model.record_success(0.5, 120, 0.25)

    assert model.to_dict() == {
        **ModelState().to_dict(),
        "error_rate": 0.5,
        "quota_used": 1,
        "tokens_used": 120,
        "cost_accumulated": 0.25,
        "latency_history": [0.5],
        "last_request": clock.time(),
        "last_failure": clock.time(),
    }


def test_a_failure_is_counted_and_costs_nothing(model: ModelState, clock: FakeClock) -> None:
    """Neither quota nor latency nor status change."""
    model.record_failure(BOOM)
    clock_then = clock.time()
    model.record_failure(BOOM)

    assert model.to_dict() == {
        **ModelState().to_dict(),
        "failure_count": 2,
        "error_rate": 1.0,
        "last_failure": clock_then,
    }


def test_the_error_rate_is_taken_over_the_last_outcomes(model: ModelState, clock: FakeClock) -> None:
    """Older ones slide out."""
    model.configure(clock=clock, error_window=4)

    for failed in (True, True, True, False, False, False):
        if failed:
            model.record_failure(BOOM)
        else:
            model.record_success(0.1, 1, 0.0)

    assert (model.error_rate, model.samples) == (0.25, 4)


@given(st.lists(st.booleans(), max_size=60), st.integers(1, 20))
def test_the_error_rate_is_the_share_of_failures_in_the_window(outcomes: list[bool], window: int) -> None:
    """Whatever the order."""
    state = ModelState()
    state.configure(error_window=window)

    for failed in outcomes:
        if failed:
            state.record_failure(BOOM)
        else:
            state.record_success(0.1, 1, 0.0)

    recent = outcomes[-window:]
    assert state.error_rate == pytest.approx(sum(recent) / len(recent) if recent else 0.0)
    assert state.samples == len(recent)


def test_a_smaller_window_forgets_the_oldest_outcomes(model: ModelState, clock: FakeClock) -> None:
    """Configuring again keeps what fits."""
    for _ in range(3):
        model.record_failure(BOOM)
    model.record_success(0.1, 1, 0.0)

    model.configure(clock=clock, error_window=2)
    model.record_success(0.1, 1, 0.0)

    assert model.error_rate == 0.0


def test_the_latency_history_keeps_the_last_fifty(model: ModelState) -> None:
    """In their order."""
    for number in range(60):
        model.record_success(float(number), 1, 0.0)

    assert model.latency_history == [float(number) for number in range(10, 60)]


# --- asking -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "rate", "healthy"),
    [("active", 0.0, True), ("active", 0.49, True), ("active", 0.5, False), ("standby", 0.0, False)],
)
def test_a_model_is_healthy_when_active_and_below_the_threshold(status: str, rate: float, healthy: bool) -> None:
    """At the threshold it is not."""
    assert ModelState(status=status, error_rate=rate).is_healthy() is healthy


@pytest.mark.parametrize(
    ("limits", "used", "over"),
    [
        ({}, (10**9, 10**9), False),
        ({"request_limit": 10}, (10, 0), False),
        ({"request_limit": 10}, (11, 0), True),
        ({"token_limit": 100}, (0, 100), False),
        ({"token_limit": 100}, (0, 101), True),
        ({"request_limit": 0}, (1, 0), True),
    ],
    ids=["no limit", "at requests", "over requests", "at tokens", "over tokens", "none allowed"],
)
def test_a_model_is_over_its_quota_when_it_exceeds_a_limit(
    limits: dict[str, int], used: tuple[int, int], over: bool
) -> None:
    """Requests and tokens have a limit each; to reach it is not to exceed it."""
    state = ModelState(quota_used=used[0], tokens_used=used[1])

    state.configure(**limits)  # type: ignore[arg-type]  # the names are the parameters'

    assert state.is_over_quota() is over


@pytest.mark.parametrize(("limit", "cost", "over"), [(None, 9e9, False), (1.0, 1.0, False), (1.0, 1.01, True)])
def test_a_model_is_over_its_budget_when_it_exceeds_it(limit: float | None, cost: float, over: bool) -> None:
    """Without a budget never."""
    state = ModelState(cost_accumulated=cost)

    state.configure(budget_limit=limit)

    assert state.is_over_budget() is over


def test_the_cooldown_counts_down_on_its_own(model: ModelState, clock: FakeClock) -> None:
    """It ends at zero and stays there."""
    model.cooldown_remaining = 30.0
    seen = [model.cooldown_remaining]

    for _ in range(2):
        clock.advance(20.0)
        seen.append(model.cooldown_remaining)

    assert seen == [30.0, 10.0, 0.0]


def test_a_clock_attached_later_keeps_the_cooldown(clock: FakeClock) -> None:
    """What was restored before the state was configured counts down from there."""
    state = ModelState(cooldown_remaining=30.0)

    state.configure(clock=clock)
    clock.advance(10.0)

    assert state.cooldown_remaining == pytest.approx(20.0, abs=1.0)


# --- saving and restoring ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("cls", "full"), [(ModelState, FULL_MODEL), (ProviderState, FULL_PROVIDER)], ids=["model", "provider"]
)
def test_a_state_survives_json(cls: type[ModelState | ProviderState], full: dict[str, Any]) -> None:
    """Every field comes back, in its order, and nothing else is saved; a cooldown goes on counting down."""
    saved = json.loads(json.dumps(cls.from_dict(full).to_dict()))

    restored = cls.from_dict(saved).to_dict()

    assert list(saved) == list(full)
    for state in (saved, restored):
        assert state.pop("cooldown_remaining", 30.0) == pytest.approx(30.0, abs=1.0)
        assert state == {name: value for name, value in full.items() if name != "cooldown_remaining"}


def test_limits_and_clock_are_neither_saved_nor_compared(clock: FakeClock) -> None:
    """They come from the configuration."""
    limited = ModelState()
    limited.configure(clock=clock, request_limit=1, token_limit=1, budget_limit=0.1, error_rate_threshold=0.1)

    assert limited == ModelState()
    assert limited.to_dict() == ModelState().to_dict()


def test_a_saved_state_shares_no_list_with_the_living_one(model: ModelState) -> None:
    """Neither on the way out nor on the way in."""
    saved = model.to_dict()
    restored = ModelState.from_dict(saved)

    model.record_success(1.0, 1, 0.0)

    assert saved["latency_history"] == []
    assert restored.latency_history is not saved["latency_history"]


@pytest.mark.parametrize("cls", [ModelState, ProviderState])
def test_missing_keys_take_their_default_and_unknown_ones_are_ignored(cls: type[ModelState | ProviderState]) -> None:
    """States of an older or newer version can be read."""
    assert cls.from_dict({"from_the_future": 1}) == cls()


@pytest.mark.parametrize(
    ("cls", "name", "value", "words"),
    [
        (ModelState, "failure_count", "3", "ModelState.failure_count must be int, not str"),
        (ModelState, "failure_count", True, "ModelState.failure_count must be int, not bool"),
        (ModelState, "latency_history", None, "ModelState.latency_history must be list, not NoneType"),
        (ModelState, "latency_history", ["x"], "ModelState.latency_history must hold numbers only"),
        (ModelState, "last_request", "now", "ModelState.last_request must be int or float or null, not str"),
        (ModelState, "error_rate", float("nan"), "ModelState.error_rate must be finite"),
        (ProviderState, "available", 1, "ProviderState.available must be bool, not int"),
        (ProviderState, "total_cost", None, "ProviderState.total_cost must be int or float, not NoneType"),
    ],
    ids=["text", "bool", "null", "items", "time", "nan", "number", "no cost"],
)
def test_a_value_of_the_wrong_type_is_an_error_that_names_the_field(
    cls: type[ModelState | ProviderState], name: str, value: object, words: str
) -> None:
    """A damaged record is refused rather than believed."""
    with pytest.raises(ValueError, match=words.replace(".", r"\.")):
        cls.from_dict({name: value})


def test_a_restored_error_rate_stands_until_the_next_outcome() -> None:
    """The window itself is not saved."""
    state = ModelState.from_dict({"error_rate": 0.4})
    before = (state.error_rate, state.samples)

    state.record_success(0.1, 1, 0.0)

    assert before == (0.4, 0)
    assert (state.error_rate, state.samples) == (0.0, 1)


# --- providers --------------------------------------------------------------------------


def test_three_failed_probes_make_a_provider_unavailable(provider: ProviderState) -> None:
    """The score moves a quarter of the way each time: 0.75, 0.5625, 0.4219."""
    seen = []
    for _ in range(3):
        provider.record_probe(False, 0.1)
        seen.append((round(provider.availability_score, 4), provider.available, provider.is_healthy()))

    assert seen == [(0.75, True, True), (0.5625, True, True), (0.4219, False, False)]


def test_a_success_that_brings_the_score_back_makes_it_available(provider: ProviderState) -> None:
    """One that does not, does not."""
    for _ in range(4):
        provider.record_probe(False)
    seen = []

    for _ in range(2):
        provider.record_probe(True)
        seen.append((round(provider.availability_score, 4), provider.available))

    assert seen == [(0.4873, False), (0.6155, True)]


def test_a_failed_probe_never_makes_a_provider_available(provider: ProviderState) -> None:
    """Whoever was taken out by other means stays out while probes fail."""
    provider.available = False

    provider.record_probe(False)

    assert provider.available is False


def test_a_probe_is_dated(provider: ProviderState, clock: FakeClock) -> None:
    """In Unix time."""
    clock.advance(5.0)

    provider.record_probe(True, latency=0.2)

    assert provider.last_probe == clock.time()


def test_weight_and_minimum_can_be_configured(clock: FakeClock) -> None:
    """With full weight one probe decides."""
    state = ProviderState()
    state.configure(clock=clock, ema_alpha=1.0, min_availability=0.9)

    state.record_probe(False)

    assert (state.availability_score, state.available) == (0.0, False)


@pytest.mark.parametrize(
    ("available", "auth_valid", "score", "healthy"),
    [
        (True, True, 1.0, True),
        (True, True, 0.51, True),
        (True, True, 0.5, False),
        (False, True, 1.0, False),
        (True, False, 1.0, False),
    ],
)
def test_a_provider_is_healthy_when_available_authenticated_and_above_the_minimum(
    available: bool, auth_valid: bool, score: float, healthy: bool
) -> None:
    """All three."""
    state = ProviderState(available=available, auth_valid=auth_valid, availability_score=score)

    assert state.is_healthy() is healthy


@given(st.lists(st.booleans(), max_size=100))
def test_the_score_stays_between_zero_and_one(probes: list[bool]) -> None:
    """Whatever the probes."""
    state = ProviderState()

    for success in probes:
        state.record_probe(success)

    assert 0.0 <= state.availability_score <= 1.0
