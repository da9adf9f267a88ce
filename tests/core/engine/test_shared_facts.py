"""Facts between processes: gathered, ordered by the store, kept for those who come later."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest

from modelmesh._engine.shared_facts import CHANNEL, HEARING_SECONDS, SharedFacts
from modelmesh.errors import StateStoreError
from modelmesh.state_manager import ROUTING_KEY
from modelmesh_cdk.testing import FakeClock, context
from modelmesh_plugins.state_stores.memory import MemoryStateStore


class Store(MemoryStateStore):
    """Counts messages and writes, and may be down."""

    is_down = False
    fault: Exception = StateStoreError("down")

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[Any] = []

    async def _load(self, key: str) -> Any:
        if self.is_down:
            raise self.fault
        return await super()._load(key)

    async def _publish(self, channel: str, message: bytes) -> None:
        assert channel == CHANNEL
        if self.is_down:
            raise self.fault
        self.messages.append(json.loads(message))
        await super()._publish(channel, message)


class Telemetry:
    """Keeps what is traced."""

    def __init__(self) -> None:
        self.lines: list[tuple[Any, ...]] = []

    def trace(self, severity: Any, component: str, *said: Any, **_: Any) -> None:
        """Keep severity, message and facts."""
        self.lines.append((severity.value, *said))


class World:
    """Processes over one store; ``heard`` is what each took over."""

    def __init__(self, loop: Any) -> None:
        self.clock = FakeClock()
        self.store = Store()
        self.store.bind(context(clock=self.clock))
        self.loop = loop
        self.heard: list[list[Any]] = []
        self.telemetry: Any = Telemetry()

    def process(self, number: int = 0) -> SharedFacts:
        """Start one that takes facts of the kind ``member``."""
        loop: Any = self.loop
        facts = SharedFacts(self.store, self.clock, random.Random(number), self.telemetry, loop)
        taken: list[Any] = []
        self.heard.append(taken)
        facts.on("member", taken.append)
        return facts

    async def pass_on(self, seconds: float = 0.3) -> None:
        """Let what was told go out."""
        for _ in range(8):
            await asyncio.sleep(0)
        self.clock.advance(seconds)
        for _ in range(20):
            await asyncio.sleep(0)


Within = Callable[[Callable[[World], Awaitable[None]]], None]


@pytest.fixture
def within(run_in: Any) -> Within:
    """Run a scenario in a world of its own."""
    return partial(run_in, World)


def resting(rest: float | None = 60.0) -> dict[str, Any]:
    """Return the fact that a model rests."""
    return {"model": "a", "active": False, "rest": rest}


ACTIVE = {"model": "a", "active": True}


def test_a_hundred_facts_in_a_moment_are_two_messages(within: Within) -> None:
    """The first goes at once, the others together a quarter of a second later; of one name the last."""

    async def scenario(world: World) -> None:
        process = world.process()
        process.tell("member", "first", resting)
        await world.pass_on(0.0)
        for number in range(100):
            process.tell("member", f"{number % 10}", lambda number=number: {"number": number})  # type: ignore[misc]
        await world.pass_on(0.24)
        assert len(world.store.messages) == 1
        assert len(world.loop.tasks) == 1
        await world.pass_on(0.02)
        assert len(world.store.messages) == 2
        assert [fact["number"] for _, _, fact in world.store.messages[1]["facts"]] == list(range(90, 100))

    within(scenario)


def test_a_process_that_starts_later_learns_what_holds(within: Within) -> None:
    """A rest is shorter by the time that passed; what has ended is not told, nor what was told in passing."""

    async def scenario(world: World) -> None:
        teller = world.process()
        teller.tell("member", "a", resting, kept=True)
        teller.tell("member", "short", lambda: resting(5.0), kept=True)
        teller.tell("member", "passing", resting)
        await world.pass_on()
        world.clock.advance(20.0)
        later = world.process(1)
        await later.catch_up()
        assert [fact["rest"] for fact in world.heard[1]] == [pytest.approx(39.7)]

    within(scenario)


@pytest.mark.parametrize("rest", [60.0, None], ids=["with an end", "without"])
def test_a_fact_grows_older_while_it_is_kept(within: Within, rest: float | None) -> None:
    """Whoever learns of it later learns since when it holds, and compares that with what it knows itself."""

    async def scenario(world: World) -> None:
        world.process().tell("member", "a", lambda: {**resting(rest), "ago": 5.0}, kept=True)
        await world.pass_on()
        world.clock.advance(20.0)
        await world.process(1).catch_up()
        assert [fact["ago"] for fact in world.heard[1]] == [pytest.approx(25.3)]

    within(scenario)


def test_facts_without_an_end_hold_until_somebody_says_otherwise(within: Within) -> None:
    """A model put aside by hand stays so for whoever comes later; one taken back does not."""

    async def scenario(world: World) -> None:
        teller = world.process()
        teller.tell("member", "a", lambda: resting(None), kept=True)
        await world.pass_on()
        world.clock.advance(40 * 86_400.0)
        await world.process(1).catch_up()
        teller.tell("member", "a", lambda: ACTIVE, kept=True)
        await world.pass_on()
        await world.process(2).catch_up()
        assert world.heard[1:] == [[resting(None)], [ACTIVE]]

    within(scenario)


def test_one_failure_that_all_meet_is_told_once(within: Within) -> None:
    """Ten processes find a provider down at once; the first writes and tells, the others see that it is known."""

    async def scenario(world: World) -> None:
        for process in [world.process(number) for number in range(10)]:
            process.tell("member", "a", resting, kept=True)
        for _ in range(20):
            await world.pass_on(0.1)
        record = await world.store.load(ROUTING_KEY)
        assert record is not None
        assert record.version == 1
        assert len(world.store.messages) == 1

    within(scenario)


@pytest.mark.parametrize("ahead", [3_600.0, -3_600.0], ids=["ahead", "behind"])
def test_a_second_failure_is_told_though_the_first_was_told_by_a_wrong_clock(within: Within, ahead: float) -> None:
    """An hour's difference makes no rest of a minute known for an hour."""

    async def scenario(world: World) -> None:
        wrong, right = world.process(0), world.process(1)
        world.clock.set_time(world.clock.time() + ahead)
        wrong.tell("member", "a", resting, kept=True)
        await world.pass_on()
        world.clock.set_time(world.clock.time() - ahead)
        world.clock.advance(120.0)
        right.tell("member", "a", resting, kept=True)
        await world.pass_on()
        assert len(world.store.messages) == 2

    within(scenario)


@pytest.mark.parametrize(
    ("ahead", "said"),
    [
        pytest.param(90_000.0, "90000 s ahead of", id="ahead"),
        pytest.param(-60.0, "60 s behind", id="behind"),
        pytest.param(4.0, None, id="near enough"),
    ],
)
def test_a_clock_that_is_not_the_stores_is_told_once(within: Within, ahead: float, said: str | None) -> None:
    """Its days begin at another time than everybody else's, which nobody would find out otherwise."""

    async def scenario(world: World) -> None:
        stores = FakeClock(time=world.clock.time() - ahead)
        world.store.bind(context(clock=stores))
        process = world.process()
        for name in "ab":
            process.tell("member", name, resting, kept=True)
            await world.pass_on()
        assert [severity for severity, *_ in world.telemetry.lines] == ["warning"] * (said is not None)
        assert said is None or said in world.telemetry.lines[0][1]

    within(scenario)


def test_a_message_that_comes_late_changes_nothing(within: Within) -> None:
    """The store's versions say which of two facts is the newer one."""

    async def scenario(world: World) -> None:
        teller, hearer = world.process(), world.process(1)
        teller.tell("member", "a", resting, kept=True)
        await world.pass_on()
        teller.tell("member", "a", lambda: ACTIVE, kept=True)
        await world.pass_on()
        await hearer.catch_up()
        for message in world.store.messages:
            hearer._hear(json.dumps(message).encode())
        assert world.heard[1] == [ACTIVE]

    within(scenario)


def test_what_was_heard_is_not_taken_from_the_record_again(within: Within) -> None:
    """A look at the record brings only what is newer than the messages."""

    async def scenario(world: World) -> None:
        teller, hearer = world.process(), world.process(1)
        teller.tell("member", "a", resting, kept=True)
        await world.pass_on()
        hearer._hear(json.dumps(world.store.messages[0]).encode())
        await hearer.catch_up()
        await teller.catch_up()
        assert world.heard == [[], [resting()]]

    within(scenario)


def test_a_record_that_was_deleted_begins_anew(within: Within) -> None:
    """Facts of the new record are taken although its versions are lower."""

    async def scenario(world: World) -> None:
        teller, hearer = world.process(), world.process(1)
        for fact in (resting(), ACTIVE, resting(50.0)):
            teller.tell("member", "a", lambda fact=fact: fact, kept=True)  # type: ignore[misc]
            await world.pass_on()
        await hearer.catch_up()
        await world.store.delete(ROUTING_KEY)
        teller.tell("member", "a", lambda: ACTIVE, kept=True)
        await world.pass_on()
        await hearer.catch_up()
        assert world.heard[1][-1] == ACTIVE

    within(scenario)


@pytest.mark.parametrize("others", [0, 1], ids=["as_far_as_before", "further_than_before"])
@pytest.mark.parametrize("is_heard", [True, False], ids=["heard", "read"])
def test_versions_of_a_record_that_was_lost_order_nothing_in_the_next(
    within: Within, is_heard: bool, others: int
) -> None:
    """A store that came back without its data counts from one again: equal or lower numbers are news all the same."""

    async def scenario(world: World) -> None:
        teller, hearer = world.process(), world.process(1)
        teller.tell("member", "a", resting, kept=True)
        await world.pass_on()
        await hearer.catch_up()
        await world.store.delete(ROUTING_KEY)
        for name, fact in (("a", ACTIVE), ("b", resting(50.0)))[: 1 + others]:
            teller.tell("member", name, lambda fact=fact: fact, kept=True)  # type: ignore[misc]
            await world.pass_on()
        if is_heard:
            hearer._hear(json.dumps(world.store.messages[1]).encode())
        else:
            await hearer.catch_up()
        assert ACTIVE in world.heard[1]

    within(scenario)


def test_a_record_without_a_name_is_given_one_and_its_facts_are_taken(within: Within) -> None:
    """An earlier version began it, and goes on writing and telling in its way."""

    async def scenario(world: World) -> None:
        teller, hearer = world.process(), world.process(1)
        teller.tell("member", "a", resting, kept=True)
        await world.pass_on()
        record = await world.store.load(ROUTING_KEY)
        assert record is not None
        book = json.loads(record.data)
        del book["record"]
        await world.store.save(ROUTING_KEY, json.dumps(book).encode())
        await hearer.catch_up()
        hearer._hear(json.dumps({"from": "old", "facts": [["member:b", 3, ACTIVE]]}).encode())
        hearer.tell("member", "c", resting, kept=True)
        await world.pass_on()
        record = await world.store.load(ROUTING_KEY)
        assert record is not None
        assert (len(world.heard[1]), set(json.loads(record.data))) == (2, {"member:a", "member:c", "record"})

    within(scenario)


def test_what_could_not_be_told_is_told_when_the_store_is_back(within: Within) -> None:
    """As it is then: what is no news any more is not told."""

    async def scenario(world: World) -> None:
        teller = world.process()
        world.store.is_down = True
        teller.tell("member", "a", resting, kept=True)
        teller.tell("member", "passed", lambda: None, kept=True)
        await world.pass_on(0.9)
        world.store.is_down = False
        assert not world.store.messages
        await world.pass_on(0.2)
        await world.pass_on(0.2)
        assert [key for key, _, _ in world.store.messages[0]["facts"]] == ["member:a"]

    within(scenario)


def test_who_told_in_passing_hears_what_others_may_not_have_heard(within: Within) -> None:
    """What the store did not take, and what it took when it was back and others may not have listened yet."""

    async def scenario(world: World) -> None:
        lost: list[Any] = []
        teller = world.process()
        tell = partial(teller.tell, "member", lost=lost.append)
        world.store.is_down = True
        tell("a", lambda: {"model": "a"})
        await world.pass_on()
        assert lost == [{"model": "a"}]
        world.store.is_down = False
        tell("b", lambda: {"model": "b"})
        await world.pass_on(1.1)
        assert len(lost) == 1
        await world.pass_on(HEARING_SECONDS)
        assert lost == [{"model": "a"}, {"model": "b"}]
        tell("c", lambda: {"model": "c"})
        await world.pass_on(HEARING_SECONDS)
        assert (len(world.store.messages), len(lost)) == (2, 2)

    within(scenario)


def test_one_who_fails_at_what_was_not_heard_does_not_end_the_telling(within: Within) -> None:
    """A plugin's error is traced, and the next news go out."""

    async def scenario(world: World) -> None:
        teller = world.process()
        world.store.is_down = True
        teller.tell("member", "a", resting, lost=[].__getitem__)  # type: ignore[arg-type]  # raises a TypeError
        await world.pass_on()
        world.store.is_down = False
        assert world.telemetry.lines[-1][2] == {"error_type": "TypeError"}
        teller.tell("member", "b", resting)
        await world.pass_on()
        assert len(world.store.messages) == 1

    within(scenario)


def test_what_cannot_be_read_is_passed_over(within: Within) -> None:
    """Messages and records of another version end nothing."""

    async def scenario(world: World) -> None:
        await world.store.save(ROUTING_KEY, b'{"member:a": {"is": "other"}}')
        hearer = world.process()
        await hearer.catch_up()
        for message in (b"", b"[]", b'{"from": 1}', b'{"from": "x", "facts": [["member:a", "?", {}]]}'):
            hearer._hear(message)
        hearer.tell("member", "a", resting, kept=True)
        await world.pass_on()
        assert world.heard == [[]]
        assert len(world.store.messages) == 1

    within(scenario)


def test_a_store_that_raises_anything_does_not_end_the_telling(within: Within) -> None:
    """What it did not take is told again, and its type is traced, not its words."""

    async def scenario(world: World) -> None:
        process = world.process()
        world.store.is_down, world.store.fault = True, RuntimeError("password=hunter22")
        process.tell("member", "a", resting, kept=True)
        await world.pass_on()
        assert world.telemetry.lines == [
            ("error", "others could not be told of a move", {"error_type": "RuntimeError"})
        ]
        world.store.is_down = False
        await world.pass_on(1.1)
        assert [fact[0] for fact in world.store.messages[0]["facts"]] == ["member:a"]

    within(scenario)


def test_a_fact_that_cannot_be_put_together_takes_no_other_with_it(within: Within) -> None:
    """It is left out once and for all; the next one of its name is told."""

    async def scenario(world: World) -> None:
        process = world.process()
        process.tell("member", "a", lambda: {"rest": 1 / 0}, kept=True)
        process.tell("member", "b", resting)
        await world.pass_on()
        process.tell("member", "a", resting)
        await world.pass_on()
        told = [fact[0] for message in world.store.messages for fact in message["facts"]]
        assert told == ["member:b", "member:a"]
        assert [line[0] for line in world.telemetry.lines] == ["error"]

    within(scenario)


def test_a_store_that_raises_anything_does_not_end_the_hearing(within: Within) -> None:
    """The record is read again later."""

    async def scenario(world: World) -> None:
        teller, hearer = world.process(), world.process(1)
        teller.tell("member", "a", resting, kept=True)
        await world.pass_on()
        world.store.is_down, world.store.fault = True, RuntimeError("no")
        world.loop.start(hearer.run())
        await world.pass_on()
        world.store.is_down = False
        await world.pass_on(1.1)
        assert [fact["model"] for fact in world.heard[1]] == ["a"]

    within(scenario)
