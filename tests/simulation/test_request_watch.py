"""The watch over requests: which failure is what the pool asked for, and which left somebody unasked."""

from __future__ import annotations

from typing import Any

import pytest

from modelmesh._engine.limits import Limits
from modelmesh_cdk.testing.simulation import Ask, Outcome, ProviderSpec, World, run_world

SLOW = ProviderSpec("a", pace=0.1, words=60)
"""Its streams take six seconds, of the five that they are given."""
LIMITED = ProviderSpec("b", settings={"budget": {"daily_limit": 0.01, "timezone": "UTC"}})
ABLE = ProviderSpec("c")

CASES = pytest.mark.parametrize(
    ("providers", "is_stream"),
    [((LIMITED, ABLE), False), ((SLOW, LIMITED, ABLE), True)],
    ids=["before an answer", "after a stream broke"],
)


def refused(providers: tuple[ProviderSpec, ...], is_stream: bool, on_budget_exceeded: str) -> Outcome:
    """Make one request that comes to a model whose budget it would pass, while another could answer."""
    pool = {
        "deadline": 60.0,
        "timeouts": {"first_token": 3.0, "idle": 2.0, "total": 5.0},
        "retry": {"max_attempts": 0, "max_delay": 1.0},
        "on_stream_failure": "continue",
        "on_budget_exceeded": on_budget_exceeded,
    }
    asks = (Ask(1, 1.0, stream=is_stream, max_tokens=60),)
    return run_world(World(1, 1_792_807_200.0, providers, pool, asks=asks))


@CASES
def test_a_budget_that_callers_want_to_hear_of_leaves_nobody_unasked(
    providers: tuple[ProviderSpec, ...], is_stream: bool
) -> None:
    """``on_budget_exceeded: error`` ends a request at once, in the middle of its answer too: that breaks no promise."""
    outcome = refused(providers, is_stream, "error")

    assert [asked.outcome for asked in outcome.asked] == ["failed"]
    assert outcome.broken is None


@CASES
def test_a_budget_that_ends_a_request_which_was_to_go_on_breaks_r4(
    providers: tuple[ProviderSpec, ...], is_stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``on_budget_exceeded: rotate`` goes to the next model, and an engine that does not is found."""
    original = Limits._over_budget

    def tell_at_once(self: Any, *args: Any) -> Any:
        raise original(self, *args).budget

    monkeypatch.setattr(Limits, "_over_budget", tell_at_once)

    outcome = refused(providers, is_stream, "rotate")

    assert outcome.broken is not None
    assert outcome.broken.goal == "R4"
