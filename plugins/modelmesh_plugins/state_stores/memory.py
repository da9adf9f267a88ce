"""State in this process's memory: the default."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence

from modelmesh.interfaces.ledger import Balance, Claim, Verdict
from modelmesh.interfaces.runtime import ConnectorContext
from modelmesh.interfaces.state_store import StateRecord, StoreGuarantees, StoreLock
from modelmesh_cdk.ledger import Books
from modelmesh_cdk.locks import LockTable
from modelmesh_cdk.state_store import BaseStateStore, NoConfig


class MemoryStateStore(BaseStateStore[NoConfig]):
    """Keeps everything in dictionaries; it ends with the process.

    Leases, rates and locks go by the monotonic clock, so that a wall clock that is put right moves none of them.
    """

    guarantees = StoreGuarantees(
        survives_restart=False, shared_between_processes=False, note="this process, until it ends"
    )

    def __init__(self, config: NoConfig | None = None) -> None:
        super().__init__(config)
        self._records: dict[str, StateRecord] = {}
        self._books = Books()
        self._locks = LockTable()
        self._monotonic = time.monotonic
        # The synchronous door's loop thread and a caller's own loop may come at once; nothing waits under it.
        self._guard = threading.Lock()

    def bind(self, context: ConnectorContext) -> None:
        """Receive clock and trace."""
        super().bind(context)
        self._monotonic = context.clock.monotonic

    async def _load(self, key: str) -> StateRecord | None:
        return self._records.get(key)

    async def _save(self, key: str, data: bytes, expected_version: int | None) -> StateRecord | None:
        with self._guard:
            before = self._records.get(key)
            version = before.version if before is not None else 0
            if expected_version is not None and expected_version != version:
                return None
            record = self._records[key] = StateRecord(key, data, version + 1, self.now())
            return record

    async def _delete(self, key: str) -> bool:
        return self._records.pop(key, None) is not None

    async def _list(self, prefix: str) -> Sequence[str]:
        with self._guard:
            return [key for key in self._records if key.startswith(prefix)]

    async def _reserve(self, reservation: str, claims: Sequence[Claim], lease: float, dispatched: bool) -> Verdict:
        with self._guard:
            return self._books.reserve(self._monotonic(), reservation, claims, lease=lease, dispatched=dispatched)

    async def _settle(self, reservation: str, actual: Mapping[str, int]) -> bool:
        with self._guard:
            return self._books.settle(self._monotonic(), reservation, actual)

    async def _release(self, reservation: str) -> bool:
        with self._guard:
            return self._books.release(self._monotonic(), reservation)

    async def _balances(self, accounts: Sequence[str]) -> Mapping[str, Balance]:
        with self._guard:
            return self._books.balances(self._monotonic(), accounts)

    async def _lock(self, name: str, expires_in: float) -> StoreLock | None:
        with self._guard:
            return self._locks.lock(self._monotonic(), name, expires_in)

    async def _unlock(self, lock: StoreLock) -> bool:
        with self._guard:
            return self._locks.unlock(self._monotonic(), lock)
