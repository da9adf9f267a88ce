"""What the tasks of one event loop ask of the database."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

import psycopg
from psycopg.sql import SQL, Composed, Identifier
from psycopg.types.json import Jsonb

from modelmesh.errors import StateStoreError
from modelmesh_cdk.batches import Batches
from modelmesh_plugins.state_stores.postgres.config import PostgresConfig
from modelmesh_plugins.state_stores.postgres.failures import AGAIN, failure, state_of
from modelmesh_plugins.state_stores.postgres.lane import Connection, Lane
from modelmesh_plugins.state_stores.postgres.listener import Listener

CLOSING_SECONDS = 1.0
SWEEP_SECONDS = 60.0
"""How often what nobody needs any more is removed."""
TRIES = 8
"""How often a transaction is tried that others' changes keep from being made."""


@dataclass(frozen=True, slots=True)
class Posting:
    """One operation on the books.

    Attributes:
        operation: As the server's function takes it.
        windows: Window accounts it claims on.
        rates: Rate accounts it claims on.
        closing: Reservation it settles or releases.
        repeatable: Whether carrying it out twice does what once does.
    """

    operation: tuple[Any, ...]
    windows: tuple[str, ...] = ()
    rates: tuple[str, ...] = ()
    closing: str = ""
    repeatable: bool = False


@dataclass(frozen=True, slots=True)
class Query:
    """One statement, and whether making it twice does what once does."""

    statement: Composed
    values: tuple[Any, ...]
    repeatable: bool = False


class Database:
    """Connections of one event loop: one for the books, some for records, one while somebody listens."""

    def __init__(self, config: PostgresConfig) -> None:
        self._config = config
        self._place = config.place()
        schema = Identifier(config.schema_name)
        self._ledger_call = SQL("SELECT {}.ledger(%s, %s::text[], %s::text[], %s::text[])").format(schema)
        self._sweep_call = SQL("SELECT {}.sweep()").format(schema)
        self._books = Lane(config)
        self._records = [Lane(config) for _ in range(config.connections)]
        self._postings: Batches[Posting, Any] = Batches(self._post)
        self._queries: Batches[Query, Any] = Batches(self._query, limit=1, lanes=config.connections)
        self._sweep_at = 0.0
        self._first_wait = config.connect_timeout  # until a first answer, or error, came
        self.listener = Listener(config)

    async def post(self, posting: Posting) -> Any:
        """Return the answer of an operation on the books.

        Raises:
            StateStoreError: There was none, or it was a refusal.
        """
        return await self._ask(self._postings.ask(posting, within=self._config.timeout + self._first_wait))

    async def query(self, query: Query) -> Any:
        """Return a statement's rows.

        Raises:
            StateStoreError: There was no answer, or it was a refusal.
        """
        return await self._ask(self._queries.ask(query, within=self._config.timeout + self._first_wait))

    async def close(self) -> None:
        """Let what is out come back, and close the connections."""
        await self.listener.close()
        await self._postings.end(CLOSING_SECONDS)
        await self._queries.end(CLOSING_SECONDS)
        for lane in (self._books, *self._records):
            await lane.close()

    async def _ask(self, answer: Awaitable[Any]) -> Any:
        try:
            return await answer
        except (psycopg.Error, OSError, StateStoreError) as error:  # TimeoutError is an OSError
            # The error may have befallen a whole batch: each task raises one of its own.
            raise failure(self._place, error) from error
        finally:
            self._first_wait = 0.0

    # --- the books ------------------------------------------------------------------------------

    async def _post(self, batch: Sequence[Posting]) -> Sequence[Any]:
        await self._sweep()
        values = (
            Jsonb([posting.operation for posting in batch]),
            sorted({account for posting in batch for account in posting.windows}),
            sorted({account for posting in batch for account in posting.rates}),
            sorted({posting.closing for posting in batch if posting.closing}),
        )

        async def call(connection: Connection) -> Sequence[Any]:
            row = await (await connection.execute(self._ledger_call, values)).fetchone()
            assert row is not None  # a function returns a row
            return cast("Sequence[Any]", row[0])

        repeatable = all(posting.repeatable for posting in batch)
        answers: Sequence[Any] = await self._persist(self._books, call, repeatable)
        return answers

    async def _sweep(self) -> None:
        now = asyncio.get_running_loop().time()
        if now < self._sweep_at:
            return
        # Many processes sweep the same: not all at the same time.
        first = not self._sweep_at
        self._sweep_at = now + SWEEP_SECONDS * random.uniform(0.5, 1.5)  # noqa: S311 (jitter)
        if not first:
            with suppress(psycopg.Error, OSError, StateStoreError):
                await self._books.run(
                    lambda connection: connection.execute(self._sweep_call),
                    within=self._config.timeout,
                    repeatable=False,
                )

    # --- records --------------------------------------------------------------------------------

    async def _query(self, batch: Sequence[Query]) -> Sequence[Any]:
        (query,) = batch

        async def ask(connection: Connection) -> list[tuple[Any, ...]]:
            return await (await connection.execute(query.statement, query.values)).fetchall()

        lane = self._records.pop()  # as many as batches are out at most
        try:
            return [await self._persist(lane, ask, query.repeatable)]
        finally:
            self._records.append(lane)

    async def _persist(self, lane: Lane, work: Callable[[Connection], Awaitable[Any]], repeatable: bool) -> Any:
        """Do a transaction, again if others' changes kept it from being made."""
        for attempt in range(1, TRIES + 1):
            try:
                return await lane.run(work, within=self._config.timeout, repeatable=repeatable)
            except psycopg.Error as error:
                if state_of(error) not in AGAIN or attempt == TRIES:
                    raise
                await asyncio.sleep(random.uniform(0.0, 0.001 * 2**attempt))  # noqa: S311 (jitter)
        raise AssertionError
