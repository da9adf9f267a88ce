"""Limits hold when processes die and when their clocks are wrong (R2, R3; R1 is in the contract)."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import Popen
from typing import Any

from modelmesh.interfaces.ledger import Balance

ROUNDS = int(os.environ.get("MODELMESH_KILL_ROUNDS", "20"))
LEASE = 1.0
"""Seconds the worker's reservations last."""


def test_killed_processes_neither_leak_nor_give_away(
    shared: Any, workers: Callable[..., Popen[str]], tmp_path: Path
) -> None:
    """After many kills the books hold every settled 4, and 10 for each request that was cut off, at its lease's end."""
    seed = random.randrange(10**6)
    draw = random.Random(seed)
    witness = tmp_path / "witness"
    started = time.monotonic()

    nursery = workers(*shared.words, "nursery", witness)
    for _ in range(ROUNDS):
        children = [_born(nursery) for _ in range(2)]
        for child in children:
            time.sleep(draw.uniform(0.005, 0.1))
            os.kill(child, signal.SIGKILL)
    low, high, requests = _expected(witness.read_text())
    books = asyncio.run(_after_leases(shared))

    assert requests >= ROUNDS, "hardly anything was asked"
    assert books.reserved == 0, f"seed {seed}: a lease did not end"
    assert low <= books.spent <= high, f"seed {seed}: {books.spent} is not within {low} to {high}"
    assert time.monotonic() - started < 30.0 + ROUNDS


def test_wrong_clocks_of_processes_pass_no_rate(shared: Any, workers: Callable[..., Popen[str]]) -> None:
    """Four processes, of which two are an hour wrong, take together what one clock would give, and nearly all of it."""
    seconds = 1.5
    running = [workers(*shared.words, "flow", seconds, skew) for skew in (0.0, 3_600.0, -3_600.0, 0.0)]
    for worker in running:
        _ready(worker)
    begin = time.monotonic()
    for worker in running:
        _start(worker)
    granted = sum(int(worker.stdout.readline()) for worker in running if worker.stdout)
    duration = time.monotonic() - begin

    assert granted <= 5 + 50 * duration
    assert granted >= 0.9 * 50 * seconds


def _expected(witness: str) -> tuple[int, int, int]:
    """What must be spent, what may be, and how many requests there were.

    A question without an answer may have reached the store or not; a reservation without the settlement's answer was
    settled at 4, or is spent at 10.
    """
    asked, reserved, settled = (
        {line.split()[1] for line in witness.splitlines() if line.startswith(f"{word} ")}
        for word in ("ask", "reserved", "settled")
    )
    low = 4 * len(settled) + 4 * len(reserved - settled)
    high = 4 * len(settled) + 10 * len(asked - settled)
    return low, high, len(asked)


async def _after_leases(shared: Any) -> Balance:
    store = shared.make()
    try:
        ends_at = time.monotonic() + LEASE + 2.0
        while True:
            books: Balance = (await store.balances(["budget"]))["budget"]
            if not books.reserved or time.monotonic() > ends_at:
                return books
            await asyncio.sleep(0.05)
    finally:
        await store.close()


def _ready(worker: Popen[str]) -> None:
    assert worker.stdout is not None
    assert worker.stdout.readline() == "ready\n"


def _start(worker: Popen[str]) -> None:
    assert worker.stdin is not None
    worker.stdin.write("go\n")
    worker.stdin.flush()


def _born(nursery: Popen[str]) -> int:
    _start(nursery)
    assert nursery.stdout is not None
    return int(nursery.stdout.readline())
