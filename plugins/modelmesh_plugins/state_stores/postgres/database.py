"""What the tasks of one event loop ask of the database."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import psycopg
from psycopg.sql import SQL, Composed, Identifier

from modelmesh.errors import StateStoreError
from modelmesh_cdk.batches import Batches
from modelmesh_plugins.state_stores.postgres.config import PostgresConfig
from modelmesh_plugins.state_stores.postgres.exchange import Connection
from modelmesh_plugins.state_stores.postgres.failures import AGAIN, failure, state_of
from modelmesh_plugins.state_stores.postgres.lane import Lane
from modelmesh_plugins.state_stores.postgres.listener import Listener
from modelmesh_plugins.state_stores.postgres.postings import Posting, answers, prepared, statement

Result = TypeVar("Result")

CLOSING_SECONDS = 1.0
SWEEP_SECONDS = 60.0
"""How often what nobody needs any more is removed."""
TRIES = 8
"""How often a transaction is tried that others' changes keep from being made."""


_FAILURES = (psycopg.Error, OSError, UnicodeError, StateStoreError)
"""What an exchange ends with where there is no answer; TimeoutError is an OSError, and a host may be no name."""


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
        self._sweep_call = SQL("SELECT {}.sweep()").format(Identifier(config.schema_name))
        statements = prepared(config.schema_name)
        self._books = Lane(config, prepare=lambda connection: connection.execute(statements))
        self._records = [Lane(config) for _ in range(config.connections)]  # without those that are at work
        self._lanes = (self._books, *self._records)
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

    async def post_all(self, postings: Iterable[Posting]) -> list[Any]:
        """Return the answer of each operation on the books, or the `StateStoreError` that `post` would have raised."""
        outcomes = await self._postings.ask_all(postings, within=self._config.timeout + self._first_wait)
        self._first_wait = 0.0
        return [failure(self._place, each) if isinstance(each, _FAILURES) else each for each in outcomes]

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
        for lane in self._lanes:
            await lane.close()

    def abandon(self) -> None:
        """Close the connections without their loop, which is closed or will not run again."""
        self.listener.abandon()
        for lane in self._lanes:
            lane.abandon()

    async def _ask(self, answer: Awaitable[Any]) -> Any:
        try:
            return await answer
        except _FAILURES as error:
            # The error may have befallen a whole batch: each task raises one of its own.
            raise failure(self._place, error) from error
        finally:
            self._first_wait = 0.0

    # --- the books ------------------------------------------------------------------------------

    async def _post(self, batch: Sequence[Posting]) -> Sequence[Any]:
        if asyncio.get_running_loop().time() >= self._sweep_at:
            await self._sweep()
        name, values = statement(batch)
        repeatable = all(posting.repeatable for posting in batch)
        within = self._config.timeout
        value = await _persist(lambda: self._books.call(name, values, within=within, repeatable=repeatable))
        return answers(name, value)

    async def _sweep(self) -> None:
        now = asyncio.get_running_loop().time()
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
            within = self._config.timeout
            return [await _persist(lambda: lane.run(ask, within=within, repeatable=query.repeatable))]
        finally:
            self._records.append(lane)


async def _persist(work: Callable[[], Awaitable[Result]]) -> Result:
    """Do a transaction, again if others' changes kept it from being made."""
    for attempt in range(1, TRIES + 1):
        try:
            return await work()
        except psycopg.Error as error:
            if state_of(error) not in AGAIN or attempt == TRIES:
                raise
            await asyncio.sleep(random.uniform(0.0, 0.001 * 2**attempt))  # noqa: S311 (jitter)
    raise AssertionError
