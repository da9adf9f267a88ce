"""A log file that lasts: it rotates, survives being moved away, and never keeps half a line for a whole one."""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

LOOK_SECONDS = 1.0
"""How often it is checked that the path still names the open file."""

RETRY_SECONDS = 60.0
"""How long a rotation that failed is not tried again."""

_DAY = 86_400
_DATED = re.compile(r"\.\d{4}-\d\d-\d\d(?:\.(\d+))?")


class LogFile:
    """Lines at the end of a file.

    Lines are collected by `add` and reach the file with `flush`, in one write. What a flush cannot write is lost and
    raised; the file is then opened anew, and a line that was cut off ends before the next one begins. Not for use by
    two threads at once.

    Args:
        path: The file; missing folders are made.
        append: Whether what is in it stays.
        rotation: ``size``, ``daily`` (by UTC days), or ``never``.
        max_size: Bytes after which ``size`` rotates.
        max_files: Files kept, the current one included.
        monotonic: Seconds, for intervals.
        now: Unix time, for days.

    Raises:
        OSError: The file cannot be opened.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        append: bool = True,
        rotation: Literal["size", "daily", "never"] = "never",
        max_size: int = 10 * 1024**2,
        max_files: int = 5,
        monotonic: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.path = Path(path).expanduser().absolute()
        self.pending_bytes = 0
        self._rotation = rotation
        self._max_size = max_size
        self._max_files = max_files
        self._monotonic = monotonic
        self._now = now
        self._pending: list[str] = []
        self._file = -1
        self._identity = (0, 0)
        self._size = 0
        self._day = 0
        self._is_torn = False
        self._look_at = 0.0
        self._rotate_at = float("-inf")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._open(truncate=not append)

    def __repr__(self) -> str:
        return f"LogFile({str(self.path)!r})"

    # --- writing --------------------------------------------------------------------

    def add(self, line: str) -> None:
        """Collect a line, given without its end."""
        length = 1 + (len(line) if line.isascii() else len(line.encode()))
        if self._rotation != "never" and self._is_due(length):
            self.flush()
            self._rotate()
        self._pending.append(line)
        self.pending_bytes += length

    def flush(self) -> None:
        """Write what was collected.

        Raises:
            OSError: It could not be written, or not all of it, and is lost.
        """
        if not self._pending:
            return
        self._pending.append("")
        data = "\n".join(self._pending).encode()
        self._pending.clear()
        self.pending_bytes = 0
        try:
            self._look()
            self._write(b"\n" + data if self._is_torn else data)
        except OSError:
            self._close()  # a handle on a network drive that went away never recovers; a new one may
            raise
        self._is_torn = False

    def _write(self, data: bytes) -> None:
        left = memoryview(data)
        try:
            while left:
                written = os.write(self._file, left)
                self._size += written
                left = left[written:]
        except OSError:
            written = len(data) - len(left)
            if written:
                self._is_torn = data[written - 1 : written] != b"\n"
            raise

    def close(self) -> None:
        """Write what was collected and let go of the file; harmless to repeat. Writing again opens it again."""
        try:
            self.flush()
        finally:
            self._close()

    # --- the file -------------------------------------------------------------------

    def _open(self, *, truncate: bool = False) -> None:
        with suppress(FileNotFoundError):
            if stat.S_ISFIFO(os.stat(self.path).st_mode):  # opening it would wait for a reader
                raise OSError(22, "it is a named pipe", str(self.path))
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
        self._file = os.open(self.path, flags | (os.O_TRUNC if truncate else 0), 0o666)
        found = os.fstat(self._file)
        if not stat.S_ISREG(found.st_mode):
            self._rotation = "never"  # a terminal or /dev/stdout
        self._identity = (found.st_dev, found.st_ino)
        self._size = found.st_size
        self._day = int((found.st_mtime if found.st_size else self._now()) // _DAY)
        self._look_at = self._monotonic() + LOOK_SECONDS

    def _close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _look(self) -> None:
        """Open the file, or open it anew when somebody moved or removed it."""
        if self._file < 0:
            self._open()
        now = self._monotonic()
        if now < self._look_at:
            return
        self._look_at = now + LOOK_SECONDS
        try:
            found = os.stat(self.path)
        except FileNotFoundError:
            is_same = False
        else:
            is_same = (found.st_dev, found.st_ino) == self._identity
            if is_same:
                self._size = found.st_size  # another process may write to it, or have emptied it
        if not is_same:
            self._close()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._open()
            self._is_torn = False

    # --- rotation -------------------------------------------------------------------

    def _is_due(self, more: int) -> bool:
        size = self._size + self.pending_bytes
        due = size + more > self._max_size if self._rotation == "size" else self._now() // _DAY > self._day
        return due and size > 0 and self._monotonic() >= self._rotate_at

    def _rotate(self) -> None:
        """Move the file aside and begin a new one; when that cannot be, go on with the old one."""
        self._close()
        try:
            self._move_aside()
        except OSError:
            self._rotate_at = self._monotonic() + RETRY_SECONDS
        self._open()
        self._day = int(self._now() // _DAY)

    def _move_aside(self) -> None:
        if self._max_files == 1:
            self.path.unlink(missing_ok=True)
        elif self._rotation == "daily":
            self._move_to_date()
        else:
            for number in range(self._max_files - 1, 0, -1):
                source = self.path if number == 1 else self._numbered(number - 1)
                with suppress(FileNotFoundError):
                    os.replace(source, self._numbered(number))

    def _numbered(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}")

    def _move_to_date(self) -> None:
        date = datetime.fromtimestamp(self._day * _DAY, UTC).date().isoformat()
        target = self.path.with_name(f"{self.path.name}.{date}")
        number = 1
        while target.exists():
            number += 1
            target = self.path.with_name(f"{self.path.name}.{date}.{number}")
        os.replace(self.path, target)
        for old in self._dated()[: -(self._max_files - 1)]:
            old.unlink(missing_ok=True)

    def _dated(self) -> list[Path]:
        """Files of earlier days, oldest first."""
        name = self.path.name
        found: list[tuple[str, int, Path]] = []
        for path in self.path.parent.iterdir():
            if path.name.startswith(name):
                match = _DATED.fullmatch(path.name[len(name) :])
                if match is not None:
                    found.append((path.name[len(name) : len(name) + 11], int(match[1] or 1), path))
        return [path for _, _, path in sorted(found)]
