"""Faults put in on purpose: each is one that a router can well have, and that the simulation must find."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest

from modelmesh._engine import attempt, limits, pool, retry_budget, streaming, windows
from modelmesh._engine.block_ledger import BlockLedger
from modelmesh._engine.call import Call
from modelmesh._engine.driver import Driver
from modelmesh.interfaces.ledger import Verdict, WindowClaim
from modelmesh.statistics import StatisticsCollector
from modelmesh_cdk.ledger import Books, Rate

Plant = Callable[[pytest.MonkeyPatch], None]


def budget_is_checked_and_then_taken(patch: pytest.MonkeyPatch) -> None:
    """Looks what is left, and claims it in a second call: others may have claimed it in between."""
    original = limits.Limits._claim

    async def claim(self: Any, call: Any, hold: Any, claims: list[Any]) -> Verdict:
        if isinstance(hold.ledger, BlockLedger):
            return await original(self, call, hold, claims)
        windows = [each for each in claims if isinstance(each, WindowClaim)]
        balances = await hold.ledger.balances([each.account for each in windows])
        for each in windows:
            left = each.limit - balances[each.account].spent - balances[each.account].reserved
            if each.amount > left:
                return Verdict(False, each.account, max(0, left))
        boundless = [replace(each, limit=2**53) if isinstance(each, WindowClaim) else each for each in claims]
        verdict: Verdict = await hold.ledger.reserve(hold.reservation, boundless, lease=self._lease(call))
        return verdict

    patch.setattr(limits.Limits, "_claim", claim)


def retries_need_no_place(patch: pytest.MonkeyPatch) -> None:
    """Grants every retry."""
    patch.setattr(retry_budget.RetryBudget, "_has_room", lambda self: True)


def streams_are_spliced(patch: pytest.MonkeyPatch) -> None:
    """Forgets that content was shown, and begins again with another model."""

    def release(self: Any) -> Iterator[Any]:
        held, self._held = self._held, []
        yield from held

    patch.setattr(streaming.StreamProgress, "release", release)


def two_probes_at_once(patch: pytest.MonkeyPatch) -> None:
    """Takes no notice of a trial call that runs."""
    patch.setattr(pool.Member, "is_on_trial", lambda self: False)


def a_later_rest_shortens_an_earlier_one(patch: pytest.MonkeyPatch) -> None:
    """Lets the last word on how long a model rests win."""
    original = pool.CapabilityPool.deactivate_member

    def deactivate(self: Any, member: Any, reason: str, *, rest: float | None, now: float, **rest_of: Any) -> bool:
        if not member.active and rest is not None:
            member.due = now + rest
        return original(self, member, reason, rest=rest, now=now, **rest_of)

    patch.setattr(pool.CapabilityPool, "deactivate_member", deactivate)


def leases_never_end(patch: pytest.MonkeyPatch) -> None:
    """Keeps what was reserved by a process that is no more."""
    original = Books._catch_up

    def catch_up(self: Any, moment: int) -> None:
        self._leases = []
        original(self, moment)

    patch.setattr(Books, "_catch_up", catch_up)


def days_begin_in_utc(patch: pytest.MonkeyPatch) -> None:
    """Takes the zone of a quota for a remark."""
    original = windows.CalendarWindow.__init__

    def init(self: Any, kind: Any, zone: str = "UTC") -> None:
        original(self, kind, "UTC")

    patch.setattr(windows.CalendarWindow, "__init__", init)


def cancelled_calls_stay_in_flight(patch: pytest.MonkeyPatch) -> None:
    """Counts a call as running for ever when its caller goes away."""
    original = Driver._attempt

    async def attempt_once(self: Any, call: Any, member: Any, before: Any) -> Any:
        try:
            return await original(self, call, member, before)
        except asyncio.CancelledError:
            member.model.in_flight += 1
            raise

    patch.setattr(Driver, "_attempt", attempt_once)


def deadlines_are_ignored(patch: pytest.MonkeyPatch) -> None:
    """Lets each attempt have all the time it is given by itself."""
    original = Call.__init__

    def init(self: Any, *args: Any, **named: Any) -> None:
        original(self, *args, **named)
        self.deadline_at = None

    patch.setattr(Call, "__init__", init)


def cut_streams_are_complete(patch: pytest.MonkeyPatch) -> None:
    """Takes the end of the bytes for the end of the answer."""
    patch.setattr(streaming.StreamProgress, "end", lambda self: None)


def nobody_is_the_last_one(patch: pytest.MonkeyPatch) -> None:
    """Puts the last active model of a pool to rest for errors."""
    patch.setattr(pool.CapabilityPool, "is_last_active", lambda self, member: False)


def rates_flow_back_twice_as_fast(patch: pytest.MonkeyPatch) -> None:
    """Lets a rate limit through at double speed."""
    original = Rate.owed
    patch.setattr(Rate, "owed", lambda self, now, limit, period: original(self, now, 2 * limit, period))


def the_others_are_not_asked(patch: pytest.MonkeyPatch) -> None:
    """Gives up when the chosen model has failed."""
    patch.setattr(attempt, "_walk", lambda call, chosen, *others: iter([chosen]))
    for name in ("_resting", "_returned"):
        patch.setattr(attempt, name, lambda *given: iter([]))


def abandoned_calls_are_free(patch: pytest.MonkeyPatch) -> None:
    """Books nothing for a call whose caller went away: the provider charges for it all the same."""
    original = limits.Limits.close

    async def close(self: Any, call: Any, hold: Any, error: Any) -> None:
        if call.attempts and call.attempts[-1].outcome == "cancelled":
            await self._book(hold, self._nothing(hold))
        else:
            await original(self, call, hold, error)

    patch.setattr(limits.Limits, "close", close)


def failures_are_not_counted(patch: pytest.MonkeyPatch) -> None:
    """Keeps statistics of successes alone."""
    original = StatisticsCollector.record

    def record(self: Any, model: str, provider: str, pool: str, metrics: Any) -> None:
        if metrics.success:
            original(self, model, provider, pool, metrics)

    patch.setattr(StatisticsCollector, "record", record)


PLANTED: Mapping[str, tuple[Plant, frozenset[str]]] = {
    plant.__name__.replace("_", " "): (plant, frozenset(goals.split()))
    for plant, goals in (
        (budget_is_checked_and_then_taken, "R1"),
        (retries_need_no_place, "R5"),
        (streams_are_spliced, "R6"),
        (two_probes_at_once, "R14"),
        (a_later_rest_shortens_an_earlier_one, "R14"),
        (leases_never_end, "R2"),
        (days_begin_in_utc, "R17"),
        (cancelled_calls_stay_in_flight, "R7"),
        (deadlines_are_ignored, "R5"),
        (cut_streams_are_complete, "R6"),
        (nobody_is_the_last_one, "R14"),
        (rates_flow_back_twice_as_fast, "R3"),
        (the_others_are_not_asked, "R4"),
        (abandoned_calls_are_free, "R1"),
        (failures_are_not_counted, "sums"),
    )
}
"""Each with the promises it may be found by."""
