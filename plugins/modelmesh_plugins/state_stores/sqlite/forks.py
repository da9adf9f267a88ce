"""Forks: no open connection goes along into a child.

SQLite keeps what a process has locked in a table of its own. A fork copies that table, but none of the locks: a child
in whose memory the file counts as locked does not ask the system for it again, the others take the file for theirs
alone, and delete the log with what the child has committed. Nor may the child simply close what it inherited: that
looks for the log by its name and may delete another's, and it waits for ever where a thread that did not come along had
begun.

So the parent closes its connections before it forks, when no thread is at work with one, and both open them anew.
"""

from __future__ import annotations

import os
import sqlite3
import sys
import threading
from pathlib import Path
from weakref import WeakSet

from modelmesh.errors import StateStoreError

PATIENCE = 5.0
"""Seconds a fork waits for the transactions that have begun; they are short."""


class Connection(sqlite3.Connection):
    """A connection that is closed before this process forks.

    Attributes:
        is_open: Whether it was not closed yet.
    """

    is_open = True

    def close(self) -> None:
        """Close it; harmless when repeated."""
        self.is_open = False
        super().close()


class _Gate:
    """Lets transactions and forks happen, but not at once."""

    def __init__(self) -> None:
        self._opened: WeakSet[Connection] = WeakSet()
        self._changed = threading.Condition()
        self._working = 0
        self._forking = 0
        self._is_torn = False

    def add(self, connection: Connection) -> None:
        """Have a connection closed before the next fork."""
        self._opened.add(connection)

    def enter(self, path: Path) -> None:
        """Wait while this process forks, then count as at work."""
        with self._changed:
            if self._is_torn:
                raise StateStoreError(
                    f"{path} cannot be used by this process: SQLite was at work when it was forked;"
                    " fork before the store is used, or start processes by spawn"
                )
            while self._forking:
                self._changed.wait()
            self._working += 1

    def leave(self) -> None:
        """Count no longer as at work."""
        with self._changed:
            self._working -= 1
            if self._forking:
                self._changed.notify_all()

    def before_fork(self) -> None:
        """Wait until nobody is at work and close all connections."""
        with self._changed:
            self._forking += 1
            if self._changed.wait_for(lambda: not self._working, PATIENCE):
                for connection in list(self._opened):
                    connection.close()

    def after_fork(self) -> None:
        """Let the parent go on."""
        with self._changed:
            self._forking -= 1
            self._changed.notify_all()

    def after_fork_in_child(self) -> None:
        """Begin anew: whoever held the lock or was at work is not here, but may have left SQLite in between."""
        self._changed = threading.Condition()
        self._is_torn = self._is_torn or self._working > 0
        self._working = self._forking = 0


_GATE = _Gate()


class at_work:  # noqa: N801 (read as `with at_work(path)`)
    """Everything that opens, uses or closes a connection to a path does so in this context; forks wait for its end.

    A class: a generator's context took a twentieth of each claim.

    Raises:
        StateStoreError: This process was forked, and not even that waiting helped.
    """

    __slots__ = ("_path",)

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        _GATE.enter(self._path)

    def __exit__(self, *_: object) -> None:
        _GATE.leave()


if sys.platform != "win32":
    os.register_at_fork(
        before=_GATE.before_fork,
        after_in_parent=_GATE.after_fork,
        after_in_child=_GATE.after_fork_in_child,
    )


def connect(path: Path | str) -> Connection:
    """Open the file alone.

    Raises:
        sqlite3.Error: It cannot be opened.
    """
    # isolation_level None: transactions begin and end where the callers say so. Each connection is one thread's, but
    # close() of an interpreter that ends, or of one that forks, may come from another.
    connection = sqlite3.connect(path, timeout=0.0, isolation_level=None, check_same_thread=False, factory=Connection)
    _GATE.add(connection)
    return connection
