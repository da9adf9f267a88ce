"""Kill processes at work, over and over, and compare the store's books with what they were told (reliability goal R2).

    python tests/benchmarks/kill_loop.py --rounds 200 --store sqlite

In each round worker processes reserve, settle and release as fast as they can, each writing into a witness file what it
is about to do and what was confirmed. After 5 to 150 ms they are killed with SIGKILL. Then the store is opened again,
its clock moved past all leases, and the books must say of every reservation what the witnesses allow:

- settled and confirmed: what was settled; released and confirmed: nothing;
- confirmed only: all of it if dispatched, nothing if not;
- asked, but not confirmed when the process died: either of what was before and what was asked.

A common account must hold exactly the sum of all, or a reservation was booked by halves.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from modelmesh.interfaces.ledger import WindowClaim
from modelmesh.interfaces.state_store import StateStore
from modelmesh_cdk.testing import context
from modelmesh_cdk.testing.store_worker import RealClock
from modelmesh_plugins.state_stores.file import FileConfig, FileStateStore
from modelmesh_plugins.state_stores.sqlite import SQLiteConfig, SQLiteStateStore

LEASE = 60.0
KEEP = 100_000.0
LIMIT = 10**15


class LaterClock(RealClock):
    """The system's clocks, past all leases."""

    @staticmethod
    def time() -> float:
        return time.time() + LEASE + 1.0


def build(name: str, folder: Path) -> StateStore:
    """Make a store with its data in a folder."""
    if name == "sqlite":
        return SQLiteStateStore(SQLiteConfig(path=str(folder / "state.sqlite")))
    return FileStateStore(FileConfig(path=str(folder / "state.json")))


async def work(store: StateStore, witness: int, prefix: str) -> None:
    """Reserve, settle and release until killed."""

    def tell(line: str) -> None:
        os.write(witness, f"{line}\n".encode())  # one call, straight to the kernel: it outlives the process

    async def requests(worker: int) -> None:
        draw = random.Random(f"{prefix}{worker}")
        number = 0
        while True:
            number += 1
            name = f"{prefix}/{worker}/{number}"
            amount, dispatched = draw.randint(1, 1_000), draw.random() < 0.7
            claims = [WindowClaim(account, amount, LIMIT, KEEP) for account in (f"{prefix}/all", name)]
            tell(f"reserve {name} {amount} {int(dispatched)}")
            await store.reserve(name, claims, lease=LEASE, dispatched=dispatched)
            tell(f"reserved {name}")
            fate = draw.random()
            if fate < 0.6:
                actual = draw.randint(0, 1_500)
                tell(f"settle {name} {actual}")
                await store.settle(name, {f"{prefix}/all": actual, name: actual})
                tell(f"settled {name}")
            elif fate < 0.8:
                tell(f"release {name}")
                await store.release(name)
                tell(f"released {name}")

    await asyncio.gather(*(requests(worker) for worker in range(8)))


def start(name: str, folder: Path, prefix: str) -> int:
    """Fork a worker; return its process ID."""
    child = os.fork()
    if child:
        return child
    try:
        store = build(name, folder)
        store.bind(context("storage", clock=RealClock()))  # type: ignore[attr-defined]  # both have it
        witness = os.open(folder / f"witness-{prefix}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        asyncio.run(work(store, witness, prefix))
    finally:
        os._exit(1)


def allowed(witness: Path) -> dict[str, set[int]]:
    """Return what each reservation may have come to, by what was told of it."""
    amounts: dict[str, set[int]] = {}
    unsettled: dict[str, int] = {}
    asked: dict[str, set[int]] = {}
    text = witness.read_text()
    for line in text[: text.rfind("\n") + 1].splitlines():
        what, name, *rest = line.split()
        if what == "reserve":
            unsettled[name] = int(rest[0]) if rest[1] == "1" else 0
            amounts[name] = {0, unsettled[name]}
        elif what == "reserved":
            amounts[name] = {unsettled[name]}
        elif what in ("settle", "release"):
            asked[name] = {int(rest[0]) if rest else 0}
            amounts[name] = asked[name] | {unsettled[name]}
        else:
            amounts[name] = asked[name]
    return amounts


async def verify(name: str, folder: Path, prefixes: list[str]) -> tuple[int, int, float]:
    """Compare books and witnesses; return how many reservations there were, how many in flight, seconds to open."""
    store = build(name, folder)
    store.bind(context("storage", clock=LaterClock()))  # type: ignore[attr-defined]  # both have it
    begin = time.perf_counter()
    await store.list("none")
    ready = time.perf_counter() - begin
    reservations = in_flight = 0
    try:
        for prefix in prefixes:
            amounts = allowed(folder / f"witness-{prefix}")
            balances = await store.balances([*amounts, f"{prefix}/all"])
            for account, fates in amounts.items():
                balance = balances[account]
                if balance.reserved or balance.spent not in fates:
                    raise SystemExit(f"{name}: {account} holds {balance}, but its witness allows {sorted(fates)}")
            together = sum(balances[account].spent for account in amounts)
            if balances[f"{prefix}/all"].spent != together:
                raise SystemExit(f"{name}: {prefix}/all holds {balances[f'{prefix}/all']}, the parts are {together}")
            reservations += len(amounts)
            in_flight += sum(len(fates) > 1 for fates in amounts.values())
    finally:
        await store.close()
    return reservations, in_flight, ready


def one_round(name: str, folder: Path, number: int, draw: random.Random) -> tuple[int, int, float]:
    """Start workers, kill them, verify."""
    prefixes = [f"{number}-{place}" for place in range(2 if name == "sqlite" else 1)]
    children = [start(name, folder, prefix) for prefix in prefixes]
    try:
        _until(lambda: all((folder / f"witness-{prefix}").exists() for prefix in prefixes))
        _until(lambda: all((folder / f"witness-{prefix}").stat().st_size > 400 for prefix in prefixes))
        time.sleep(draw.uniform(0.005, 0.150))
    finally:
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    return asyncio.run(verify(name, folder, prefixes))


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20.0
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit("the workers did not begin")
        time.sleep(0.001)


def main() -> int:
    """Run the rounds and print what they came to."""
    parser = argparse.ArgumentParser(description="Kill processes at work and compare books with witnesses.")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--store", choices=("sqlite", "file", "all"), default="all")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    for name in ("sqlite", "file") if options.store == "all" else (options.store,):
        draw = random.Random(options.seed)
        reservations = in_flight = 0
        slowest = 0.0
        begin = time.monotonic()
        with tempfile.TemporaryDirectory() as top:
            for number in range(options.rounds):
                # SQLite goes on in one file; the file store is rewritten as a whole, so each round has its own.
                folder = Path(top) if name == "sqlite" else Path(top, str(number))
                folder.mkdir(exist_ok=True)
                done, open_then, ready = one_round(name, folder, number, draw)
                reservations, in_flight, slowest = reservations + done, in_flight + open_then, max(slowest, ready)
        print(
            f"{name}: {options.rounds} rounds (seed {options.seed}), {reservations} reservations,"
            f" {in_flight} in flight when killed, 0 wrong; ready again within {slowest * 1e3:.0f} ms;"
            f" {time.monotonic() - begin:.0f} s",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
