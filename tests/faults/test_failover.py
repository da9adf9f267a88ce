"""Which answers of a provider send a request on, which return to the caller, and whose health they touch."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from modelmesh.errors import AllProvidersExhaustedError, ContentFilterError, InvalidRequestError, NoActiveModelError
from modelmesh_cdk.testing import faults, refused_url

NOW = datetime.now(UTC)


@pytest.mark.parametrize("is_streamed", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize(
    "fault", [500, 503, "refused", faults.status(429, retry_after=20)], ids=["500", "503", "refused", "429 for 20 s"]
)
def test_default_settings_answer_from_the_second_provider_without_a_wait(
    world: Any, texts: Any, fault: Any, is_streamed: bool
) -> None:
    """F2, F10, F11: rotating beats waiting, with nothing configured at all."""
    if fault == "refused":
        world.elsewhere(refused_url())
    else:
        world.provider(default=fault)
    world.provider(default="second")
    world.build(retry={}, timeouts={}, deadline=600)

    answers = [texts(world.stream()) if is_streamed else world.ask().content for _ in range(3)]

    assert answers == ["second"] * 3
    assert world.clock.sleeps == []


def test_a_provider_that_asks_for_twenty_seconds_is_left_alone_for_them(lone_world: Any) -> None:
    """F10: its rest is what it asked for; then it is asked again."""
    first = lone_world.provider(faults.status(429, retry_after=20))
    lone_world.provider(default="second")

    lone_world.ask()
    lone_world.clock.skip(19)
    lone_world.ask()
    before = len(first.requests)
    lone_world.clock.skip(2)
    lone_world.ask()

    assert (before, lone_world.states()) == (1, {"m0": None, "m1": None})


OUTCOMES = {
    400: "client_error",
    401: "auth",
    402: "quota",
    403: "auth",
    404: "client_error",
    408: "timeout",
    409: "server_error",
    413: "client_error",
    422: "client_error",
    425: "server_error",
    429: "rate_limit",
    500: "server_error",
    502: "server_error",
    503: "server_error",
    504: "timeout",
    521: "server_error",
    529: "server_error",
}


@pytest.mark.parametrize(
    "status", [status for status, outcome in OUTCOMES.items() if outcome != "client_error"], ids=str
)
def test_a_provider_that_fails_is_rotated_away(lone_world: Any, status: int) -> None:
    """F9, F11: whatever is not the caller's mistake is somebody else's to answer."""
    lone_world.provider(status)
    lone_world.provider("second")

    answer = lone_world.ask()

    first, _ = answer.metadata["receipt"].attempts
    assert answer.content == "second"
    assert (first.outcome, first.status_code) == (OUTCOMES[status], status)


@pytest.mark.parametrize("is_streamed", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize(
    "status", [status for status, outcome in OUTCOMES.items() if outcome == "client_error"], ids=str
)
def test_the_callers_mistake_is_returned_and_hurts_nobody(lone_world: Any, status: int, is_streamed: bool) -> None:
    """F9: nobody else is asked, nothing is counted, however often it happens."""
    first = lone_world.provider(default=status)
    second = lone_world.provider("second")

    for _ in range(12):
        with pytest.raises(InvalidRequestError) as caught:
            list(lone_world.stream()) if is_streamed else lone_world.ask()

    assert (caught.value.status_code, caught.value.retryable) == (status, False)
    assert (len(first.requests), len(second.requests)) == (12, 0)
    assert lone_world.states() == {"m0": None, "m1": None}


@pytest.mark.parametrize(
    "step",
    [
        faults.status(400, error_code="context_length_exceeded"),
        faults.status(400, error_code="unsupported_parameter"),
        faults.status(404, error_code="model_not_found"),
        faults.status(404, message="The model `fault-model` does not exist"),
    ],
    ids=["context length", "parameter", "model code", "model in words"],
)
def test_what_one_model_lacks_another_may_have(lone_world: Any, step: Any) -> None:
    """F9: a 400 or 404 about the model rotates, without harm to the model's health."""
    lone_world.provider(default=step)
    lone_world.provider(default="second")

    answers = [lone_world.ask().content for _ in range(12)]

    assert answers == ["second"] * 12
    assert lone_world.states() == {"m0": None, "m1": None}


def test_refused_content_is_the_callers_to_know(lone_world: Any) -> None:
    """F9: the next provider is not asked to answer what one has refused."""
    lone_world.provider(faults.status(400, error_code="content_filter"))
    second = lone_world.provider("second")

    with pytest.raises(ContentFilterError):
        lone_world.ask()

    assert second.requests == []


@pytest.mark.parametrize("code", ["insufficient_quota", "credit_balance_exhausted"])
def test_an_empty_account_is_no_rate_limit(lone_world: Any, code: str) -> None:
    """F10: a 429 that waiting does not cure rests the whole provider, and is not retried."""
    first = lone_world.provider(faults.status(429, error_code=code, retry_after=1), default="first again")
    lone_world.provider(default="second")
    lone_world.build(retry={"max_attempts": 3, "prefer": "retry"})

    answers = [lone_world.ask() for _ in range(3)]

    assert [answer.content for answer in answers] == ["second"] * 3
    assert answers[0].metadata["receipt"].attempts[0].outcome == "quota"
    assert (len(first.requests), lone_world.clock.sleeps) == (1, [])


def test_a_key_that_is_revoked_in_the_middle_rests_its_provider(lone_world: Any) -> None:
    """F17: after the first 401 nobody asks that provider again until its rest is over."""
    first = lone_world.provider("fine", 401, default="fine again")
    lone_world.provider(default="second")

    answers = [lone_world.ask().content for _ in range(4)]

    assert answers == ["fine", "second", "second", "second"]
    assert len(first.requests) == 2
    assert lone_world.mesh.active_providers() == ["p1"]


def test_a_key_that_works_again_brings_its_provider_back(lone_world: Any) -> None:
    """F17: after the rest the provider is tried, and serves."""
    lone_world.provider(401, default="fine again")
    lone_world.provider(default="second")
    lone_world.build(recovery={"cooldown": 30}, strategy="modelmesh.priority-selection.v1")
    lone_world.ask()

    lone_world.clock.skip(40)
    lone_world.ask()

    assert lone_world.mesh.active_providers() == ["p0", "p1"]


@pytest.mark.parametrize(
    "retry_after",
    [
        "-1",
        "NaN",
        "inf",
        "1e308",
        "soon",
        "",
        "0",
        "1;2",
        "9" * 400,
        "Wed, 99 Foo 2026 00:00:00 GMT",
        NOW - timedelta(days=400),
        NOW + timedelta(days=4_000),
        36_000,
    ],
    ids=["negative", "nan", "inf", "huge", "word", "empty", "zero", "list", "digits", "no date", "past", "far", "10 h"],
)
def test_an_absurd_retry_after_neither_hangs_nor_breaks_anything(lone_world: Any, retry_after: Any) -> None:
    """F10: the request goes on at once, and nobody waits, or is banished, for ever."""
    lone_world.provider(faults.status(429, retry_after=retry_after), default="first again")
    lone_world.provider(default="second")

    assert lone_world.ask().content == "second"
    assert lone_world.clock.sleeps == []
    lone_world.clock.skip(86_400 + 1)
    lone_world.ask()
    assert lone_world.states() == {"m0": None, "m1": None}


@pytest.mark.parametrize("retry_after", ["-1", "NaN", "soon", "1e308"], ids=["negative", "nan", "word", "huge"])
def test_a_lone_provider_with_an_absurd_retry_after_is_retried_with_a_sane_wait(
    lone_world: Any, retry_after: str
) -> None:
    """F10: no wait is negative or longer than the policy's; what asks for more is not waited for."""
    lone_world.provider(faults.status(429, retry_after=retry_after), default="fine")
    lone_world.build(retry={"max_attempts": 1, "max_delay": 10})

    if retry_after == "1e308":
        with pytest.raises(AllProvidersExhaustedError):
            lone_world.ask()
    else:
        assert lone_world.ask().content == "fine"
    assert all(0 <= seconds <= 10 for seconds in lone_world.clock.sleeps)


def test_a_lone_provider_that_asks_for_a_short_wait_gets_it(world: Any) -> None:
    """F10: with nobody else, its own wait is kept to the letter."""
    server = world.provider(faults.status(429, retry_after=7), "fine")
    world.build(retry={"max_attempts": 1}, deadline=60)

    assert world.ask().content == "fine"
    assert (world.clock.sleeps, len(server.requests)) == ([7.0], 2)


@pytest.mark.parametrize("header", ["x-ratelimit-remaining-requests", "x-ratelimit-remaining-tokens"])
@pytest.mark.parametrize(
    "value", ["-1", "0", "NaN", "1e400", "x" * 30_000, ""], ids=["-1", "0", "nan", "inf", "x", "-"]
)
def test_odd_rate_limit_headers_disturb_no_good_answer(lone_world: Any, header: str, value: str) -> None:
    """F10: placeholders and nonsense in the headers of a 200 mean unknown, not empty."""
    lone_world.provider(default=faults.chat("fine", headers={header: value, "x-ratelimit-reset-requests": "6m0s"}))

    assert [lone_world.ask().content for _ in range(3)] == ["fine"] * 3


def test_all_providers_down_is_one_error_with_every_attempt(world: Any) -> None:
    """F16: who was asked, in which order, and how each failed, stands in the receipt."""
    world.provider(default=500)
    world.provider(default=faults.reset())
    world.provider(default=429)

    with pytest.raises(AllProvidersExhaustedError) as caught:
        world.ask()

    receipt = caught.value.receipt
    assert [(attempt.model_id, attempt.outcome) for attempt in receipt.attempts] == [
        ("m0", "server_error"),
        ("m1", "network"),
        ("m2", "rate_limit"),
    ]


def test_providers_that_come_back_together_are_used_at_once(lone_world: Any) -> None:
    """F16: an outage of everybody ends with the first request after it, not with the end of a rest."""
    servers = [lone_world.provider(*[500] * 30, default="back") for _ in range(2)]
    lone_world.build(recovery={"cooldown": 300})
    while sum(len(server.requests) for server in servers) < 60:
        with pytest.raises((AllProvidersExhaustedError, NoActiveModelError)):
            lone_world.ask()

    assert lone_world.ask().content == "back"


def test_an_outage_is_not_amplified(lone_world: Any) -> None:
    """F16: a failing pool costs each provider one call a request, plus the retries the policy allows."""
    servers = [lone_world.provider(default=503) for _ in range(2)]
    lone_world.build(retry={"max_attempts": 2, "initial_delay": 0.1})

    for _ in range(10):
        with pytest.raises(AllProvidersExhaustedError):
            lone_world.ask()

    assert sum(len(server.requests) for server in servers) <= 10 * (2 + 2)


@pytest.mark.parametrize("fault", [500, faults.reset(), faults.body(b"<html>")], ids=["500", "reset", "html"])
def test_a_flapping_provider_never_costs_an_answer(world: Any, fault: Any) -> None:
    """F14, F15: one call in three fails, each request is answered."""
    world.provider(*["fine", "fine", fault] * 20)
    world.provider(default="second")

    answers = [world.ask().content for _ in range(40)]

    assert set(answers) <= {"fine", "second"}


def test_the_last_provider_is_never_given_up(lone_world: Any) -> None:
    """F15: errors alone leave no pool without anybody: the one there is answers as soon as it can."""
    lone_world.provider(*[500] * 50, default="back")

    for _ in range(50):
        with pytest.raises(AllProvidersExhaustedError):
            lone_world.ask()

    assert lone_world.ask().content == "back"
    assert lone_world.states() == {"m0": None}


@pytest.mark.parametrize("offset", [-86_400.0, -3_600.0, 3_600.0, 86_400.0], ids=["-1 d", "-1 h", "+1 h", "+1 d"])
def test_a_wall_clock_that_jumps_moves_no_rest(lone_world: Any, offset: float) -> None:
    """F24: rests are measured on the clock that never jumps."""
    first = lone_world.provider(faults.status(429, retry_after=60), default="first again")
    lone_world.provider(default="second")
    lone_world.ask()

    lone_world.clock.wall_offset = offset
    lone_world.ask()
    still_resting = len(first.requests) == 1
    lone_world.clock.skip(61)
    lone_world.ask()

    assert still_resting
    assert lone_world.states() == {"m0": None, "m1": None}
