"""What SQLite fails with, as `StateStoreError` with a remedy."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from modelmesh.errors import StateStoreError
from modelmesh_plugins.state_stores.sqlite.config import SQLiteConfig


def failure(config: SQLiteConfig, error: sqlite3.Error) -> StateStoreError:
    """Say what happened to which file, and what to do."""
    code, path = code_of(error), Path(config.path)
    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
        return StateStoreError(f"{path} is a device or a pipe; name a file under storage.path")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        text = (
            f"another process has kept {path} locked for {config.busy_timeout:g} s;"
            " end it, or raise storage.busy_timeout"
        )
        return StateStoreError(text, retryable=True)
    if code == sqlite3.SQLITE_FULL:
        return StateStoreError(f"no space left for {path}: free some on its disk; nothing was changed", retryable=True)
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH):
        return StateStoreError(f"{path} is read-only: let this user write the file and its folder")
    if code == sqlite3.SQLITE_CANTOPEN:
        return StateStoreError(f"cannot open {path}: {_obstacle(path)}")
    if code == sqlite3.SQLITE_NOTADB:
        return StateStoreError(f"{path} is no SQLite database; name another file under storage.path")
    if code == sqlite3.SQLITE_CORRUPT:
        return StateStoreError(
            f"{path} is damaged; move it aside to begin anew; what can be read, this shows: sqlite3 {path} .recover"
        )
    if code == sqlite3.SQLITE_IOERR:
        text = f"{path} cannot be read or written: {error}; see that its disk has room and works"
        return StateStoreError(text, retryable=True)
    return StateStoreError(f"SQLite failed on {path}: {error}")


def code_of(error: Exception) -> int:
    """Return the primary code, 0 if it is no error of SQLite's; the extended one has more in its upper bytes."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def _obstacle(path: Path) -> str:
    """Say why a file cannot be opened, and what to do; of a link, why what it points to cannot."""
    # Not by Path's methods, which raise where the folder may not be looked into.
    target = os.path.realpath(path)
    folder = os.path.dirname(target)
    if os.path.isdir(target):
        return "it is a folder; name a file under storage.path"
    if not os.path.isdir(folder):
        return f"its folder {folder} does not exist; make it, or name another file under storage.path"
    return "this user has no right to; let it read and write the file and its folder"
