"""What crosses the border between the core and a state store.

A state store keeps keyed records, the books of limits (`modelmesh.interfaces.ledger`), and locks. Each record has a
version that its store raises by one with every write, so that several processes can change records without losing one
another's changes (compare and set).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from modelmesh.interfaces.ledger import Ledger


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


@dataclass(frozen=True, slots=True)
class StoreLock:
    """A lock that is held.

    Attributes:
        name: What is locked.
        fence: Larger than that of every earlier holder: whoever writes elsewhere under the lock sends it along, so that
            a holder whose lock expired is told from the present one.
        expires_in: Seconds from its grant until it lapses.
    """

    name: str
    fence: int
    expires_in: float


@runtime_checkable
class StateStore(Ledger, Protocol):
    """Keyed records with compare-and-set, books of limits, and locks. Inherit ``modelmesh_cdk.BaseStateStore``.

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

    async def stat(self, key: str) -> StateRecord | None:
        """Return the record without its data (``data`` is empty), or None when there is none."""
        ...

    async def delete(self, key: str) -> bool:
        """Remove a record; return whether there was one."""
        ...

    async def list(self, prefix: str = "") -> Sequence[str]:
        """Keys that begin with ``prefix``, sorted."""
        ...

    async def lock(self, name: str, *, expires_in: float) -> StoreLock | None:
        """Take a lock that nobody holds; None when somebody does. It lapses by itself, by the store's clock."""
        ...

    async def unlock(self, lock: StoreLock) -> bool:
        """Give a lock back; False when it had lapsed and is no longer this holder's."""
        ...

    async def publish(self, channel: str, message: bytes) -> None:
        """Tell every subscriber of a channel, in this process and others; nobody listening is no error."""
        ...

    def subscribe(self, channel: str) -> AsyncGenerator[bytes, None]:
        """Yield what is published from now on, by others and by this process; closing it ends the subscription.

        Delivery is at most once: what was published while the connection was down is lost, so a subscriber that
        must not miss anything reads the records again after a gap.
        """
        ...

    async def close(self) -> None:
        """Flush and release what it holds; called once, at shutdown."""
        ...
