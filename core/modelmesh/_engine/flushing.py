"""Hands statistics over every so often, from a thread that sleeps in between and never outlives the mesh."""

from __future__ import annotations

import threading
from collections.abc import Callable

from modelmesh._engine.lane import StartWorker, Worker, start_thread
from modelmesh.interfaces.runtime import Clock


class PeriodicFlush:
    """Calls a function at an interval until it is stopped.

    The thread is a daemon and waits on a condition. A run that takes longer than the interval, or a machine that slept,
    is followed by one run and not by all that were missed.

    Args:
        flush: What is called; whatever it raises goes to ``failed``.
        interval: Seconds from one call to the next.
        clock: Measures them.
        failed: Told of an error; the next call comes all the same.
        start_worker: Starts the thread.
    """

    def __init__(
        self,
        flush: Callable[[], None],
        interval: float,
        *,
        clock: Clock,
        failed: Callable[[Exception], None],
        start_worker: StartWorker = start_thread,
    ) -> None:
        self._flush = flush
        self._interval = interval
        self._clock = clock
        self._failed = failed
        self._wake = threading.Condition()
        self._running = threading.Lock()
        self._stopped = False
        self._due = clock.monotonic() + interval
        self._worker: Worker = start_worker(self._run, "modelmesh-flush")

    def flush_if_due(self) -> float:
        """Flush when it is time to; return the seconds until the next time."""
        left = self._due - self._clock.monotonic()
        if left > 0:
            return left
        with self._running:
            if not self._stopped:
                try:
                    self._flush()
                except Exception as error:
                    self._failed(error)
        now = self._clock.monotonic()
        self._due += self._interval
        if self._due <= now:
            self._due = now + self._interval
        return self._due - now

    def _run(self) -> None:
        while not self._stopped:
            left = self.flush_if_due()
            with self._wake:
                if not self._stopped:
                    # At most an hour at once: the platform's limit for waits is lower than people's for intervals.
                    self._wake.wait(min(left, 3_600.0))

    def stop(self) -> None:
        """Flush no more; returns when no flush is under way. Harmless to repeat."""
        with self._wake:
            self._stopped = True
            self._wake.notify_all()
        with self._running:
            pass
