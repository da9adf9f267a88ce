"""Prepared statements asked over a connection through libpq alone.

psycopg's own way waits for the socket with tasks and timers of its own, which cost more than what the books ask of the
server. Here one callback of the event loop waits, and one timer.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, TypeAlias

import psycopg
from psycopg.pq import ConnStatus, DiagnosticField, ExecStatus

Connection: TypeAlias = psycopg.AsyncConnection[Any]


async def exchange(connection: Connection, name: bytes, values: Sequence[bytes | None], *, within: float) -> bytes:
    """Return the one value that a prepared statement returns.

    Args:
        connection: Nobody else uses it meanwhile.
        name: What the statement was prepared as.
        values: Its parameters, as text.
        within: Seconds; then the connection is cut, as it is when the caller is cancelled.

    Raises:
        psycopg.Error: The server refused, or the connection broke.
        TimeoutError: There was no answer in time.
    """
    link, loop = connection.pgconn, asyncio.get_running_loop()
    answered: asyncio.Future[None] = loop.create_future()
    results: list[Any] = []
    sends = False

    def go_on() -> None:
        nonlocal sends
        if answered.done():
            return
        try:
            link.consume_input()
            if sends and not link.flush():
                sends = False
                loop.remove_writer(number)
            while not link.is_busy():
                result = link.get_result()
                if result is None:
                    answered.set_result(None)
                    return
                results.append(result)
        except psycopg.Error as error:
            # The server's farewell, read before the connection broke, says more.
            answered.set_exception(_refusal(link, results[-1]) if results else error)

    def expire() -> None:
        if not answered.done():
            answered.set_exception(TimeoutError(f"no answer within {within:g} s"))

    link.send_query_prepared(name, values)
    number = link.socket
    loop.add_reader(number, go_on)
    timer = loop.call_later(within, expire)
    whole = False
    try:
        if link.flush():
            sends = True
            loop.add_writer(number, go_on)
        await answered
        whole = True
    finally:
        timer.cancel()
        loop.remove_reader(number)
        if sends:
            loop.remove_writer(number)
        if not whole:
            cut(connection)
    result = results[-1]
    if result.status != ExecStatus.TUPLES_OK:
        raise _refusal(link, result)
    value: bytes | None = result.get_value(0, 0)
    assert value is not None  # the functions return something
    return value


def cut(connection: Connection) -> None:
    """End a connection whatever it waits for; what waits for it ends too.

    Cancelling psycopg asks the server to stop and waits for its answer, which never comes over a connection that is
    dead without having been closed.
    """
    with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.fileno())) as end:
        end.shutdown(socket.SHUT_RDWR)


def _refusal(link: Any, result: Any) -> psycopg.Error:
    """What the server answered, as the error that psycopg has for it."""
    state = (result.error_field(DiagnosticField.SQLSTATE) or b"").decode()
    words = result.get_error_message("utf-8")
    if not state and link.status == ConnStatus.BAD:
        return psycopg.OperationalError(words)
    try:
        return psycopg.errors.lookup(state)(words, info=result)
    except KeyError:
        return psycopg.DatabaseError(words, info=result)
