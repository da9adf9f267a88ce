"""How commands read what comes through a pipe, and write files.

A file is written whole or not at all, so that a full disk does not cost what stood there before.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
import sys
from contextlib import suppress
from pathlib import Path

import click

PIPED = "<stdin>"
"""What messages call the file that comes through a pipe."""

_NOT_REPLACED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EBUSY)
"""What a folder answers that lets no other file take the place of one."""


def read_piped() -> bytes:
    """Return all that comes through the standard input.

    Raises:
        click.ClickException: There is none.
    """
    if sys.stdin is None:  # closed by whoever started this
        raise click.ClickException("there is no standard input to read")
    return sys.stdin.buffer.read()


def write_whole(path: Path, text: str) -> None:
    """Write a text to a file in UTF-8; where that fails, a file that was there before is as it was.

    It is written beside its place and put there when it is complete. What is no file, such as a pipe or a terminal, is
    written to directly; so is what this process prints into already (``/dev/stdout``), and a file that cannot be
    replaced, since its folder is not writable or it is mounted by itself.

    Args:
        path: Of the file; a link is followed.
        text: What it is to hold.

    Raises:
        OSError: It cannot be written.
    """
    data = text.encode("utf-8")
    target = Path(os.path.realpath(path))
    try:
        there = path.stat()
    except FileNotFoundError:
        there = None
    if there is not None:
        if not stat.S_ISREG(there.st_mode) or _is_printed_into(there):
            path.write_bytes(data)
            return
        # Refused here if it may not be written to: to put another in its place asks for leave of the folder alone.
        os.close(os.open(target, os.O_WRONLY))
    try:
        _replace(target, data, mode=None if there is None else stat.S_IMODE(there.st_mode))
    except OSError as error:
        if there is None or error.errno not in _NOT_REPLACED:
            raise
        target.write_bytes(data)


def _replace(target: Path, data: bytes, *, mode: int | None) -> None:
    beside = target.with_name(f".modelmesh-{secrets.token_hex(8)}.tmp")
    try:
        with beside.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # a full disk is noticed as late as this on some file systems
        if mode is not None:
            beside.chmod(mode)
        beside.replace(target)
    except BaseException:
        with suppress(OSError):
            beside.unlink()
        raise


def _is_printed_into(there: os.stat_result) -> bool:
    for descriptor in (1, 2):
        try:
            if os.path.samestat(there, os.fstat(descriptor)):
                return True
        except OSError:  # closed by whoever started this
            continue
    return False
