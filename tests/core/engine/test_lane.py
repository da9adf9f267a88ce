"""A connector's lane: batches, what they count, and an end that nothing holds up."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from modelmesh._engine.lane import DeliveryCounts, Lane, start_thread
from modelmesh_cdk.testing import FakeClock, wait_until


class Connector:
    """Notes what is done to it; a record that is an error is raised."""

    def __init__(self, **attributes: Any) -> None:
        self.done: list[Any] = []
        self.threads: set[int] = set()
        self.end_error: Exception | None = None
        for name, value in attributes.items():
            setattr(self, name, value)

    def take(self, record: Any) -> None:
        self.threads.add(threading.get_ident())
        if isinstance(record, Exception):
            raise record
        self.done.append(record)

    def close(self) -> None:
        self.threads.add(threading.get_ident())
        self.done.append("close")


class Batching(Connector):
    """Is told where batches begin and end."""

    def begin_batch(self) -> None:
        self.done.append("[")

    def end_batch(self) -> None:
        self.done.append("]")
        if self.end_error is not None:
            raise self.end_error


class Bench:
    """Lanes on a clock that stands still; their workers start when the test says so."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.lanes: list[Lane[Any]] = []
        self.troubles: list[float | None] = []

    def lane(self, connector: Connector, **settings: Any) -> Lane[Any]:
        def trouble(counts: DeliveryCounts, *, rest: float | None, error: BaseException | None) -> None:
            self.troubles.append(rest)

        lane: Lane[Any] = Lane(connector, connector.take, clock=self.clock, trouble=trouble, **settings)
        self.lanes.append(lane)
        return lane

    def finish(self, lane: Lane[Any]) -> tuple[int, int, int, int, int]:
        """Run the lane to its end; return emitted, delivered, failed, dropped and waiting."""
        lane.close(connector=True)
        start_thread(lane.run, "lane").join(10)
        counts = lane.counts()
        return counts.emitted, counts.delivered, counts.failed, counts.dropped, counts.waiting


@pytest.fixture
def bench() -> Iterator[Bench]:
    """No lanes yet."""
    bench = Bench()
    yield bench
    for lane in bench.lanes:
        lane.close(connector=False)


def test_records_come_in_order_and_in_batches(bench: Bench) -> None:
    """Of the size that the connector asks for; the last one may be smaller."""
    connector = Batching(batch_size=2)
    lane = bench.lane(connector)
    for number in range(5):
        lane.offer(number)

    counts = bench.finish(lane)

    assert connector.done == ["[", 0, 1, "]", "[", 2, 3, "]", "[", 4, "]", "close"]
    assert counts == (5, 5, 0, 0, 0)


def test_a_batch_that_cannot_be_ended_has_failed_as_a_whole(bench: Bench) -> None:
    """Records that raised by themselves are counted once."""
    connector = Batching(batch_size=3)
    connector.end_error = OSError("disk full")
    lane = bench.lane(connector)
    for record in (1, ValueError("no"), 3, 4):
        lane.offer(record)

    assert bench.finish(lane) == (4, 0, 4, 0, 0)


def test_records_of_an_open_batch_wait(bench: Bench) -> None:
    """They are neither delivered nor failed until it ends."""
    connector = Batching(batch_size=2)
    lane = bench.lane(connector)
    seen: list[DeliveryCounts] = []
    connector.end_batch = lambda: seen.append(lane.counts())  # type: ignore[method-assign]  # it looks at the lane
    lane = bench.lane(connector)
    for number in range(2):
        lane.offer(number)

    bench.finish(lane)

    assert [(counts.delivered, counts.waiting) for counts in seen] == [(0, 2)]


def test_a_batch_is_begun_only_for_a_record_that_is_delivered(bench: Bench) -> None:
    """A connector that rests is not even told of batches."""
    connector = Batching(batch_size=2)
    lane = bench.lane(connector)
    for _ in range(5):
        lane.offer(ValueError("no"))
    for number in range(5):
        lane.offer(number)

    counts = bench.finish(lane)

    assert connector.done == ["[", "]", "[", "]", "[", "]", "close"]
    assert counts == (10, 0, 5, 5, 0)
    assert bench.troubles == [5.0]


def test_a_full_batch_is_not_waited_for(bench: Bench) -> None:
    """However long batches may take to fill."""
    connector = Batching(batch_size=3, batch_wait=3_600.0)
    lane = bench.lane(connector)
    worker = start_thread(lane.run, "lane")
    for number in range(3):
        lane.offer(number)

    wait_until(lambda: connector.done == ["[", 0, 1, 2, "]"])

    lane.close(connector=True)
    worker.join(10)


def test_a_batch_that_does_not_fill_goes_when_its_time_is_over(bench: Bench) -> None:
    """Of itself, without another record."""
    connector = Batching(batch_size=1_000, batch_wait=0.005)
    lane = bench.lane(connector)
    worker = start_thread(lane.run, "lane")
    lane.offer(1)

    wait_until(lambda: connector.done == ["[", 1, "]"])

    lane.close(connector=True)
    worker.join(10)


def test_closing_ends_the_wait_for_a_batch(bench: Bench) -> None:
    """What gathered is delivered at once."""
    connector = Batching(batch_size=1_000, batch_wait=3_600.0)
    lane = bench.lane(connector)
    worker = start_thread(lane.run, "lane")
    lane.offer(1)

    lane.close(connector=True)
    worker.join(10)

    assert connector.done == ["[", 1, "]", "close"]


def test_no_record_lies_unseen(bench: Bench) -> None:
    """Handed over one by one to a worker that goes to sleep in between."""
    connector = Connector(batch_wait=0.0)
    lane = bench.lane(connector)
    worker = start_thread(lane.run, "lane")

    for number in range(300):
        lane.offer(number)
        wait_until(lambda number=number: len(connector.done) == number + 1)

    lane.close(connector=True)
    worker.join(10)


def test_a_connector_is_only_ever_called_by_its_worker(bench: Bench) -> None:
    """Its end included, so that nothing is closed while it is being used."""
    connector = Connector()
    lane = bench.lane(connector)
    lane.offer(1)

    bench.finish(lane)

    assert len(connector.threads) == 1
    assert threading.get_ident() not in connector.threads


def test_a_connector_that_hangs_when_closed_holds_up_nobody(bench: Bench) -> None:
    """Closing a lane returns at once; the worker is left behind."""
    gate = threading.Event()
    connector = Connector(close=lambda: gate.wait(30))
    lane = bench.lane(connector)
    worker = start_thread(lane.run, "lane")

    lane.close(connector=True)
    worker.join(0.01)

    assert lane.counts().waiting == 0
    gate.set()
    worker.join(10)


@pytest.mark.parametrize("error", [None, RuntimeError("no")], ids=["fine", "raising"])
def test_a_connector_that_waits_is_told_to_stop(bench: Bench, error: Exception | None) -> None:
    """As shutdown begins; what it raises is its own affair."""
    told: list[str] = []

    def stop_waiting() -> None:
        told.append("stop")
        if error is not None:
            raise error

    lane = bench.lane(Connector(stop_waiting=stop_waiting))

    lane.close(connector=True)

    assert told == ["stop"]


def test_who_leaves_is_not_closed(bench: Bench) -> None:
    """A subscriber that unsubscribes goes on with its life."""
    connector = Connector()
    lane = bench.lane(connector)
    lane.offer(1)
    lane.close(connector=False)

    start_thread(lane.run, "lane").join(10)

    assert connector.done == [1]
