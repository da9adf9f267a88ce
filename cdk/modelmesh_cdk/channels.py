"""Messages to whoever listens in this process, over event loops and threads."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import suppress
from weakref import WeakSet

BACKLOG = 1_000
"""Messages that wait for one subscriber; beyond that the oldest are dropped, as delivery is at most once."""


class Subscription:
    """What one subscriber has not read yet.

    Attributes:
        after: Where messages have places in a row, the last place this one has had; None until that is known.
    """

    def __init__(self) -> None:
        self.after: int | None = None
        self._messages: deque[bytes] = deque(maxlen=BACKLOG)
        self._ended = False
        self._error: BaseException | None = None
        self._waiting: tuple[asyncio.AbstractEventLoop, asyncio.Future[None]] | None = None
        self._lock = threading.Lock()

    def put(self, message: bytes) -> None:
        """Hand over a message, from any thread."""
        with self._lock:
            self._messages.append(message)
            self._wake()

    def end(self, error: BaseException | None = None) -> None:
        """Let the subscriber stop after what it has, or fail."""
        with self._lock:
            self._ended, self._error = True, error
            self._wake()

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """Yield each message once; one reader only."""
        while True:
            while self._messages:
                yield self._messages.popleft()
            with self._lock:
                if self._messages:
                    continue
                if self._error is not None:
                    raise self._error
                if self._ended:
                    return
                loop = asyncio.get_running_loop()
                woken = loop.create_future()
                self._waiting = (loop, woken)
            await woken

    def _wake(self) -> None:
        if self._waiting is None:
            return
        (loop, woken), self._waiting = self._waiting, None

        def wake() -> None:
            if not woken.done():
                woken.set_result(None)

        with suppress(RuntimeError):  # its loop is closed: nobody listens there any more
            loop.call_soon_threadsafe(wake)


class Channels:
    """Subscribers by channel. A subscription lasts as long as somebody holds its generator, begun or not."""

    def __init__(self) -> None:
        self._listeners: dict[str, WeakSet[Subscription]] = {}
        self._lock = threading.Lock()

    def publish(self, channel: str, message: bytes) -> None:
        """Hand a message to everybody who listens now, from any thread; never blocks."""
        for listener in self.of(channel):
            listener.put(message)

    def subscribe(self, channel: str) -> AsyncGenerator[bytes, None]:
        """Yield what is published from now on."""
        return self.add(channel).stream()

    def add(self, channel: str) -> Subscription:
        """Put in a subscriber, who listens as long as it, or its stream, is held."""
        listener = Subscription()
        with self._lock:
            self._listeners.setdefault(channel, WeakSet()).add(listener)
        return listener

    def listened(self) -> list[str]:
        """Channels somebody listens to."""
        with self._lock:
            for channel in [name for name, listeners in self._listeners.items() if not len(listeners)]:
                del self._listeners[channel]
            return list(self._listeners)

    def close(self) -> None:
        """End all subscriptions."""
        for channel in self.listened():
            for listener in self.of(channel):
                listener.end()

    def of(self, channel: str) -> list[Subscription]:
        """Who listens to a channel now."""
        with self._lock:
            return list(self._listeners.get(channel, ()))
