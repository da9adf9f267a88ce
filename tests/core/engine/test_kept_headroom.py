"""What providers said of their limits is written down, sparingly, and known to whoever starts later."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from typing import Any

import pytest

from modelmesh._engine.kept_headroom import KeptHeadroom, Seen, Sighting
from modelmesh._engine.provider_service import ProviderService
from modelmesh.errors import StateStoreError
from modelmesh.interfaces.provider import RateLimitStatus
from modelmesh.interfaces.state_store import StateRecord
from modelmesh.state import ProviderState
from modelmesh_cdk.testing import FakeClock


class Store:
    """Keeps records, and counts how often it was written to."""

    def __init__(self) -> None:
        self.records: dict[str, bytes] = {}
        self.writes = 0
        self.is_down = False

    async def save(self, key: str, data: bytes) -> None:
        if self.is_down:
            raise StateStoreError("down")
        self.records[key] = data
        self.writes += 1

    async def load(self, key: str) -> StateRecord | None:
        if self.is_down:
            raise StateStoreError("down")
        return StateRecord(key, self.records[key], 1, 0.0) if key in self.records else None


class Loop:
    """Keeps what is to run until it is let run."""

    def __init__(self) -> None:
        self.waiting: list[Coroutine[Any, Any, None]] = []

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        self.waiting.append(work)

    def run(self) -> None:
        waiting, self.waiting = self.waiting, []
        for work in waiting:
            asyncio.run(work)  # type: ignore[arg-type]  # a coroutine it is


class Process:
    """One process with one provider, ``p``."""

    def __init__(self, store: Store, clock: FakeClock) -> None:
        telemetry: Any = None
        connector: Any = None
        parts: Any = (store, clock, Loop())
        self.loop: Loop = parts[2]
        self.provider = ProviderService("p", connector, ProviderState(), telemetry=telemetry)
        self.kept = KeptHeadroom(parts[0], {"p": self.provider}, clock, parts[2])
        self.kept.attach()

    def hears(self, remaining: int | None, *, reset: float | None = 30.0) -> None:
        """Take an answer of a provider with 1,000 requests a window, and write what is to be written."""
        self.provider.take_rate_limits(RateLimitStatus(remaining, None, reset, 1_000))
        self.loop.run()


@pytest.fixture
def clock() -> FakeClock:
    """Time that passes when somebody waits."""
    return FakeClock(auto_advance=True)


@pytest.fixture
def store() -> Store:
    """A store of its own."""
    return Store()


def seen(process: Process) -> Seen:
    """Return what is written of the provider."""
    return asyncio.run(process.kept.read())["p"]


def test_a_later_process_knows_what_an_earlier_one_was_told(store: Store, clock: FakeClock) -> None:
    """With as much of the window left as there is by then."""
    Process(store, clock).hears(400)
    clock.advance(10)
    later = Process(store, clock)

    asyncio.run(later.kept.restore())

    assert later.provider.rate_limits == RateLimitStatus(400, None, 20.0, 1_000)
    assert not later.loop.waiting


def test_a_clock_that_was_ahead_makes_no_window_longer(store: Store, clock: FakeClock) -> None:
    """Whatever the difference, nobody keeps away from a provider for longer than it said."""
    Process(store, clock).hears(0)
    clock.set_time(clock.time() - 90_000.0)
    later = Process(store, clock)

    asyncio.run(later.kept.restore())

    assert later.provider.rate_limits == RateLimitStatus(0, None, 30.0, 1_000)


def test_a_window_that_is_over_tells_a_later_process_nothing(store: Store, clock: FakeClock) -> None:
    """All is left again by then."""
    Process(store, clock).hears(0)
    clock.advance(30)
    later = Process(store, clock)

    asyncio.run(later.kept.restore())

    assert later.provider.rate_limits is None
    assert seen(later).as_of(clock.time()) == RateLimitStatus(1_000, None, None, 1_000)


def test_a_thousand_answers_are_written_as_often_as_the_limit_has_steps(store: Store, clock: FakeClock) -> None:
    """One in twenty of the limit is a step."""
    process = Process(store, clock)

    for remaining in range(1_000, 0, -1):
        process.hears(remaining)

    assert store.writes == 20


def test_a_provider_is_written_once_a_second_at_most(store: Store, clock: FakeClock) -> None:
    """With what it said last by then."""
    process = Process(store, clock)
    process.hears(1_000)
    began = clock.monotonic()

    process.provider.take_rate_limits(RateLimitStatus(800, None, 30.0, 1_000))
    process.provider.take_rate_limits(RateLimitStatus(500, None, 30.0, 1_000))
    process.loop.run()

    assert (store.writes, clock.monotonic() - began) == (2, 1.0)
    assert seen(process).newest.status.requests_remaining == 500


def test_what_waits_is_written_at_the_end(store: Store, clock: FakeClock) -> None:
    """A process that asks once and ends tells all the same; the write that waited then does nothing."""
    process = Process(store, clock)
    process.provider.take_rate_limits(RateLimitStatus(800, None, 30.0, 1_000))

    asyncio.run(process.kept.finish())
    process.loop.run()

    assert (store.writes, seen(process).newest.status.requests_remaining) == (1, 800)


def test_a_store_that_is_down_hurts_nobody(store: Store, clock: FakeClock) -> None:
    """The next answer is written again."""
    process = Process(store, clock)
    store.is_down = True
    process.hears(800)
    asyncio.run(process.kept.restore())
    store.is_down = False

    process.hears(400)

    assert seen(process).newest.status.requests_remaining == 400


@pytest.mark.parametrize("record", [b"", b"[]", b"{}", json.dumps({"newest": {"at": 1, "status": {"x": 1}}}).encode()])
def test_a_record_that_cannot_be_read_is_none(store: Store, clock: FakeClock, record: bytes) -> None:
    """It may be of another version."""
    store.records["headroom/p"] = record

    assert asyncio.run(Process(store, clock).kept.read()) == {}


def word(at: float, requests: int | None, tokens: int | None = None, *, reset: float | None = 60.0) -> Sighting:
    """Return what a provider said at a time."""
    return Sighting(at, RateLimitStatus(requests, tokens, reset, 1_000, 10_000))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        pytest.param([word(0, 1_000), word(10, 800)], 50.0, id="twenty-a-second"),
        pytest.param([word(0, 1_000), word(5, 990), word(10, 800)], 50.0, id="over-the-window-so-far"),
        pytest.param([word(0, 1_000, 10_000), word(10, 800, 5_000)], 20.0, id="the-sooner-of-both"),
        pytest.param([word(0, 1_000), word(10, 990)], None, id="not-before-the-reset"),
        pytest.param([word(0, 1_000), word(10, 0)], 10.0, id="nothing-left"),
        pytest.param([word(0, 1_000)], None, id="one-word"),
        pytest.param([word(0, 500), word(10, 900)], None, id="window-began-anew"),
        pytest.param([word(0, 1_000), word(60, 900)], None, id="window-was-over"),
        pytest.param([word(0, 1_000, reset=None), word(301, 900, reset=None)], None, id="too-long-ago"),
        pytest.param([word(0, 1_000, reset=None), word(100, 900, reset=None)], 1_000.0, id="no-reset-said"),
        pytest.param([word(0, None), word(10, None)], None, id="nothing-said"),
    ],
)
def test_the_present_pace_tells_when_it_runs_out(words: list[Sighting], expected: float | None) -> None:
    """If the rest of the window goes as its beginning went."""
    first, *later = words
    state = Seen(first, first)
    for each in later:
        state = state.followed_by(each)

    assert state.runs_out_at() == expected
