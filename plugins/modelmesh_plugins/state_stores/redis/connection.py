"""One connection to the server for all tasks of an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

from redis.asyncio.connection import AbstractConnection, Connection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError, ResponseError

from modelmesh.errors import StateStoreError
from modelmesh_cdk.batches import Batches
from modelmesh_plugins.state_stores.redis.commands import Command, load
from modelmesh_plugins.state_stores.redis.config import RedisConfig
from modelmesh_plugins.state_stores.redis.failures import code_of, failure

CLOSING_SECONDS = 1.0
_RECONNECT = frozenset({"READONLY", "MOVED", "MASTERDOWN"})
"""Refusals after which a name may lead to another server: the connection is opened anew."""


class Wire:
    """Sends commands in batches over one connection, which is opened when it is needed and again when it broke."""

    def __init__(self, config: RedisConfig) -> None:
        self._config = config
        self._place = config.place()
        self._connection: AbstractConnection | None = None
        self._batches: Batches[Command, Any] = Batches(self._carry_out)
        self._first_wait = config.connect_timeout  # until a first connection was tried

    async def run(self, command: Command) -> Any:
        """Return the server's answer.

        Raises:
            StateStoreError: There was none, or it was a refusal.
        """
        try:
            return await self._batches.ask(command, within=self._config.timeout + self._first_wait)
        except (RedisError, OSError) as error:  # TimeoutError is an OSError
            raise failure(self._place, error) from error

    async def run_all(self, commands: Iterable[Command]) -> list[Any]:
        """Return the server's answer to each, or the `StateStoreError` that `run` would have raised."""
        outcomes = await self._batches.ask_all(commands, within=self._config.timeout + self._first_wait)
        return [
            failure(self._place, outcome) if isinstance(outcome, RedisError | OSError) else outcome
            for outcome in outcomes
        ]

    async def close(self) -> None:
        """Let what is out come back, and close the connection."""
        await self._batches.end(CLOSING_SECONDS)
        connection, self._connection = self._connection, None
        if connection is not None:
            await disconnect(connection, wait=True)

    def abandon(self) -> None:
        """Close the connection without its loop, which is closed or will not run again."""
        connection, self._connection = self._connection, None
        if connection is not None:
            abandon(connection)

    # --- a batch ------------------------------------------------------------------------------

    async def _carry_out(self, batch: Sequence[Command]) -> Sequence[Any]:
        connection, fresh = await self._connected()
        answers = await self._exchange(connection, batch)
        again = [
            place
            for place, answer in enumerate(answers)
            if isinstance(answer, NoScriptError)
            or (_is_broken(answer) and batch[place].repeatable and not fresh and not isinstance(answer, TimeoutError))
        ]
        if again:
            for place, answer in zip(again, await self._repeat([batch[place] for place in again]), strict=True):
                answers[place] = answer
        if any(isinstance(answer, ResponseError) and code_of(answer) in _RECONNECT for answer in answers):
            await self._drop()
        return answers

    async def _repeat(self, batch: Sequence[Command]) -> Sequence[Any]:
        """Carry out what the server did not, with the scripts it needs for it."""
        try:
            connection, _ = await self._connected()
        except (RedisError, OSError) as error:
            return [error] * len(batch)  # the rest of its batch has been answered
        # In one piece, so that scripts that somebody flushes again are there while they are called.
        loads = [load(script) for script in {command.script for command in batch} if script is not None]
        answers = await self._exchange(connection, [*loads, *batch])
        refused = next((each for each in answers[: len(loads)] if isinstance(each, Exception)), None)
        return [
            refused if refused is not None and isinstance(answer, NoScriptError) else answer
            for answer in answers[len(loads) :]
        ]

    async def _exchange(self, connection: AbstractConnection, batch: Sequence[Command]) -> list[Any]:
        """Return the answer to each command; those that a broken connection cost are the exception it broke with."""
        answers: list[Any] = []
        try:
            async with asyncio.timeout(self._config.timeout):
                await connection.send_packed_command(b"".join([command.packed for command in batch]))
                while len(answers) < len(batch):
                    try:
                        answers.append(await connection.read_response())
                    except ResponseError as error:
                        answers.append(error)
        except (RedisError, OSError) as error:
            await self._drop()
            answers += [error] * (len(batch) - len(answers))
        except BaseException:
            await self._drop()
            raise
        return answers

    # --- the connection -----------------------------------------------------------------------

    async def _connected(self) -> tuple[AbstractConnection, bool]:
        """Return the connection, and whether it was opened just now."""
        connection = self._connection
        if connection is not None:
            # While nothing is asked nothing is to come: what did is the end of the connection.
            if connection.is_connected and not await _is_over(connection):
                return connection, False
            await self._drop()
        connection = make_connection(self._config)
        try:
            async with asyncio.timeout(self._config.connect_timeout):
                await connection.connect()  # type: ignore[no-untyped-call]  # redis-py's has no annotation
        except BaseException:
            await disconnect(connection)
            raise
        finally:
            self._first_wait = 0.0
        self._connection = connection
        return connection, True

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await disconnect(connection)


def make_connection(config: RedisConfig) -> AbstractConnection:
    """Return a connection that is not open yet; it tries nothing twice of itself, since callers decide that."""
    options = config.options()
    kind: type[AbstractConnection] = options.pop("connection_class", Connection)
    return kind(
        **options,
        socket_connect_timeout=config.connect_timeout,
        socket_timeout=None,  # each batch has one limit of its own
        retry=Retry(NoBackoff(), 0),
        client_name="modelmesh",
        protocol=2,
    )


def _is_broken(answer: Any) -> bool:
    return isinstance(answer, RedisError | OSError) and not isinstance(answer, ResponseError | StateStoreError)


async def _is_over(connection: AbstractConnection) -> bool:
    try:
        look = getattr(connection, "can_read", None) or connection.can_read_destructive  # until redis-py 8
        return bool(await look())
    except (RedisError, OSError):
        return True


async def disconnect(connection: AbstractConnection, *, wait: bool = False) -> None:
    """Close a connection; ``wait`` for its socket to be closed, for a loop that ends next."""
    with suppress(RedisError, OSError):
        await connection.disconnect(nowait=not wait)


def abandon(connection: AbstractConnection) -> None:
    """Close a connection's socket without its loop, which is closed or will not run again.

    A transport is closed by a callback of its loop; a closed loop takes none, so what it would call is called here.
    """
    writer, connection._writer, connection._reader = connection._writer, None, None
    if writer is None:
        return
    transport: Any = writer.transport
    try:
        transport.abort()
    except RuntimeError:  # the loop is closed
        beneath = getattr(getattr(transport, "_ssl_protocol", None), "_transport", transport)
        with suppress(RuntimeError):  # from whoever would be told over that loop; the socket is closed whatever they do
            beneath._call_connection_lost(None)
