"""The way from a thread to an event loop."""

from __future__ import annotations

import asyncio
import os
import sys
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Mailbox(Generic[Item]):
    """Hands what other threads put in to a function on an event loop, in order, as `call_soon_threadsafe` would.

    The loop watches a pipe, and one byte in it announces all that lies there: no handle and no context is made for each
    item, and no socket is read until it refuses. Of a claim on a SQLite store that saves a seventh. A loop that watches
    no pipes, such as those of Windows, is called instead.

    Made and closed on its loop. A mailbox whose loop was closed keeps what it is given, and its pipe goes with it.

    Args:
        loop: Where items are received.
        receive: Called with each; raises nothing.

    Raises:
        OSError: No file descriptors are left.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, receive: Callable[[Item], None]) -> None:
        self._loop = weakref.ref(loop)  # whoever keeps mailboxes by loop must not keep the loop alive
        self._receive = receive
        self._items: deque[Item] = deque()
        self._is_announced = False
        self._is_watched = False
        if sys.platform != "win32":  # no loop there watches pipes, though one of them says so
            self._watch(loop)

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        self._bell, self._push = os.pipe()
        self._free = weakref.finalize(self, _close, self._bell, self._push)
        # When the interpreter ends, stores may still be at work to save what there is.
        self._free.atexit = False
        os.set_blocking(self._bell, False)
        try:
            loop.add_reader(self._bell, self._open)
            self._is_watched = True
        except NotImplementedError:
            self._free()

    def put(self, item: Item) -> None:
        """Have an item received; from any thread."""
        self._items.append(item)
        if self._is_announced:
            return  # the loop lowers the flag before it looks, so it sees this one
        self._is_announced = True
        if self._is_watched:
            os.write(self._push, b"!")
        elif (loop := self._loop()) is not None:
            with suppress(RuntimeError):  # it is closed: nobody waits there any more
                loop.call_soon_threadsafe(self._open)

    def close(self) -> None:
        """Hand over what lies there and watch no more; nothing may be put in from now on. Harmless when repeated."""
        self._hand_over()
        if self._is_watched and (loop := self._loop()) is not None:
            loop.remove_reader(self._bell)
        self.leave()

    def leave(self) -> None:
        """Give the pipe back and hand nothing over: the loop was closed, or is another process's, before a fork."""
        if self._is_watched:
            self._is_watched = False
            self._free()

    def _open(self) -> None:
        if self._is_watched:
            with suppress(BlockingIOError):
                os.read(self._bell, 64)
        self._hand_over()

    def _hand_over(self) -> None:
        self._is_announced = False
        while self._items:
            self._receive(self._items.popleft())


def _close(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
