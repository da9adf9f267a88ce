"""The state store ``modelmesh.redis.v1``."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, ClassVar

from pydantic import BaseModel

from modelmesh.errors import StateStoreError
from modelmesh.interfaces.ledger import GRANTED, Balance, Claim, Verdict
from modelmesh.interfaces.state_store import StateRecord, StoreGuarantees, StoreLock
from modelmesh_cdk.ledger import MICROSECONDS
from modelmesh_cdk.state_store import BaseStateStore
from modelmesh_plugins.state_stores.redis.commands import Command, call, command
from modelmesh_plugins.state_stores.redis.config import RedisConfig
from modelmesh_plugins.state_stores.redis.connection import Wire
from modelmesh_plugins.state_stores.redis.ledger_calls import LedgerCalls
from modelmesh_plugins.state_stores.redis.listener import Listener
from modelmesh_plugins.state_stores.redis.scripts import Scripts, scripts


class RedisStateStore(BaseStateStore[RedisConfig]):
    """Keeps records, books, locks and messages in one Redis or Valkey server, for any number of processes and hosts.

    Every change is one script, which the server carries out as one step by its own clock: processes whose clocks differ
    see the same windows, rates and leases. Each event loop has one connection, over which all its tasks' commands go in
    batches, and a second one while somebody listens to messages.
    """

    config_model: ClassVar[type[BaseModel]] = RedisConfig
    guarantees = StoreGuarantees(
        survives_restart=True,
        shared_between_processes=True,
        loss_window_seconds=1.0,
        note="what the server keeps: with appendfsync everysec a crash loses the last second, without persistence all;"
        " a failover to a replica loses what had not reached it",
    )

    def __init__(self, config: RedisConfig | None = None) -> None:
        super().__init__(config)
        self._prefix = f"{{{self.config.key_prefix}}}:"
        self._lines: dict[asyncio.AbstractEventLoop, tuple[Wire, Listener]] = {}
        self._guard = threading.Lock()  # of changes of the lines, as loops run in threads
        self._closed = False
        self._scripts: Scripts = scripts()
        self._calls = LedgerCalls(self._scripts.ledger, self._prefix)

    async def close(self) -> None:
        """Close this loop's connections; those of other loops close on them, where they still run."""
        here = asyncio.get_running_loop()
        with self._guard:
            self._closed = True
            lines, self._lines = self._lines, {}
        for loop, line in lines.items():
            if loop is here:
                await _close(*line)
            elif loop.is_running():
                await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(_close(*line), loop))
            else:
                _abandon(*line)
        await super().close()

    # --- records --------------------------------------------------------------------------------

    async def _load(self, key: str) -> StateRecord | None:
        words = ("HMGET", self._record(key), "data", "version", "at")
        data, version, at = await self._run(command(*words, repeatable=True))
        return StateRecord(key, data, int(version), int(at) / MICROSECONDS) if version is not None else None

    async def _stat(self, key: str) -> StateRecord | None:
        version, at = await self._run(command("HMGET", self._record(key), "version", "at", repeatable=True))
        return StateRecord(key, b"", int(version), int(at) / MICROSECONDS) if version is not None else None

    async def _save(self, key: str, data: bytes, expected_version: int | None) -> StateRecord | None:
        expected = "" if expected_version is None else expected_version
        saved = await self._run(call(self._scripts.save, (self._record(key), self._index), (key, data, expected)))
        return StateRecord(key, data, int(saved[0]), int(saved[1]) / MICROSECONDS) if saved is not None else None

    async def _delete(self, key: str) -> bool:
        return bool(await self._run(call(self._scripts.delete, (self._record(key), self._index), (key,))))

    async def _list(self, prefix: str) -> Sequence[str]:
        # No UTF-8 text has a byte 0xff, so it comes after all that the prefix begins.
        begins = prefix.encode()
        words = ("ZRANGEBYLEX", self._index, b"[" + begins, b"(" + begins + b"\xff")
        return [key.decode() for key in await self._run(command(*words, repeatable=True))]

    # --- books of limits --------------------------------------------------------------------------

    async def _reserve(self, reservation: str, claims: Sequence[Claim], lease: float, dispatched: bool) -> Verdict:
        answer = await self._run(self._calls.reserve(reservation, claims, lease, dispatched))
        if answer[0]:
            return GRANTED
        _, account, available, wait = answer
        return Verdict(False, account.decode(), int(available), int(wait) / MICROSECONDS if wait else None)

    async def _settle(self, reservation: str, actual: Mapping[str, int]) -> bool:
        return bool(await self._run(self._calls.settle(reservation, actual)))

    async def _settle_all(self, settlements: Mapping[str, Mapping[str, int]]) -> Sequence[bool | Exception]:
        calls = [self._calls.settle(*each) for each in settlements.items()]
        return [each if isinstance(each, Exception) else bool(each) for each in await self._line[0].run_all(calls)]

    async def _release(self, reservation: str) -> bool:
        return bool(await self._run(self._calls.release(reservation)))

    async def _balances(self, accounts: Sequence[str]) -> Mapping[str, Balance]:
        found = await self._run(self._calls.balances(accounts))
        return {
            account: Balance(int(found[2 * place]), int(found[2 * place + 1])) for place, account in enumerate(accounts)
        }

    # --- locks --------------------------------------------------------------------------------------

    async def _lock(self, name: str, expires_in: float) -> StoreLock | None:
        milliseconds = min(max(1, int(expires_in * 1_000)), 10**13)
        keys = (f"{self._prefix}l:{name}", f"{self._prefix}fence")
        fence = await self._run(call(self._scripts.lock, keys, (milliseconds,)))
        return StoreLock(name, int(fence), expires_in) if fence is not None else None

    async def _unlock(self, lock: StoreLock) -> bool:
        return bool(await self._run(call(self._scripts.unlock, (f"{self._prefix}l:{lock.name}",), (lock.fence,))))

    # --- messages -----------------------------------------------------------------------------------

    async def _publish(self, channel: str, message: bytes) -> None:
        await self._line[1].until_heard(channel, within=self.config.timeout / 2)
        await self._run(command("PUBLISH", f"{self._prefix}c:{channel}", message))

    def _subscribe(self, channel: str) -> AsyncGenerator[bytes, None]:
        return self._line[1].subscribe(channel)

    # --- inside -------------------------------------------------------------------------------------

    def _record(self, key: str) -> str:
        return f"{self._prefix}d:{key}"

    @property
    def _index(self) -> str:
        return f"{self._prefix}keys"

    @property
    def _line(self) -> tuple[Wire, Listener]:
        loop = asyncio.get_running_loop()
        return self._lines.get(loop) or self._begin(loop)

    def _begin(self, loop: asyncio.AbstractEventLoop) -> tuple[Wire, Listener]:
        with self._guard:
            if self._closed:
                raise StateStoreError("the state store is closed")
            # Programs that call asyncio.run() again and again leave a closed loop's connections behind each time.
            for ended in [each for each in self._lines if each.is_closed()]:
                _abandon(*self._lines.pop(ended))
            line = self._lines[loop] = (Wire(self.config), Listener(self.config, self._prefix))
        return line

    async def _run(self, command: Command) -> Any:
        return await self._line[0].run(command)


async def _close(wire: Wire, listener: Listener) -> None:
    await listener.close()
    await wire.close()


def _abandon(wire: Wire, listener: Listener) -> None:
    listener.abandon()
    wire.abandon()
