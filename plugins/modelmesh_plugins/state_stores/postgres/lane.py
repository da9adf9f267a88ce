"""One connection to the server, opened when it is needed and again when it broke."""

from __future__ import annotations

import asyncio
import select
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TypeVar

import psycopg

from modelmesh_plugins.state_stores.postgres.config import PostgresConfig
from modelmesh_plugins.state_stores.postgres.exchange import Connection, cut, exchange
from modelmesh_plugins.state_stores.postgres.failures import ELSEWHERE, NOT_DONE, state_of
from modelmesh_plugins.state_stores.postgres.migrations import migrate

Result = TypeVar("Result")

LONGEST_STATEMENT = 10.0
"""Seconds after which the server stops a statement that nobody waits for any more."""


class Lane:
    """A connection for one task at a time.

    Args:
        config: The store's settings.
        prepare: Called once for each new connection, after the schema was seen to.
        listens: Whether the connection is told of things unasked.
    """

    def __init__(
        self,
        config: PostgresConfig,
        *,
        prepare: Callable[[Connection], Awaitable[object]] | None = None,
        listens: bool = False,
    ) -> None:
        self._config = config
        self._prepare = prepare
        self._listens = listens
        self._connection: Connection | None = None

    async def run(self, work: Callable[[Connection], Awaitable[Result]], *, within: float, repeatable: bool) -> Result:
        """Return what the work makes of the connection.

        Args:
            work: One transaction, or less.
            within: Seconds; then the connection is cut, which ends the work.
            repeatable: Whether the work may be done twice when the connection broke and nobody knows if it was done.

        Raises:
            psycopg.Error: The server refused; or OSError, TimeoutError.
        """
        return await self._tried(lambda connection: _limited(connection, work, within), repeatable)

    async def call(self, name: bytes, values: Sequence[bytes | None], *, within: float, repeatable: bool) -> bytes:
        """Return the one value of a statement that ``prepare`` prepared; otherwise as `run`."""
        return await self._tried(lambda connection: exchange(connection, name, values, within=within), repeatable)

    async def close(self) -> None:
        """Close the connection."""
        await self._drop()

    def abandon(self) -> None:
        """Close the connection without its loop, which is closed or will not run again."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.pgconn.finish()

    async def _tried(self, work: Callable[[Connection], Awaitable[Result]], repeatable: bool) -> Result:
        connection, fresh = await self._connected()
        try:
            return await work(connection)
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            if not is_broken(connection):
                raise
            await self._drop()
            if fresh or not (repeatable or state_of(error) in NOT_DONE):
                raise
        except psycopg.Error as error:
            if state_of(error) in ELSEWHERE:
                await self._drop()
            raise
        connection, _ = await self._connected()
        return await work(connection)

    async def _connected(self) -> tuple[Connection, bool]:
        """Return the connection, and whether it was opened just now."""
        if self._connection is not None:
            # While nothing is asked nothing is to come: what did is the end of the connection. One that listens shows
            # its end when it is used.
            if not is_broken(self._connection) and (self._listens or not _has_something(self._connection)):
                return self._connection, False
            await self._drop()
        async with asyncio.timeout(self._config.connect_timeout):
            connection = await psycopg.AsyncConnection.connect(
                **{"application_name": "modelmesh", **self._config.options()}, autocommit=True
            )
        try:
            await _limited(connection, self._begin, self._config.connect_timeout)
        except BaseException:
            await connection.close()
            raise
        self._connection = connection
        return connection, True

    async def _begin(self, connection: Connection) -> None:
        # Plans are made while the tables are small, and kept: they have to go by the indexes from the beginning. An
        # older server thinks that so dear where there is no index that it would compile the statement.
        # A server that waits for rows does not see that its connection was cut: it waits no longer than whoever asked.
        await connection.execute(
            "SELECT set_config('synchronous_commit', %s, false), set_config('statement_timeout', %s, false),"
            " set_config('idle_in_transaction_session_timeout', %s, false), set_config('lock_timeout', %s, false),"
            " set_config('default_transaction_isolation', 'read committed', false),"
            " set_config('client_encoding', 'UTF8', false),"
            " set_config('enable_seqscan', 'off', false), set_config('jit', 'off', false)",
            (
                "on" if self._config.synchronous_commit else "off",
                f"{int(LONGEST_STATEMENT * 1_000)}",
                f"{int(LONGEST_STATEMENT * 1_000)}",
                f"{max(1, int(self._config.timeout * 1_000))}",
            ),
        )
        await migrate(connection, self._config.schema_name)
        if self._prepare is not None:
            await self._prepare(connection)

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(psycopg.Error, OSError):
                await connection.close()


def is_broken(connection: Connection) -> bool:
    """Whether nothing more can be asked over it."""
    return connection.closed or connection.broken


async def _limited(connection: Connection, work: Callable[[Connection], Awaitable[Result]], within: float) -> Result:
    """Do the work; cut the connection when it takes too long, or when the caller is cancelled."""
    doing = asyncio.ensure_future(work(connection))
    try:
        done, _ = await asyncio.wait({doing}, timeout=within)
        if not done:
            cut(connection)
            await asyncio.wait({doing}, timeout=1.0)
            raise TimeoutError(f"no answer within {within:g} s")
        return doing.result()
    finally:
        if not doing.done():
            # It ends with the connection. Were it cancelled, psycopg would ask the server in vain to stop it, and log
            # that it did.
            cut(connection)
            _, going = await asyncio.wait({doing}, timeout=1.0)
            if going:
                doing.cancel()
                await asyncio.wait(going, timeout=1.0)
        if doing.done() and not doing.cancelled():
            doing.exception()  # it was seen, whether or not it is what is raised


def _has_something(connection: Connection) -> bool:
    try:
        if not hasattr(select, "poll"):
            return bool(select.select([connection], [], [], 0)[0])
        look = select.poll()
        look.register(connection.fileno(), select.POLLIN)
        return bool(look.poll(0))
    except (OSError, ValueError, psycopg.Error):
        return True
