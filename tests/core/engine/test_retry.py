"""Whether a failed call may be made again, and after how long."""

from __future__ import annotations

import pytest

from modelmesh._engine.retry import RetryClass, RetryPolicy
from modelmesh.errors import (
    AuthenticationError,
    BudgetExceededError,
    ProviderConnectionError,
    ProviderError,
    ProviderServerError,
    ProviderTimeoutError,
    RateLimitError,
)
from modelmesh_cdk.testing import FakeRandom


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RateLimitError("slow", status_code=429), RetryClass.RATE_LIMITED),
        (ProviderServerError("down", status_code=500), RetryClass.RETRYABLE),
        (ProviderServerError("odd", status_code=599), RetryClass.RETRYABLE),
        (ProviderTimeoutError("late"), RetryClass.RETRYABLE),
        (ProviderConnectionError("refused"), RetryClass.RETRYABLE),
        (ProviderError("?", status_code=502), RetryClass.RETRYABLE),
        (ProviderError("?", status_code=418), RetryClass.NON_RETRYABLE),
        (ProviderServerError("but", status_code=403), RetryClass.NON_RETRYABLE),
        (AuthenticationError("no", status_code=503), RetryClass.NON_RETRYABLE),
        (BudgetExceededError("daily", 1, 2), RetryClass.NON_RETRYABLE),
        (ValueError("foreign"), RetryClass.NON_RETRYABLE),
    ],
    ids=["429", "500", "599", "timeout", "network", "502", "418", "403", "auth-503", "budget", "foreign"],
)
def test_an_error_says_whether_the_same_call_may_be_made_again(error: Exception, expected: RetryClass) -> None:
    """Listed codes win over the error's own opinion; what a wait cannot change is never retried."""
    assert RetryPolicy().classify_error(error) is expected


@pytest.mark.parametrize(
    ("written", "expected"),
    [(frozenset(), RetryClass.NON_RETRYABLE), (frozenset({503}), RetryClass.RETRYABLE)],
    ids=["default lists", "lists of the pool"],
)
def test_a_providers_settings_go_before_the_default_lists_alone(written: frozenset[int], expected: RetryClass) -> None:
    """What a pool names itself has the last word."""
    error = ProviderServerError("down", status_code=503)
    error.retryable_by_settings = False

    assert RetryPolicy(written_codes=written).classify_error(error) is expected


def test_a_providers_settings_may_call_for_a_retry() -> None:
    """Of a status that is refused by default; a wrong key stays wrong whatever they say."""
    odd, refused = ProviderError("odd", status_code=400), AuthenticationError("no", status_code=401)
    odd.retryable_by_settings = refused.retryable_by_settings = True

    assert RetryPolicy().classify_error(odd) is RetryClass.RETRYABLE
    assert RetryPolicy().classify_error(refused) is RetryClass.NON_RETRYABLE


@pytest.mark.parametrize(("attempt", "expected"), [(1, True), (3, True), (4, False)])
def test_max_attempts_counts_retries_after_the_first_call(attempt: int, expected: bool) -> None:
    """Three retries leave a chance after the third failure and none after the fourth."""
    assert RetryPolicy(max_attempts=3).should_retry(ProviderConnectionError("refused"), attempt) is expected


def test_what_cannot_pass_leaves_no_retry() -> None:
    """A refused key is not asked again, however many retries remain."""
    assert not RetryPolicy().should_retry(AuthenticationError("no"), 1)


@pytest.mark.parametrize(("attempt", "ceiling"), [(1, 0.5), (2, 1.0), (3, 2.0), (5, 8.0), (6, 10.0), (5000, 10.0)])
@pytest.mark.parametrize(("drawn", "share"), [(0.0, 0.5), (0.999_999, 1.0)], ids=["lowest", "highest"])
def test_backoff_doubles_up_to_a_limit_with_jitter(attempt: int, ceiling: float, drawn: float, share: float) -> None:
    """Each wait lies between half and the whole of twice the one before, and never beyond ``max_delay``."""
    delay = RetryPolicy().get_delay(attempt, random=FakeRandom(drawn))

    assert delay == pytest.approx(ceiling * share, rel=1e-5)


def test_a_fixed_backoff_does_not_grow() -> None:
    """Every wait is ``initial_delay``."""
    policy = RetryPolicy(backoff="fixed", initial_delay=2)

    assert [policy.get_delay(attempt, random=FakeRandom()) for attempt in (1, 2, 7)] == [2, 2, 2]


def test_the_providers_own_wait_is_taken() -> None:
    """``Retry-After`` replaces the computed wait."""
    assert RetryPolicy().get_delay(1, RateLimitError("slow", retry_after=4), random=FakeRandom()) == 4


def test_a_providers_wait_beyond_the_limit_is_not_worth_it() -> None:
    """None says: do not wait."""
    assert RetryPolicy().get_delay(1, RateLimitError("slow", retry_after=10.1), random=FakeRandom()) is None


def test_the_providers_wait_can_be_ignored() -> None:
    """With ``honor_retry_after: false`` only the backoff counts."""
    policy = RetryPolicy(honor_retry_after=False, backoff="fixed", initial_delay=1)

    assert policy.get_delay(1, RateLimitError("slow", retry_after=400), random=FakeRandom()) == 1


def test_backoff_retry_after_honours_it_in_any_case_and_grows_without_it() -> None:
    """The strategy named after it falls back to exponential waits."""
    policy = RetryPolicy(honor_retry_after=False, backoff="retry_after", initial_delay=1)

    assert policy.get_delay(1, RateLimitError("slow", retry_after=3), random=FakeRandom()) == 3
    assert policy.get_delay(3, RateLimitError("slow"), random=FakeRandom(0.0)) == 2
