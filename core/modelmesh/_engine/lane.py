"""One connector's way out: a bounded queue, a worker of its own, and a count of what became of each record."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from modelmesh.interfaces.runtime import Clock

QUEUE_SIZE = 10_000
BATCH_SIZE = 256
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
        self._trouble = trouble
        self._batch_size: int = max(1, getattr(connector, "batch_size", BATCH_SIZE))
        self._batch_wait: float = getattr(connector, "batch_wait", BATCH_WAIT_SECONDS)
        self._enough = max(1, min(self._batch_size, queue_size // 2))
        self._begin_batch: Callable[[], None] | None = getattr(connector, "begin_batch", None)
        self._end_batch: Callable[[], None] | None = getattr(connector, "end_batch", None)
        self._queue: deque[Record] = deque()
        self._room = queue_size
        self._ready = threading.Condition()
        self._idle = self._gathering = False
        # Whoever hands over counts what did not get in, under the lock; all else is counted by the worker alone.
        self._refused = 0
        self._delivered = self._failed = self._dropped = self._held = 0
        self._closing = False
        self._closes_connector = False
        self._failures = 0
        self._rest_until = float("-inf")

    # --- handing over ---------------------------------------------------------------

    def offer(self, record: Record) -> None:
        """Queue a record, or drop it when the queue is full or closed; never blocks."""
        # Without a lock: a deque takes and gives up items as a whole, and a request must not wait for the worker. Many
        # threads at once may put in one each beyond the limit.
        queue = self._queue
        if len(queue) >= self._room:
            with self._ready:
                self._refused += 1
            return
        queue.append(record)
        if self._idle or (self._gathering and len(queue) >= self._enough):
            with self._ready:
                self._idle = self._gathering = False
                self._ready.notify()

    def counts(self) -> DeliveryCounts:
        """What became of the records so far; while records are on their way, a moment's view."""
        with self._ready:
            waiting = len(self._queue) + self._held
            dropped = self._dropped + self._refused
            return DeliveryCounts(
                emitted=self._delivered + self._failed + dropped + waiting,
                delivered=self._delivered,
                failed=self._failed,
                dropped=dropped,
                waiting=waiting,
            )

    # --- delivering -----------------------------------------------------------------

    def run(self) -> None:
        """Deliver until the lane is closed and empty; the worker's whole life."""
        while self._await_records():
            self._deliver_batch()
        if self._closes_connector:
            close_connector(self.connector)

    def _await_records(self) -> bool:
        """Wait until enough records are there, or some for long enough; False when no more will come."""
        with self._ready:
            # Set before the queue is looked at, as the queue is filled before this is looked at: no record lies unseen.
            self._idle = True
            while not self._queue:
                if self._closing:
                    return False
                self._ready.wait()
                self._idle = True
            self._idle = False
            if self._batch_wait > 0:
                self._gathering = True
                self._ready.wait_for(lambda: self._closing or len(self._queue) >= self._enough, self._batch_wait)
                self._gathering = False
        return True

    def _deliver_batch(self) -> None:
        begun = False
        taken = 0
        queue, deliver, monotonic = self._queue, self._deliver, self._clock.monotonic
        for _ in range(self._batch_size):
            self._held += 1
            try:
                record = queue.popleft()
            except IndexError:
                self._held -= 1
                break
            if monotonic() < self._rest_until:
                self._held -= 1
                self._dropped += 1
                continue
            try:
                if self._begin_batch is not None and not begun:
                    self._begin_batch()
                    begun = True
                deliver(record)
            except BaseException as error:  # whatever a connector raises stays with it
                self._lose(1, error)
            else:
                if self._end_batch is None:
                    self._settle(1)
                else:
                    taken += 1
        if self._end_batch is None or not begun:
            return
        try:
            self._end_batch()
        except BaseException as error:  # as above
            self._lose(taken, error)
        else:
            self._settle(taken)

    def _settle(self, number: int) -> None:
        if not number:
            return
        self._held -= number
        self._delivered += number
        if self._failures:
            healed = self._failures >= FAILURES_BEFORE_REST
            self._failures = 0
            if healed:
                self._report(None, None)

    def _lose(self, number: int, error: BaseException) -> None:
        self._held -= number
        self._failed += number
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
            self._room = 0
            self._closes_connector = connector
            self._ready.notify_all()
        if connector:
            with suppress(Exception):  # it is a courtesy
                getattr(self.connector, "stop_waiting", _nothing)()

    def abandon(self) -> None:
        """Drop what still waits: the time for it is over."""
        with suppress(IndexError):
            while True:
                self._queue.popleft()
                with self._ready:
                    self._refused += 1


def close_connector(connector: Any) -> None:
    """Close a connector that can be closed; whatever it raises, nobody is left to be told."""
    with suppress(BaseException):
        getattr(connector, "close", _nothing)()


def _nothing() -> None:
    """Stand in for what a connector need not have."""
