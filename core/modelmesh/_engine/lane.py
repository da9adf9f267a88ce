"""One connector's way out: a bounded queue, a worker of its own, and a count of what became of each record."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from copy import copy
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from modelmesh.interfaces.runtime import Clock

QUEUE_SIZE = 10_000
BATCH_SIZE = 128
BATCH_WAIT_SECONDS = 0.01
FAILURES_BEFORE_REST = 5
REST_SECONDS = 5.0
REST_LIMIT_SECONDS = 60.0

Record = TypeVar("Record")


class Worker(Protocol):
    """A started thread, or what a simulator puts in its place."""

    def join(self, timeout: float | None = None) -> None:
        """Wait for its end, at most this many seconds."""
        ...


StartWorker = Callable[[Callable[[], None], str], Worker]


def start_thread(run: Callable[[], None], name: str) -> Worker:
    """Start a daemon thread: a connector that hangs must not keep the process alive."""
    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    return thread


@dataclass(slots=True)
class DeliveryCounts:
    """What became of a connector's records: emitted = delivered + failed + dropped + waiting.

    Attributes:
        emitted: Handed over.
        delivered: Taken without an error.
        failed: The connector raised.
        dropped: Its queue was full, or it was resting or closed.
        waiting: In the queue, or with the connector and not settled yet.
    """

    emitted: int = 0
    delivered: int = 0
    failed: int = 0
    dropped: int = 0
    waiting: int = 0


class Trouble(Protocol):
    """Told when a connector is left alone for a while, and when it works again."""

    def __call__(self, counts: DeliveryCounts, *, rest: float | None, error: BaseException | None) -> None:
        """Take note; ``rest`` is in seconds, or None when it works again."""
        ...


class Lane(Generic[Record]):
    """A queue before one connector.

    The worker takes records in batches: it lets a few gather, as waking a thread for each of them would cost a request
    more than the record itself. A connector says with ``batch_size`` and ``batch_wait`` (seconds) how many and how
    long, and may have ``begin_batch()`` and ``end_batch()`` called around them; what `end_batch` raises concerns all
    that were taken since `begin_batch`. Everything a connector has is called from its worker, ``stop_waiting``
    excepted.

    Args:
        connector: Whom it serves.
        deliver: Hands one record to the connector; may raise anything.
        clock: Measures rests.
        queue_size: Records that may wait.
        trouble: Told of rests and recoveries, from the worker.
    """

    def __init__(
        self,
        connector: Any,
        deliver: Callable[[Record], None],
        *,
        clock: Clock,
        queue_size: int = QUEUE_SIZE,
        trouble: Trouble | None = None,
    ) -> None:
        self.connector = connector
        self._deliver = deliver
        self._clock = clock
        self._queue_size = queue_size
        self._trouble = trouble
        self._batch_size: int = max(1, getattr(connector, "batch_size", BATCH_SIZE))
        self._batch_wait: float = getattr(connector, "batch_wait", BATCH_WAIT_SECONDS)
        self._enough = max(1, min(self._batch_size, queue_size // 2))
        self._begin_batch: Callable[[], None] | None = getattr(connector, "begin_batch", None)
        self._end_batch: Callable[[], None] | None = getattr(connector, "end_batch", None)
        self._queue: deque[Record] = deque()
        self._counts = DeliveryCounts()
        self._held = 0
        self._ready = threading.Condition(threading.Lock())
        self._closing = False
        self._closes_connector = False
        self._failures = 0
        self._rest_until = float("-inf")

    # --- handing over ---------------------------------------------------------------

    def offer(self, record: Record) -> None:
        """Queue a record, or drop it when the queue is full or closed; never blocks."""
        with self._ready:
            counts = self._counts
            counts.emitted += 1
            waiting = len(self._queue)
            if self._closing or waiting >= self._queue_size:
                counts.dropped += 1
                return
            self._queue.append(record)
            if waiting == 0 or waiting + 1 == self._enough:
                self._ready.notify()

    def counts(self) -> DeliveryCounts:
        """What became of the records so far."""
        with self._ready:
            counts = copy(self._counts)
            counts.waiting = len(self._queue) + self._held
        return counts

    # --- delivering -----------------------------------------------------------------

    def run(self) -> None:
        """Deliver until the lane is closed and empty; the worker's whole life."""
        while self._await_records():
            self._deliver_batch()
        if self._closes_connector:
            with suppress(BaseException):  # nobody is left to be told
                getattr(self.connector, "close", _nothing)()

    def _await_records(self) -> bool:
        """Wait until enough records are there, or some for long enough; False when no more will come."""
        with self._ready:
            while not self._queue:
                if self._closing:
                    return False
                self._ready.wait()
            if self._batch_wait > 0:
                self._ready.wait_for(lambda: self._closing or len(self._queue) >= self._enough, self._batch_wait)
        return True

    def _deliver_batch(self) -> None:
        begun = False
        taken = 0
        for _ in range(self._batch_size):
            with self._ready:
                if not self._queue:
                    break
                record = self._queue.popleft()
                if self._clock.monotonic() < self._rest_until:
                    self._counts.dropped += 1
                    continue
                self._held += 1
            try:
                if self._begin_batch is not None and not begun:
                    self._begin_batch()
                    begun = True
                self._deliver(record)
            except BaseException as error:  # whatever a connector raises stays with it
                self._failed(1, error)
            else:
                if self._end_batch is None:
                    self._delivered(1)
                else:
                    taken += 1
        if self._end_batch is None or not begun:
            return
        try:
            self._end_batch()
        except BaseException as error:  # as above
            self._failed(taken, error)
        else:
            self._delivered(taken)

    def _delivered(self, number: int) -> None:
        if not number:
            return
        with self._ready:
            self._held -= number
            self._counts.delivered += number
        if self._failures:
            healed = self._failures >= FAILURES_BEFORE_REST
            self._failures = 0
            if healed:
                self._report(None, None)

    def _failed(self, number: int, error: BaseException) -> None:
        with self._ready:
            self._held -= number
            self._counts.failed += number
        self._failures += 1
        if self._failures >= FAILURES_BEFORE_REST:
            # Rests grow, so that a dead sink costs next to nothing, and end, so that one that healed is noticed.
            rest = min(REST_SECONDS * 2 ** min(self._failures - FAILURES_BEFORE_REST, 10), REST_LIMIT_SECONDS)
            self._rest_until = self._clock.monotonic() + rest
            self._report(rest, error)

    def _report(self, rest: float | None, error: BaseException | None) -> None:
        if self._trouble is not None:
            self._trouble(self.counts(), rest=rest, error=error)

    # --- the end --------------------------------------------------------------------

    def close(self, *, connector: bool) -> None:
        """Take nothing more; the worker delivers what waits and ends.

        Args:
            connector: Whether the worker closes the connector after the last record.
        """
        with self._ready:
            self._closing = True
            self._closes_connector = connector
            self._ready.notify_all()
        if connector:
            with suppress(Exception):  # it is a courtesy
                getattr(self.connector, "stop_waiting", _nothing)()

    def abandon(self) -> None:
        """Drop what still waits: the time for it is over."""
        with self._ready:
            self._counts.dropped += len(self._queue)
            self._queue.clear()


def _nothing() -> None:
    """Stand in for what a connector need not have."""
