"""Messages from the server to whoever listens on one event loop."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import suppress
from contextvars import Context

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

from modelmesh_cdk.channels import Channels
from modelmesh_plugins.state_stores.redis.config import RedisConfig
from modelmesh_plugins.state_stores.redis.connection import abandon, disconnect, make_connection

LOOK_SECONDS = 0.5
"""How often it is looked whether somebody still listens."""
SILENCE_SECONDS = 4.0
"""After so long without a word, answers to pings included, a connection counts as cut off."""
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0
"""Seconds between attempts to connect again: doubled each time, the last half of it random."""


class Listener:
    """Keeps one connection as long as anybody on its loop listens; comes back by itself when that is lost.

    Attributes:
        channels: Who listens to what.
    """

    def __init__(self, config: RedisConfig, prefix: str) -> None:
        self.channels = Channels()
        self._config = config
        self._prefix = prefix
        self._task: asyncio.Task[None] | None = None
        self._connection: AbstractConnection | None = None
        self._look = asyncio.Event()
        self._confirmed: set[str] = set()
        self._confirming: set[asyncio.Future[None]] = set()
        self._heard_at = 0.0

    def subscribe(self, channel: str) -> AsyncGenerator[bytes, None]:
        """Yield what is published from the moment on that the server knows of the subscription."""
        stream = self.channels.subscribe(channel)
        self._look.set()
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._listen(), context=Context())
        return stream

    async def until_heard(self, channel: str, *, within: float) -> None:
        """Wait until the server knows who listens to a channel here, so that a message of our own reaches them."""
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + within
        while channel in self.channels.listened() and channel not in self._confirmed:
            confirmed = loop.create_future()
            self._confirming.add(confirmed)
            try:
                done, _ = await asyncio.wait({confirmed}, timeout=ends_at - loop.time())
            finally:
                self._confirming.discard(confirmed)
            if not done:
                return

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
        connection, self._connection = self._connection, None
        if connection is not None:
            abandon(connection)

    async def _listen(self) -> None:
        pause = FIRST_PAUSE
        while self.channels.listened():
            with suppress(RedisError, OSError):
                await self._attend()
            pause = FIRST_PAUSE if self._confirmed else min(2 * pause, LONGEST_PAUSE)
            self._confirmed.clear()
            if self.channels.listened():
                await asyncio.sleep(random.uniform(pause / 2, pause))  # noqa: S311 (jitter)

    async def _attend(self) -> None:
        """Listen over one connection until nobody listens here any more.

        Raises:
            OSError: The connection is lost; or RedisError.
        """
        connection = self._connection = make_connection(self._config)
        reading: asyncio.Task[None] | None = None
        try:
            async with asyncio.timeout(self._config.connect_timeout):
                await connection.connect()  # type: ignore[no-untyped-call]  # redis-py's has no annotation
            loop = asyncio.get_running_loop()
            self._heard_at = pinged_at = loop.time()
            reading = loop.create_task(self._read(connection))
            asked: set[str] = set()
            while wanted := set(self.channels.listened()):
                self._look.clear()
                await self._ask(connection, "SUBSCRIBE", wanted - asked)
                await self._ask(connection, "UNSUBSCRIBE", asked - wanted)
                self._confirmed &= wanted
                asked = wanted
                if loop.time() - self._heard_at > SILENCE_SECONDS:
                    raise TimeoutError(f"the server has been silent for {SILENCE_SECONDS:g} s")
                if loop.time() - pinged_at > SILENCE_SECONDS / 3:
                    pinged_at = loop.time()
                    await connection.send_command("PING", check_health=False)
                look = loop.create_task(self._look.wait())
                await asyncio.wait({look, reading}, timeout=LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                look.cancel()
                if reading.done():
                    return reading.result()
        finally:
            if reading is not None:
                reading.cancel()
                await asyncio.wait({reading})
            await disconnect(connection, wait=True)

    async def _ask(self, connection: AbstractConnection, command: str, channels: set[str]) -> None:
        if channels:
            names = [f"{self._prefix}c:{channel}" for channel in sorted(channels)]
            await connection.send_command(command, *names, check_health=False)

    async def _read(self, connection: AbstractConnection) -> None:
        begins = len(self._prefix) + 2
        while True:
            answer = await connection.read_response()
            self._heard_at = asyncio.get_running_loop().time()
            if not isinstance(answer, list) or len(answer) < 3 or not isinstance(answer[1], bytes):
                continue
            channel = answer[1].decode()[begins:]
            if answer[0] == b"message":
                self.channels.publish(channel, answer[2])
            elif answer[0] == b"subscribe":
                self._confirmed.add(channel)
                for confirming in self._confirming:
                    if not confirming.done():
                        confirming.set_result(None)
