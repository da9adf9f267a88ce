"""Messages from the server to whoever listens on one event loop."""

from __future__ import annotations

import asyncio
import random
from base64 import b64decode, b64encode
from collections.abc import AsyncGenerator
from contextlib import suppress
from contextvars import Context
from hashlib import sha256

import psycopg
from psycopg.sql import SQL, Identifier

from modelmesh.errors import StateStoreError
from modelmesh_cdk.channels import Channels
from modelmesh_plugins.state_stores.postgres.config import PostgresConfig
from modelmesh_plugins.state_stores.postgres.exchange import Connection
from modelmesh_plugins.state_stores.postgres.lane import Lane

LOOK_SECONDS = 0.5
"""How often it is looked whether somebody still listens."""
PING_SECONDS = 2.0
"""How often a silent connection is asked whether it is still there, and how long it may take to answer."""
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0
"""Seconds between attempts to connect again: doubled each time, the last half of it random."""
LARGEST = 4_000
"""Bytes of a message that fit into a notification, whose text is limited to 8,000 letters; larger ones go by a row."""


class Listener:
    """Keeps one connection as long as anybody on its loop listens; comes back by itself when that is lost.

    One server channel carries all of the store's channels.

    Attributes:
        channels: Who listens to what.
    """

    def __init__(self, config: PostgresConfig) -> None:
        self.channels = Channels()
        self._config = config
        self._task: asyncio.Task[None] | None = None
        self._listening = asyncio.Event()
        self._lane = Lane(config, prepare=self._begin, listens=True)

    def subscribe(self, channel: str) -> AsyncGenerator[bytes, None]:
        """Yield what is published from the moment on that the server knows of the subscription."""
        stream = self.channels.subscribe(channel)
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._listen(), context=Context())
        return stream

    async def until_heard(self, channel: str, *, within: float) -> None:
        """Wait until the server knows who listens to a channel here, so that a message of our own reaches them."""
        if channel in self.channels.listened() and not self._listening.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(within):
                    await self._listening.wait()

    async def close(self) -> None:
        """End the subscriptions and the connection."""
        self.channels.close()
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    def abandon(self) -> None:
        """Close the connection without its loop, which is closed or will not run again."""
        self.channels.close()
        self._lane.abandon()

    async def _listen(self) -> None:
        pause = FIRST_PAUSE
        try:
            while self.channels.listened():
                with suppress(psycopg.Error, OSError, UnicodeError, StateStoreError):
                    while self.channels.listened():
                        # Work on a lane ends when the connection does; each turn also shows that it still answers.
                        await self._lane.run(self._hear, within=PING_SECONDS + LOOK_SECONDS, repeatable=False)
                        pause = FIRST_PAUSE
                self._listening.clear()
                await self._lane.close()
                if self.channels.listened():
                    await asyncio.sleep(random.uniform(pause / 2, pause))  # noqa: S311 (jitter)
                    pause = min(2 * pause, LONGEST_PAUSE)
        finally:
            self._listening.clear()
            await self._lane.close()

    async def _begin(self, connection: Connection) -> None:
        await connection.execute(SQL("LISTEN {}").format(Identifier(notify_channel(self._config))))
        self._listening.set()

    async def _hear(self, connection: Connection) -> None:
        """Pass on what comes within a while; when nothing does, see that the server is still there."""
        rows: list[tuple[str, int]] = []
        silent = True
        async for notification in connection.notifies(timeout=LOOK_SECONDS, stop_after=1):
            silent = False
            try:
                kind, body, channel = _read(notification.payload)
                if kind == "m":
                    self.channels.publish(channel, b64decode(body))
                elif channel in self.channels.listened():
                    rows.append((channel, int(body)))
            except ValueError:
                continue  # none of the store's: anybody in the database may notify
        for channel, number in rows:
            query = SQL("SELECT body FROM {}.messages WHERE id = %s").format(Identifier(self._config.schema_name))
            row = await (await connection.execute(query, (number,))).fetchone()
            if row is not None:
                self.channels.publish(channel, bytes(row[0]))
        if silent:
            await connection.execute("SELECT 1")


def notify_channel(config: PostgresConfig) -> str:
    """The server channel of a store's messages, whose name has 63 letters at most."""
    name = f"modelmesh_{config.schema_name}"
    if len(name) <= 63:
        return name
    # Cut off alone, it would be that of every schema that begins like this one.
    return f"{name[:46]}_{sha256(name.encode()).hexdigest()[:16]}"


def written(channel: str, message: bytes) -> str:
    """A notification's text for a message that fits."""
    return f"m{b64encode(message).decode()} {channel}"


def _read(text: str) -> tuple[str, str, str]:
    body, _, channel = text.partition(" ")
    return body[:1], body[1:], channel
