"""The contract of state stores: several processes at once."""

from __future__ import annotations

import multiprocessing
from typing import Any

import pytest

from modelmesh.interfaces.ledger import NANO_USD, Balance
from modelmesh.interfaces.state_store import StateStore
from modelmesh_cdk.testing.clock import context
from modelmesh_cdk.testing.contracts.store_scenarios import StoreScenarios
from modelmesh_cdk.testing.store_worker import RealClock, work


class ProcessScenarios(StoreScenarios):
    """What shared stores promise, from processes of their own."""

    def test_processes_together_do_not_pass_a_limit(self) -> None:
        """Four processes with 250 requests of $0.10 each on $5.00: fifty are granted in all."""
        granted = self.in_processes("claim", 4)

        async def reserved(store: StateStore) -> Balance:
            return (await store.balances(["budget"]))["budget"]

        assert sum(granted) == 50, f"granted by each process: {granted}"
        assert self.drive(reserved, clock=RealClock()) == Balance(0, 5 * NANO_USD)

    def test_processes_lose_no_change_of_one_another(self) -> None:
        """Neither by compare and set nor under a lock, and no two holders of the lock had the same fence."""
        fences = [fence for each in self.in_processes("count", 2) for fence in each]

        async def counted(store: StateStore) -> list[bytes]:
            records = [await store.load("counted"), await store.load("locked")]
            return [record.data for record in records if record is not None]

        assert self.drive(counted, clock=RealClock()) == [b"40", b"20"]
        assert len(set(fences)) == 20

    def in_processes(self, task: str, processes: int) -> list[Any]:
        """Carry out a task of `store_worker` in so many new processes at once; return their results."""
        if not self.make(context()).guarantees.shared_between_processes:
            pytest.skip("it is not shared between processes")
        spawn = multiprocessing.get_context("spawn")
        start, results = spawn.Barrier(processes), spawn.Queue()
        factory = self.factory()
        workers = [
            spawn.Process(target=work, args=(factory, task, f"process-{number}", start, results))
            for number in range(processes)
        ]
        for worker in workers:
            worker.start()
        try:
            answers = [results.get(timeout=60.0 + self.patience) for _ in workers]
        finally:
            for worker in workers:
                worker.join(self.patience)
                worker.kill()
                worker.join()
                worker.close()
            results.close()
        errors = [f"{name}: {answer}" for name, answer in answers if isinstance(answer, str)]
        assert not errors, "; ".join(errors)
        return [answer for _, answer in answers]
