"""What taking a budget in blocks (``lease_share``) saves and what it costs, simulated with a thousand processes.

    python tests/benchmarks/block_leases.py [--processes 1000] [--limit 1000000] [--seed 0]

The real block ledger of each process runs over one store a millisecond away, in virtual time and in an order drawn from
the seed. Half of the requests come to a tenth of the processes. Requests reserve more than they spend; demand is half
as much again as the limit. Processes die, by default one of a hundred, with whatever they hold. After every
operation the store's books are held against the limit, and in the end against what every process granted.
"""

from __future__ import annotations

import argparse
import asyncio
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from modelmesh._engine.block_ledger import BlockLedger
from modelmesh.interfaces.ledger import Balance, Claim, Ledger, Verdict, WindowClaim
from modelmesh_cdk.ledger import Books
from modelmesh_cdk.testing.simulation.clock import SimulatedClock
from modelmesh_cdk.testing.simulation.loop import SimulationLoop

ACCOUNT = "budget"
MOST = 100
"""What one request reserves at most; it spends half of what it reserved."""
SECONDS = 300.0
SERVICE = 0.8
LEASE = 60.0


class Store:
    """Real books, a millisecond away, that are never to pass the limit.

    Attributes:
        calls: Operations it carried out.
        fullest: The most that was ever spent and reserved together.
    """

    def __init__(self, clock: SimulatedClock, draw: random.Random) -> None:
        self._books = Books()
        self._clock = clock
        self._draw = draw
        self.calls = 0
        self.fullest = 0

    async def _away(self) -> None:
        await asyncio.sleep(self._draw.uniform(0.000_3, 0.000_7))

    async def reserve(
        self, reservation: str, claims: Sequence[Claim], *, lease: float, dispatched: bool = True
    ) -> Verdict:
        await self._away()
        verdict = self._books.reserve(self._clock.time(), reservation, claims, lease=lease, dispatched=dispatched)
        self._carried_out()
        await self._away()
        return verdict

    async def settle(self, reservation: str, actual: Mapping[str, int]) -> bool:
        await self._away()
        settled = self._books.settle(self._clock.time(), reservation, actual)
        self._carried_out()
        await self._away()
        return settled

    async def release(self, reservation: str) -> bool:
        await self._away()
        released = self._books.release(self._clock.time(), reservation)
        self._carried_out()
        await self._away()
        return released

    async def balances(self, accounts: Sequence[str]) -> Mapping[str, Balance]:
        self.calls += 1
        await self._away()
        return self._books.balances(self._clock.time(), accounts)

    def now(self) -> Balance:
        """What the books say."""
        return self._books.balances(self._clock.time(), [ACCOUNT])[ACCOUNT]

    def _carried_out(self) -> None:
        self.calls += 1
        balance = self.now()
        self.fullest = max(self.fullest, balance.spent + balance.reserved)


@dataclass(slots=True)
class Result:
    """What a run came to.

    Attributes:
        granted: Requests that were.
        spent: What they spent, without those whose process died meanwhile.
        calls: Operations a request cost the store.
        calls_before: Operations a request cost it up to the first refusal.
        at_refusal: What was spent when somebody was refused for the first time.
        fullest: The most that was ever spent and reserved together.
        lost: What the books count as spent and nobody spent: it went with the processes that died.
        left: What is reserved in the end.
    """

    granted: int = 0
    spent: int = 0
    calls: float = 0.0
    calls_before: float = 0.0
    at_refusal: int = 0
    fullest: int = 0
    lost: int = 0
    left: int = 0


class Run:
    """One run over one store."""

    def __init__(self, processes: int, share: float, limit: int, seed: int, deaths: int) -> None:
        self.limit = limit
        self.loop = SimulationLoop(seed, most_steps=100_000_000)
        self.clock = SimulatedClock(self.loop, 1_795_305_600.0)
        self.draw = random.Random(seed)
        self.store = Store(self.clock, self.draw)
        self.ledgers: list[Ledger] = [
            BlockLedger(self.store, self.clock, random.Random(number), share=share) if share else self.store
            for number in range(processes)
        ]
        self.dead = set(self.draw.sample(range(processes), deaths))
        self.die_at = 0.0
        self.result = Result()

    def until_its_end(self) -> Result:
        """Run it."""
        try:
            self.loop.run(self._everything())
        finally:
            self.loop.close()
        return self.result

    async def _everything(self) -> None:
        tending = [
            asyncio.ensure_future(ledger.tend())
            for number, ledger in enumerate(self.ledgers)
            if isinstance(ledger, BlockLedger) and number not in self.dead
        ]
        requests = round(1.5 * self.limit / (MOST / 4))
        begins = sorted(self.draw.uniform(0.0, SECONDS) for _ in range(requests))
        running = set()
        start = self.loop.time()
        self.die_at = start + SECONDS / 3
        for number, begin in enumerate(begins):
            await asyncio.sleep(start + begin - self.loop.time())
            task = asyncio.ensure_future(self._request(f"r{number}", self._process()))
            running.add(task)
            task.add_done_callback(running.discard)
        await asyncio.gather(*running)
        self.result.calls = self.store.calls / requests
        for each in tending:
            each.cancel()
        for number, ledger in enumerate(self.ledgers):
            if isinstance(ledger, BlockLedger) and number not in self.dead:
                await ledger.close()
        await asyncio.sleep(4 * LEASE)  # past the leases of the dead
        balance, result = self.store.now(), self.result
        result.fullest, result.left = self.store.fullest, balance.reserved
        result.lost = balance.spent - result.spent

    def _process(self) -> int:
        busy = self.draw.random() < 0.5
        return self.draw.randrange(max(1, len(self.ledgers) // 10) if busy else len(self.ledgers))

    def _is_gone(self, process: int) -> bool:
        return process in self.dead and self.loop.time() >= self.die_at

    async def _request(self, name: str, process: int) -> None:
        if self._is_gone(process):
            return
        ledger, amount, result = self.ledgers[process], self.draw.randint(1, MOST), self.result
        claims = [WindowClaim(ACCOUNT, amount, self.limit, 86_400.0)]
        if not (await ledger.reserve(name, claims, lease=LEASE)).granted:
            if not result.at_refusal:
                result.at_refusal = result.spent
                result.calls_before = self.store.calls / max(1, result.granted)
            return
        result.granted += 1
        await asyncio.sleep(SERVICE)
        if self._is_gone(process):
            return
        spent = (amount + 1) // 2
        result.spent += spent
        await ledger.settle(name, {ACCOUNT: spent})


def simulate(processes: int, share: float, limit: int, *, seed: int = 0, deaths: int = 0) -> Result:
    """Run processes against a limit that demand passes by half."""
    return Run(processes, share, limit, seed, deaths).until_its_end()


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=1_000)
    parser.add_argument("--deaths", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, default=1_000_000, help=f"A request spends 1 to {MOST // 2} of it.")
    chosen = parser.parse_args()
    print(f"{chosen.processes:,} processes, {chosen.deaths} die; limit {chosen.limit:,}; seed {chosen.seed}\n")
    print("| lease_share | operations a request | until a refusal | spent by then | in the end | lost | fullest |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for share in (0.0, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.005):
        result = simulate(chosen.processes, share, chosen.limit, seed=chosen.seed, deaths=chosen.deaths)
        assert result.fullest <= chosen.limit, "the limit was passed"
        assert not result.left, "something is still reserved"
        parts = (result.at_refusal, result.spent, result.lost, result.fullest)
        figures = [
            f"{result.calls:.2f}",
            f"{result.calls_before:.2f}",
            *(f"{part / chosen.limit:.1%}" for part in parts),
        ]
        print(f"| {share:g} | {' | '.join(figures)} |", flush=True)


if __name__ == "__main__":
    main()
