"""State in this process's memory: the default."""

from __future__ import annotations

from collections.abc import Sequence

from modelmesh.interfaces.runtime import ConnectorContext
from modelmesh.interfaces.state_store import StateRecord, StoreGuarantees
from modelmesh_cdk.state_store import BaseStateStore, NoConfig


class MemoryStateStore(BaseStateStore[NoConfig]):
    """Keeps records in a dictionary; they end with the process."""

    guarantees = StoreGuarantees(
        survives_restart=False, shared_between_processes=False, note="this process, until it ends"
    )
    context: ConnectorContext | None = None  # type: ignore[assignment]  # works unbound: then records have no time

    def __init__(self, config: NoConfig | None = None) -> None:
        super().__init__(config)
        self._records: dict[str, StateRecord] = {}

    async def _load(self, key: str) -> StateRecord | None:
        return self._records.get(key)

    async def _save(self, key: str, data: bytes, expected_version: int | None) -> StateRecord | None:
        # No await between look and write: on one event loop nothing comes between.
        before = self._records.get(key)
        version = before.version if before is not None else 0
        if expected_version is not None and expected_version != version:
            return None
        now = self.context.clock.time() if self.context is not None else 0.0
        record = self._records[key] = StateRecord(key, data, version + 1, now)
        return record

    async def _delete(self, key: str) -> bool:
        return self._records.pop(key, None) is not None

    async def _list(self, prefix: str) -> Sequence[str]:
        return [key for key in self._records if key.startswith(prefix)]
