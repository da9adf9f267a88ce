"""A store whose author wrote only the four methods keeps the contract of state stores."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from modelmesh.interfaces.runtime import ConnectorContext
from modelmesh.interfaces.state_store import StateRecord, StateStore, StoreGuarantees
from modelmesh_cdk.state_store import BaseStateStore, NoConfig
from modelmesh_cdk.testing import StateStoreContract
from modelmesh_cdk.testing.store_worker import RealClock, claim


class RecordsAlone(BaseStateStore[NoConfig]):
    """Keeps records like a server: every call takes a turn of the loop, and two handles see the same."""

    guarantees = StoreGuarantees(survives_restart=True, shared_between_processes=True)

    def __init__(self, records: dict[str, StateRecord]) -> None:
        super().__init__()
        self._records = records

    async def _load(self, key: str) -> StateRecord | None:
        await asyncio.sleep(0)
        return self._records.get(key)

    async def _save(self, key: str, data: bytes, expected_version: int | None) -> StateRecord | None:
        await asyncio.sleep(0)
        before = self._records.get(key)
        version = before.version if before is not None else 0
        if expected_version is not None and expected_version != version:
            return None
        self._records[key] = StateRecord(key, data, version + 1, self.now())
        return self._records[key]

    async def _delete(self, key: str) -> bool:
        await asyncio.sleep(0)
        return self._records.pop(key, None) is not None

    async def _list(self, prefix: str) -> Sequence[str]:
        await asyncio.sleep(0)
        return [key for key in self._records if key.startswith(prefix)]


class TestRecordsAlone(StateStoreContract):
    """Books, locks and messages as `BaseStateStore` makes them of records."""

    tells_other_processes = False

    def setup_method(self) -> None:
        """Begin with nothing."""
        self.records: dict[str, StateRecord] = {}

    def make(self, context: ConnectorContext) -> StateStore:
        return RecordsAlone(self.records)

    def in_processes(self, task: str, processes: int) -> list[object]:
        """There are none to share a dictionary; several handles on one loop compete below."""
        pytest.skip("a dictionary is shared by handles, not by processes")

    def test_handles_together_do_not_pass_a_limit(self) -> None:
        """Four handles, which know nothing of one another, grant fifty of a thousand dimes on five dollars."""

        async def scenario(first: StateStore) -> int:
            handles = [first, *(self.bound(RealClock()) for _ in range(3))]
            return sum(await asyncio.gather(*(claim(handle, str(place)) for place, handle in enumerate(handles))))

        assert self.drive(scenario, clock=RealClock()) == 50
