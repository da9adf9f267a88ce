"""Whom a request calls next: the one machine behind plain, streamed, synchronous and asynchronous requests.

`attempts` is a generator over values. It yields a member to call or a pause to wait, is sent the error of that call
(None for success), and ends, or raises what the caller of the request shall see. It does no I/O and reads the time
from the clock it is given; the drivers in `modelmesh._engine.driver` do the awaiting.

The walk, under the default ``prefer: rotate``:

1. Every active candidate once, the chosen one first, at no cost to the retry budget and without any wait, except one
   before the first call if the strategy asked for it.
2. Those that rest after errors, the one due first leading: they may have healed, and the request has nobody else.
3. Retries: after a wait (backoff, or the provider's own ``Retry-After``), those whose failure may pass.
4. Whoever was not called and has come back, or rests after errors only now: much can happen during the waits.

Retries, and calls to those that rest, take from the retry budget of the pool, so that an outage is not amplified.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from modelmesh._engine.policies import RATE_LIMITED
from modelmesh._engine.retry import RetryClass
from modelmesh.errors import ContentFilterError, InvalidRequestError, ProviderError, RateLimitError

if TYPE_CHECKING:
    from modelmesh._engine.call import Call
    from modelmesh._engine.member import Member


class TriedElsewhereError(RateLimitError):
    """Stands for a call that was not made because another process makes the model's first one after a rest."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait before the next attempt.

    Attributes:
        seconds: How long.
        error: What it is waited for, or None when only a rest has to end.
    """

    seconds: float
    error: ProviderError | None


Steps = Generator["Member | Pause", ProviderError | None, None]
Failures = dict[str, tuple["Member", ProviderError]]
Waiting = list[tuple["Member", ProviderError]]


def attempts(call: Call, chosen: Member, others: Iterable[Member]) -> Steps:
    """Yield the members to call and the pauses between; send the error of each call, None ends it.

    Args:
        call: The request: its pool, deadline and caps.
        chosen: The strategy's choice.
        others: The remaining candidates, best first; read only when the chosen one has failed.

    Raises:
        InvalidRequestError: The caller's own mistake, at once.
        ContentFilterError: Likewise.
        DeadlineExceededError: The request's deadline passed.
        AllProvidersExhaustedError: Nobody is left to call.
    """
    failed: Failures = {}
    last: ProviderError | None = None
    ahead = call.route.selection.wait_seconds
    if ahead > 0:
        if call.has_time_for(ahead):
            yield Pause(ahead, None)
        else:
            chosen, others = _put_off(chosen, others)
    passed: list[Member] = []
    rested: list[Member] = []
    for member in _walk(call, chosen, others, failed, (passed, rested)):
        _check_caps(call, last)
        error = yield member
        if error is None:
            return
        if isinstance(error, TriedElsewhereError):
            passed.append(member)
            continue
        last = _returned_unless_rotatable(error)
        failed[member.model_id] = (member, error)
        if call.policy.retry.prefer == "retry":
            # The others of the scope first: the model that has just failed is the least likely to answer now.
            again = [*((other, error) for other in _scope(call, member, failed)), (member, error)]
            last = yield from _retries(call, again, failed)
            if last is None:
                return
            failed[member.model_id] = (member, last)
    yield from _last_resorts(call, failed, rested, last)


def _walk(
    call: Call, chosen: Member, others: Iterable[Member], failed: Failures, aside: tuple[list[Member], list[Member]]
) -> Iterator[Member]:
    """Yield each candidate once while it is active; a member whose trial call runs already goes last.

    After them come those that rested when the request was routed, or when their turn came, and have returned since:
    their place is behind whoever the strategy chose among.

    Args:
        call: The request.
        chosen: The strategy's choice.
        others: The remaining candidates, best first.
        failed: Who was called for this request and failed.
        aside: Whom another process turned out to try, as is noted meanwhile: they come once more at the end, when
            nobody else is left. And who rested when their turn came, which is noted here.
    """
    passed, rested = aside
    late: list[Member] = []
    if chosen.is_on_trial():
        late.append(chosen)
    elif chosen.active:
        yield chosen
    else:
        rested.append(chosen)
    for member in others:
        if member.is_on_trial():
            late.append(member)
        elif member.active:
            yield member
        else:
            rested.append(member)
    for member in late:
        if member.active:
            yield member
        else:
            rested.append(member)
    yield from _returned(call, failed, rested)
    for member in passed:
        if member.active:
            yield member
        else:
            rested.append(member)


def _last_resorts(call: Call, failed: Failures, rested: list[Member], last: ProviderError | None) -> Steps:
    """Yield whom to call when the walk brought no answer: whoever is left, retries, and whoever is left by then.

    Args:
        call: The request.
        failed: Who was called for this request and failed; under ``prefer: retry`` they have had their retries.
        rested: Who rested when their turn came.
        last: The last error of the walk, or None when it called nobody.
    """
    for is_retried in (call.policy.retry.prefer == "retry", True):
        for member, wait in _left(call, failed, rested):
            _check_caps(call, last)
            if wait:
                yield Pause(wait, last)
            error = yield member
            if error is None:
                return
            if isinstance(error, TriedElsewhereError):
                continue
            last = _returned_unless_rotatable(error)
            failed[member.model_id] = (member, last)
        if last is None:
            raise call.pool.no_active_model(call.route.only)
        if not is_retried:
            last = yield from _retries(call, list(failed.values()), failed)
            if last is None:
                return
    if not call.has_time_for(0.0):
        raise call.late() from last
    raise call.exhausted(last)


def _left(call: Call, failed: Failures, rested: list[Member]) -> Iterator[tuple[Member, float]]:
    """Yield whoever was not called for this request and can be now, until nobody is left.

    First those that have returned, and among them those last whose trial call runs: another process turns out to make
    it once, and then the request makes one of its own. Then those that rest after errors, as the retry budget allows.

    Yields:
        A member and the seconds to wait before it is called.
    """
    found = True
    while found:
        found = False
        for member in sorted(_returned(call, failed, rested), key=lambda member: member.is_on_trial()):
            if member.active and member.model_id not in failed:
                found = True
                yield member, 0.0
        for member in _resting(call, failed):
            wait = _asked_wait(call, member)
            if wait is None:
                continue
            if failed and not call.pool.take_retry(call):
                return
            found = True
            yield member, wait


def _returned(call: Call, failed: Failures, rested: list[Member]) -> Iterator[Member]:
    """Yield those that rested when the request was routed or at their turn, are active now and were not called."""
    for member in (*rested, *call.route.rested()):
        if member.active and member.model_id not in failed:
            yield member


def _put_off(chosen: Member, others: Iterable[Member]) -> tuple[Member, Iterable[Member]]:
    """Put the chosen one last: there is no time for the wait it was to have, and others may be called at once."""
    rest = list(others)
    return (rest[0], [*rest[1:], chosen]) if rest else (chosen, rest)


def _resting(call: Call, failed: Failures) -> Iterator[Member]:
    """Yield the members that rest after errors and were not called for this request, the one due first leading."""
    return iter(
        sorted(
            (member for member in call.everyone() if member.may_have_healed() and member.model_id not in failed),
            key=lambda member: member.due,
        )
    )


def _asked_wait(call: Call, member: Member) -> float | None:
    """Return the seconds a resting member's provider still wants left alone; None if that is too long to wait."""
    if member.reason != RATE_LIMITED:
        return 0.0
    wait = max(0.0, member.due - call.clock.monotonic())
    return wait if wait <= call.policy.retry.max_delay and call.has_time_for(wait) else None


def _retries(
    call: Call, waiting: Waiting, failed: Failures
) -> Generator[Member | Pause, ProviderError | None, ProviderError | None]:
    """Yield a pause and a member in turn, until one answers or retrying is over.

    Args:
        call: The request.
        waiting: Whom to call again, with the error each gave; taken over.
        failed: Who was called for this request and failed.

    Returns:
        The last error, or None when a retry succeeded.
    """
    policy = call.policy.retry
    last = waiting[-1][1]
    for number in range(1, policy.max_attempts + 1):
        waiting = _callable_again(call, waiting, failed)
        if not waiting:
            break
        # Whoever asked for the shortest wait, and among equals whoever was called longest ago.
        member, error = min(waiting, key=lambda pair: pair[1].retry_after or 0.0)
        delay = policy.get_delay(number, error, random=call.random)
        if delay is None or not call.has_time_for(delay) or not call.pool.take_retry(call):
            break
        _check_caps(call, last)
        yield Pause(delay, error)
        _check_caps(call, last)
        if not _callable_again(call, [(member, error)], failed):
            continue  # put aside during the wait
        failure = yield member
        while isinstance(failure, TriedElsewhereError) and _callable_again(call, [(member, error)], failed):
            failure = yield member
        if failure is None:
            return None
        if isinstance(failure, TriedElsewhereError):
            continue  # somebody else is left
        last = _returned_unless_rotatable(failure)
        waiting = [pair for pair in waiting if pair[0] is not member] + [(member, last)]
    return last


def _scope(call: Call, member: Member, failed: Failures) -> list[Member]:
    """Whom ``prefer: retry`` may call besides the member that failed."""
    scope = call.policy.retry.scope
    if scope == "same_model":
        return []
    return [
        other
        for other in call.everyone()
        if other.active
        and other is not member
        and other.model_id not in failed
        and (scope == "any" or other.provider_id == member.provider_id)
    ]


def _callable_again(call: Call, waiting: Waiting, failed: Failures) -> Waiting:
    """Leave whom a retry may help: active members, and resting ones only when nobody active is still to be called."""
    waiting = [(member, error) for member, error in waiting if _may_pass(call, error)]
    if any(other.active and other.model_id not in failed for other in call.everyone()):
        # A retry would be a second probe of one that has just come back and whose trial call runs.
        return [(member, error) for member, error in waiting if member.active and not member.is_on_trial()]
    # Whoever named a wait may be called after it, as an active one may; who rests for errors comes after both.
    ready = [(member, error) for member, error in waiting if member.active or member.reason == RATE_LIMITED]
    return ready or [(member, error) for member, error in waiting if member.may_have_healed()]


def _may_pass(call: Call, error: ProviderError) -> bool:
    return call.policy.retry.classify_error(error) is not RetryClass.NON_RETRYABLE


def _returned_unless_rotatable(error: ProviderError) -> ProviderError:
    """Give back an error that another model may not have; raise the caller's own mistakes."""
    if isinstance(error, (InvalidRequestError, ContentFilterError)):
        raise error
    return error


def _check_caps(call: Call, last: ProviderError | None) -> None:
    """Raise when the request's deadline, attempt cap or cost cap forbids another attempt."""
    if not call.has_time_for(0.0):
        raise call.late() from last
    if call.over_caps():
        raise call.exhausted(last)
