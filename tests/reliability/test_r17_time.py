"""R17: clocks that are put right, time zones that change, machines that sleep; no budget is passed, nobody rests on.

A year and more goes by hour by hour in five time zones. Meanwhile the wall clock is an hour or a day wrong for a while,
and the monotonic clock stands still as on a laptop whose lid is closed. Beside the mesh runs a sum on paper: which day
or month it is by Python's own calendar, what was spent in it, and who must therefore answer.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from modelmesh import ModelMesh
from modelmesh._engine.windows import CalendarWindow
from modelmesh.errors import AllProvidersExhaustedError, NoActiveModelError
from modelmesh.router import CompletionRequest, Router
from modelmesh_cdk.testing import FakeClock, FakeRandom, ScriptedProvider, answer

HOUR, DAY = 3_600.0, 86_400.0
DAYS = 400
START = datetime(2027, 12, 20, 0, 30, tzinfo=UTC)
"""So that 400 days hold a leap day, two turns of the year and every change of the clocks."""

ZONES = ["UTC", "America/New_York", "Africa/Cairo", "Australia/Lord_Howe", "Asia/Kathmandu"]
"""The plain one, the common one, one whose clocks change at midnight, one by half an hour, one off by 45 minutes."""

CENTS = 100
"""Output tokens of each answer; a token is a tenth of a cent."""


@dataclass
class Allowance:
    """A limit as a person would keep it: so much a day or a month of a zone."""

    kind: str
    amount: int
    zone: ZoneInfo
    spent: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def window(self, wall: float) -> str:
        """Name the day or the month."""
        return f"{datetime.fromtimestamp(wall, self.zone):{'%Y-%m-%d' if self.kind == 'daily' else '%Y-%m'}}"

    def ends(self, wall: float) -> float:
        """Find the end of the window, by asking the calendar every quarter of an hour."""
        name, moment = self.window(wall), wall - wall % 900
        step = DAY if self.kind == "monthly" else HOUR
        while self.window(moment + step) == name:
            moment += step
        while self.window(moment) == name:
            moment += 900
        return moment

    def has_room(self, wall: float) -> bool:
        """Whether one request more fits."""
        return self.spent[self.window(wall)] < self.amount


@dataclass
class Rest:
    """Until when a model may rest at most: by whichever clock gets there first."""

    wall: float
    monotonic: float


class Year:
    """Four models with four kinds of limit, and one without; asked every hour."""

    def __init__(self, zone: str, seed: int, *, jumps: bool) -> None:
        here = ZoneInfo(zone)
        self.lot = random.Random(seed)
        self.jumps = jumps
        self.clock = FakeClock(time=START.timestamp(), auto_advance=True)
        self.offset = 0.0
        self.allowances = {
            "daily": Allowance("daily", 5, here),
            "quota": Allowance("daily", 4, here),
            "monthly": Allowance("monthly", 90, here),
            "pool": Allowance("daily", 3, here),
        }
        self.rests: dict[str, Rest] = {}
        self.answered: dict[str, int] = defaultdict(int)
        self.mesh = ModelMesh(clock=self.clock, random=FakeRandom(), environ={})
        price = {"input_per_1k_tokens": 0.0, "output_per_1k_tokens": 1.0}
        limits: dict[str, dict[str, Any]] = {
            "daily": {"budget": {"daily_limit": 0.5, "timezone": zone}},
            "quota": {"quota": {"requests": 4, "reset_schedule": "daily", "timezone": zone}},
            "monthly": {"budget": {"monthly_limit": 9.0, "timezone": zone}},
            "pool": {},
            "last": {},
        }
        pool = {"capability": "chat-completion", "strategy": "priority-selection"}
        self.mesh.initialize(
            {
                "providers": {
                    name: {"instance": ScriptedProvider(default=answer(tokens=CENTS)), **each}
                    for name, each in limits.items()
                },
                "models": {
                    name: {"provider": name, "capabilities": ["chat-completion"], "pricing": price} for name in limits
                },
                "pools": {
                    "chat": {
                        **pool,
                        "models": ["daily", "quota", "monthly", "last"],
                        "model_priority": ["daily", "quota", "monthly", "last"],
                    },
                    "pooled": {
                        **pool,
                        "models": ["pool"],
                        "model_priority": ["pool"],
                        "deactivation": {"request_limit": 3, "quota_window": "daily", "timezone": zone},
                    },
                },
            }
        )

    async def live(self) -> None:
        """Go through the year."""
        router = self.mesh.get_router()
        for hour in range(DAYS * 24):
            self.clock.advance(HOUR)
            if self.jumps:
                self.disturb(hour)
            await self.ask(router, "chat", ("daily", "quota", "monthly"))
            if hour % 3 == 0:
                await self.ask(router, "pooled", ("pool",))

    def disturb(self, hour: int) -> None:
        """Now and then put the wall clock wrong, put it right again later, or close the lid."""
        if self.offset:
            if self.lot.random() < 0.2:
                self.put(0.0)
        elif self.lot.random() < 0.02:
            self.put(self.lot.choice((HOUR, -HOUR, DAY, -DAY)))
        if self.lot.random() < 0.01:
            self.clock.set_time(self.clock.time() + self.lot.choice((2, 9, 30)) * HOUR)

    def put(self, offset: float) -> None:
        """Let the wall clock be this much ahead of the truth."""
        self.clock.set_time(self.clock.time() + offset - self.offset)
        self.offset = offset

    async def ask(self, router: Router, pool: str, limited: tuple[str, ...]) -> None:
        """Ask once, and hold who answered against the sum on paper."""
        wall, monotonic = self.clock.time(), self.clock.monotonic()
        request = CompletionRequest([{"role": "user", "content": "hi"}], metadata={"parameters": {"max_tokens": CENTS}})
        try:
            model = (await router.acomplete(pool, request)).model
        except (AllProvidersExhaustedError, NoActiveModelError):
            model = "nobody"
        self.answered[model] += 1
        for name in limited:
            if name == model:
                break
            rest = self.rests.get(name)
            rests = rest is not None and wall < rest.wall and monotonic < rest.monotonic
            if not self.allowances[name].has_room(wall):
                if not rests:  # it was asked and had to refuse
                    self.lay_down(name, wall, monotonic)
                continue
            assert rests, f"{name} rests on at {datetime.fromtimestamp(wall, UTC)}, though it has room"
        if model in self.allowances:
            allowance = self.allowances[model]
            assert allowance.has_room(wall), f"{model} passed its limit on {allowance.window(wall)}"
            allowance.spent[allowance.window(wall)] += 1
            if not allowance.has_room(wall):
                self.lay_down(model, wall, monotonic)

    def lay_down(self, model: str, wall: float, monotonic: float) -> None:
        """Write down that a model that has nothing left may rest to the window's end."""
        ends = self.allowances[model].ends(wall)
        self.rests[model] = Rest(ends, monotonic + ends - wall)


@pytest.mark.parametrize("zone", ZONES)
def test_a_year_passes_no_budget_and_leaves_nobody_resting(zone: str, figures: Any) -> None:
    """Every hour the first model with room left in its day or month answers, and never one without."""
    for seed in range(figures.scale(1, 5)):
        year = Year(zone, seed=seed, jumps=seed != 4)

        asyncio.run(year.live())
        year.mesh.shutdown()

        assert min(year.answered.values()) > 300
        windows = sum(len(allowance.spent) for allowance in year.allowances.values())
        figures.add(
            "R17",
            f"400 days by the hour in {zone}, clocks {'disturbed' if year.jumps else 'steady'}, seed {seed}",
            f"{windows} windows, {sum(year.answered.values()):,} requests: 0 limits passed, 0 rests too long",
        )


@pytest.mark.parametrize("jump", [HOUR, -HOUR, DAY, -DAY], ids=["+1h", "-1h", "+1d", "-1d"])
@pytest.mark.parametrize("hours", range(0, 49, 5))
def test_a_day_whose_clock_jumps_there_and_back_is_one_day(jump: float, hours: int) -> None:
    """The books of a day are still there when the clock comes back to it."""
    year = Year("UTC", seed=0, jumps=False)
    router = year.mesh.get_router()

    async def live() -> None:
        for hour in range(120):
            year.clock.advance(HOUR)
            if hour == 20 + hours:
                year.put(jump)
            if hour == 50 + hours:
                year.put(-jump)
            if hour == 70 + hours:
                year.put(0.0)
            await year.ask(router, "chat", ("daily", "quota", "monthly"))

    asyncio.run(live())
    year.mesh.shutdown()


@pytest.mark.parametrize("asleep", [DAY, 31 * DAY], ids=["a day", "a month"])
def test_a_model_whose_day_ended_while_the_machine_slept_answers_at_once(asleep: float) -> None:
    """The monotonic clock stood still: by that one alone it would rest its whole time again."""
    year = Year("UTC", seed=0, jumps=False)
    pool = year.mesh.get_router().get_pool("chat")

    def ask() -> str:
        request = CompletionRequest([{"role": "user", "content": "hi"}], metadata={"parameters": {"max_tokens": CENTS}})
        return year.mesh.get_router().complete("chat", request).model

    assert "last" in [ask() for _ in range(100)]
    assert pool.members["daily"].reason == "budget_exceeded"
    year.clock.set_time(year.clock.time() + asleep)
    rested = pool.members["daily"].cooldown_remaining

    assert (rested, ask()) == (0.0, "daily")
    year.mesh.shutdown()


@pytest.mark.parametrize("zone", [*ZONES, "America/Havana", "Asia/Beirut", "Pacific/Apia", "Africa/Casablanca"])
@pytest.mark.parametrize("kind", ["daily", "monthly"])
def test_windows_follow_one_another_without_gap_or_overlap(zone: str, kind: Any) -> None:
    """Over twenty years of changing clocks, the day that Samoa left out included."""
    window = CalendarWindow(kind, zone)
    moment = datetime(2010, 1, 1, tzinfo=ZoneInfo(zone)).timestamp()
    names: list[str] = []
    named: Callable[[float], str] = Allowance(kind, 0, ZoneInfo(zone)).window

    while moment < datetime(2030, 1, 1, tzinfo=UTC).timestamp():
        name, ends = window.at(moment)
        assert window.at(ends - 1.0) == (name, ends)
        assert named(moment) == named(ends - 1.0) == name != named(ends)
        names.append(name)
        moment = ends

    assert len(set(names)) == len(names)
    assert len(names) >= (240 if kind == "monthly" else 7_303)
    assert ("2012-02-29" in names) == (kind == "daily")
    assert ("2011-12-30" in names) == (kind == "daily" and zone != "Pacific/Apia")


def test_asking_for_windows_in_any_order_gives_the_same_answers() -> None:
    """What was found for one moment is not taken for another."""
    lot = random.Random(17)
    window = CalendarWindow("daily", "Africa/Cairo")
    moments = [START.timestamp() + lot.uniform(-DAYS, DAYS) * DAY for _ in range(2_000)]

    found = [window.at(moment) for moment in moments]

    assert found == [CalendarWindow("daily", "Africa/Cairo").at(moment) for moment in moments]
    spans = [window.span(moment) for moment in moments]
    assert {round((ends - begins) / HOUR) for begins, ends in spans} == {23, 24, 25}
