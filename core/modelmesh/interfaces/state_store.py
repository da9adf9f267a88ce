"""What crosses the border between the core and a state store.

A state store keeps keyed records. Each record has a version that its store raises by one with every write, so that
several processes can change records without losing one another's changes (compare and set).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class StateRecord:
    """One record.

    Attributes:
        key: Non-empty text; ``/`` separates parts by convention.
        data: The bytes that were saved.
        version: 1 for a new record, one more with each write.
        modified_at: Unix time of the last write, by the store's clock.
    """

    key: str
    data: bytes
    version: int
    modified_at: float


@dataclass(frozen=True, slots=True)
class StoreGuarantees:
    """What a store promises; shown by ``modelmesh plugins`` and in the docs.

    Attributes:
        survives_restart: Whether records are there after the process ended.
        shared_between_processes: Whether several processes may use it at once.
        loss_window_seconds: How much of the newest writes a crash can lose; 0 for none.
    """

    survives_restart: bool
    shared_between_processes: bool
    loss_window_seconds: float = 0.0
    note: str = field(default="")


@runtime_checkable
class StateStore(Protocol):
    """Keyed records with compare-and-set. Inherit ``modelmesh_cdk.BaseStateStore``.

    Every method may be called from several tasks at once. All raise `modelmesh.errors.StateStoreError` when the
    store is down or refuses.
    """

    guarantees: StoreGuarantees

    async def load(self, key: str) -> StateRecord | None:
        """Return the record, or None when there is none."""
        ...

    async def save(self, key: str, data: bytes, *, expected_version: int | None = None) -> StateRecord | None:
        """Write a record.

        Args:
            key: Where.
            data: What.
            expected_version: Write only if the record has this version now; 0 means "only if there is none";
                None writes in any case.

        Returns:
            The record as written, or None when ``expected_version`` did not match and nothing was written.
        """
        ...

    async def delete(self, key: str) -> bool:
        """Remove a record; return whether there was one."""
        ...

    async def list(self, prefix: str = "") -> Sequence[str]:
        """Keys that begin with ``prefix``, sorted."""
        ...

    async def close(self) -> None:
        """Flush and release what it holds; called once, at shutdown."""
        ...
