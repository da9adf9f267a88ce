"""Rates of random sizes under random demand: is one ever passed, and does a wait that was told suffice (goal R3)?

    python tests/benchmarks/rates.py [--seeds 200000]

Each seed draws a rate, its burst, and some dozens of claims, at once, spread out or after a rest. In every window, from
any claim to any later one, no more may be granted than the burst and what flowed meanwhile; and a claim that was told
to come again is granted when it does. This is the arithmetic that every store is held to by its contract; whole meshes
on shared stores, with clocks an hour wrong, are the matter of ``tests/simulation`` and ``tests/stores/servers``.
"""

from __future__ import annotations

import argparse
import random
import time
from math import inf

from modelmesh.interfaces.ledger import RateClaim
from modelmesh_cdk.ledger import MICROSECONDS, Books

CLAIMS = 40
BEGIN = 1_795_000_000 * MICROSECONDS


def run(seed: int) -> tuple[int, int]:
    """Carry a seed out; return how many claims were granted and refused.

    Raises:
        AssertionError: A window was passed, or a wait did not suffice.
    """
    lot = random.Random(seed)
    limit, period = lot.randint(1, 1_000), lot.choice((1, 60, 3_600, 86_400))
    burst = lot.randint(1, limit)
    books, now = Books(), BEGIN
    each = period * MICROSECONDS / limit  # microseconds in which one flows back
    granted = refused = spent = 0
    lowest = inf

    def claim(number: int, amount: int) -> float | None:
        nonlocal granted, spent, lowest
        moment = now / MICROSECONDS
        wanted = [RateClaim("rate", amount, limit, float(period), burst)]
        verdict = books.reserve(moment, f"{number}", wanted, lease=60.0, dispatched=True)
        if not verdict.granted:
            return verdict.retry_after
        books.settle(moment, f"{number}", {})
        flowed = now / each
        lowest = min(lowest, spent - flowed)
        spent += amount
        granted += 1
        assert spent - flowed - lowest <= burst + 1e-6 * burst + 1e-3, f"seed {seed}: a window was passed"
        return None

    for number in range(CLAIMS):
        amount = lot.randint(1, min(burst, 5))
        wait = claim(2 * number, amount)
        if wait is not None:
            refused += 1
            now += int(wait * MICROSECONDS) + 2
            assert claim(2 * number + 1, amount) is None, f"seed {seed}: the wait that was told did not suffice"
        kind = lot.random()
        now += 0 if kind < 0.5 else int(each * lot.random() * 4) if kind < 0.95 else int(each * burst * lot.random())
    return granted, refused


def main() -> None:
    """Run the seeds and print what they came to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=200_000)
    count = parser.parse_args().seeds
    began, granted, refused = time.monotonic(), 0, 0
    for seed in range(count):
        some, others = run(seed)
        granted, refused = granted + some, refused + others
    took = time.monotonic() - began
    print(f"{count:,} rates, {granted:,} claims granted, {refused:,} refused and granted later, 0 passed; {took:.0f} s")


if __name__ == "__main__":
    main()
