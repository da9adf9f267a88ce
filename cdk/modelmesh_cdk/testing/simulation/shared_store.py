"""The stores of a simulation: real books, watched; a shared one is a network away and can be slow or down."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from modelmesh.errors import StateStoreError
from modelmesh.interfaces.ledger import Balance, Claim, Verdict
from modelmesh.interfaces.state_store import StateRecord, StoreGuarantees, StoreLock
from modelmesh_cdk.channels import Subscription
from modelmesh_cdk.ledger import Books
from modelmesh_cdk.locks import LockTable
from modelmesh_cdk.state_store import BaseStateStore
from modelmesh_cdk.testing.simulation.world import World, drawn

if TYPE_CHECKING:
    from modelmesh_cdk.testing.simulation.loop import SimulationLoop
    from modelmesh_cdk.testing.simulation.watch import Watch

CONNECTOR = "simulation.store.v1"
"""What it is called in the configuration of a simulated process."""


class SimulatedBooks:
    """What a store keeps.

    Args:
        world: For the store's faults.
        loop: Its clock.
        near: Whether it is in the memory of the one process that has it, where it answers at once.

    Attributes:
        books: The accounts.
        locks: Who holds what.
        records: By key.
        listeners: Subscriptions by channel, in the order they came.
        near: Whether it answers at once.
        crashed: Processes whose connections are gone.
    """

    def __init__(self, world: World, loop: SimulationLoop, *, near: bool = False) -> None:
        self._world = world
        self._loop = loop
        self._began = loop.time()
        self._faults = world.of("")
        self._calls = 0
        self.near = near
        self.books = Books()
        self.locks = LockTable()
        self.records: dict[str, StateRecord] = {}
        self.listeners: dict[str, list[Subscription]] = {}
        self.crashed: set[int] = set()

    def now(self) -> float:
        """Unix time by the store's clock, which is right."""
        return self._world.epoch + self._loop.time() - self._began

    async def reach(self, process: int) -> None:
        """Take as long as a call takes to arrive or to return.

        Raises:
            StateStoreError: The store is down, or the process is no more.
        """
        if process in self.crashed:
            raise StateStoreError("the process is gone")
        if self.near:
            return
        self._calls += 1
        delay = 0.002 * drawn(self._world.seed, "store", self._calls)
        now = self._loop.time() - self._began
        for fault in self._faults:
            if fault.kind == "store_slow" and fault.is_on(now):
                delay += fault.value
            if fault.kind == "store_down" and fault.is_on(now):
                if fault.value:  # it does not even refuse
                    await asyncio.get_running_loop().create_future()
                raise StateStoreError("the simulated store is down", retryable=True)
        await asyncio.sleep(delay)
        if process in self.crashed:
            raise StateStoreError("the process is gone")


class SimulatedStoreConfig(BaseModel):
    """Settings: the books, and which process this is."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    books: SimulatedBooks = Field(description="What the store keeps.")
    process: int = Field(description="Whose connection this is.")
    watch: Any = Field(description="Who looks on.")


class SimulatedStore(BaseStateStore[SimulatedStoreConfig]):
    """One process's connection to a store."""

    config_model = SimulatedStoreConfig

    def __init__(self, config: SimulatedStoreConfig) -> None:
        super().__init__(config)
        self.guarantees = StoreGuarantees(
            survives_restart=False, shared_between_processes=not config.books.near, note="a simulation"
        )
        self._shared = config.books
        self._process = config.process
        self._watch: Watch = config.watch

    async def _load(self, key: str) -> StateRecord | None:
        await self._shared.reach(self._process)
        return self._shared.records.get(key)

    async def _save(self, key: str, data: bytes, expected_version: int | None) -> StateRecord | None:
        await self._shared.reach(self._process)
        before = self._shared.records.get(key)
        version = before.version if before is not None else 0
        if expected_version is not None and expected_version != version:
            return None
        record = self._shared.records[key] = StateRecord(key, data, version + 1, self._shared.now())
        return record

    async def _delete(self, key: str) -> bool:
        await self._shared.reach(self._process)
        return self._shared.records.pop(key, None) is not None

    async def _list(self, prefix: str) -> Sequence[str]:
        await self._shared.reach(self._process)
        return [key for key in self._shared.records if key.startswith(prefix)]

    async def _reserve(self, reservation: str, claims: Sequence[Claim], lease: float, dispatched: bool) -> Verdict:
        await self._shared.reach(self._process)
        books, now = self._shared.books, self._shared.now()
        verdict = books.reserve(now, reservation, claims, lease=lease, dispatched=dispatched)
        self._watch.reserved(self._process, books, now, reservation, claims, lease, verdict)
        await self._shared.reach(self._process)
        return verdict

    async def _settle(self, reservation: str, actual: Mapping[str, int]) -> bool:
        await self._shared.reach(self._process)
        books, now = self._shared.books, self._shared.now()
        settled = books.settle(now, reservation, actual)
        self._watch.settled(books, now)
        await self._shared.reach(self._process)
        return settled

    async def _release(self, reservation: str) -> bool:
        await self._shared.reach(self._process)
        released = self._shared.books.release(self._shared.now(), reservation)
        if released:
            self._watch.released(self._shared.books, reservation)
        return released

    async def _balances(self, accounts: Sequence[str]) -> Mapping[str, Balance]:
        await self._shared.reach(self._process)
        return self._shared.books.balances(self._shared.now(), accounts)

    async def _lock(self, name: str, expires_in: float) -> StoreLock | None:
        await self._shared.reach(self._process)
        return self._shared.locks.lock(self._shared.now(), name, expires_in)

    async def _unlock(self, lock: StoreLock) -> bool:
        await self._shared.reach(self._process)
        return self._shared.locks.unlock(self._shared.now(), lock)

    async def _publish(self, channel: str, message: bytes) -> None:
        await self._shared.reach(self._process)
        for listener in self._shared.listeners.get(channel, []):
            listener.put(message)

    def _subscribe(self, channel: str) -> AsyncGenerator[bytes, None]:
        listener = Subscription()
        self._shared.listeners.setdefault(channel, []).append(listener)
        return listener.stream()
