"""Retries are a share of the requests that run, per pool and over all pools, but always a few."""

from __future__ import annotations

import pytest

from modelmesh._engine.retry_budget import PROCESS_MINIMUM, RetryBudget


def taken(budget: RetryBudget, times: int) -> int:
    """Return how many of so many retries were granted."""
    return sum(budget.take() for _ in range(times))


@pytest.mark.parametrize(("requests", "granted"), [(0, 3), (10, 3), (15, 3), (19, 3), (20, 4), (100, 20)])
def test_a_fifth_of_the_running_requests_may_retry_but_always_three(requests: int, granted: int) -> None:
    """With 20 % and a minimum of 3."""
    budget = RetryBudget(20.0, 3)
    for _ in range(requests):
        budget.enter()

    assert taken(budget, 50) == granted


def test_a_place_is_free_again_when_its_request_ends() -> None:
    """However it ended."""
    budget = RetryBudget(0.0, 1)
    budget.enter()
    first = budget.take()
    budget.leave(retried=True)

    assert (first, budget.take()) == (True, True)


def test_pools_together_stay_within_the_budget_of_the_process() -> None:
    """Twenty pools with three retries each would be sixty."""
    process = RetryBudget.of_process()
    pools = [RetryBudget(20.0, 3, process) for _ in range(20)]

    assert sum(taken(pool, 3) for pool in pools) == PROCESS_MINIMUM


def test_what_one_pool_gives_back_another_may_take() -> None:
    """The process counts requests of all pools."""
    process = RetryBudget(0.0, 1)
    first, second = RetryBudget(20.0, 3, process), RetryBudget(20.0, 3, process)
    first.enter()
    second.enter()

    before = (first.take(), second.take())
    first.leave(retried=True)

    assert (before, second.take()) == ((True, False), True)
