"""A process that reserves and settles until it is killed, and writes down what it was told."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from importlib import import_module
from typing import Any

from modelmesh.interfaces.ledger import RateClaim, WindowClaim
from modelmesh_cdk.testing import context
from modelmesh_cdk.testing.store_worker import RealClock


class SkewedClock(RealClock):
    """The system's clock, put wrong by so many seconds."""

    def __init__(self, skew: float) -> None:
        self._skew = skew

    def time(self) -> float:  # type: ignore[override]  # the base has a static method
        """Unix time, wrong."""
        return time.time() + self._skew


async def _spend(store: Any, witness: int, seconds: float) -> None:
    """Reserve 10 and settle 4, again and again; each answer is written down before the next question."""
    ends_at = time.monotonic() + seconds
    number = 0
    while time.monotonic() < ends_at:
        name = f"{os.getpid()}-{number}"
        os.write(witness, f"ask {name}\n".encode())
        claim = WindowClaim("budget", 10, 2**50, 3_600.0)
        verdict = await store.reserve(name, [claim], lease=1.0)
        if not verdict.granted:
            raise RuntimeError(f"refused: {verdict}")
        os.write(witness, f"reserved {name}\n".encode())
        if await store.settle(name, {"budget": 4}):
            os.write(witness, f"settled {name}\n".encode())
        number += 1


async def _flow(store: Any, seconds: float) -> int:
    """Take from a rate as fast as it gives; return how often."""
    ends_at = time.monotonic() + seconds
    granted = number = 0
    while time.monotonic() < ends_at:
        claim = RateClaim("flow", 1, 50, 1.0, 5)
        verdict = await store.reserve(f"{os.getpid()}-{number}", [claim], lease=60.0)
        number += 1
        if verdict.granted:
            granted += 1
        else:
            await asyncio.sleep(min(verdict.retry_after or 0.01, max(0.0, ends_at - time.monotonic())))
    return granted


async def main(home: str, name: str, settings: str, task: str, *arguments: str) -> None:
    """Build the store, say so, wait for a line, and do what is asked."""
    module = import_module(home)
    config = getattr(module, f"{name}Config")(**json.loads(settings))
    store = getattr(module, f"{name}StateStore")(config)
    store.bind(context("storage", clock=SkewedClock(float(arguments[-1]) if task == "flow" else 0.0)))
    await store.load("ready")
    _say("ready")
    sys.stdin.readline()
    if task == "spend":
        witness = os.open(arguments[0], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        await _spend(store, witness, float(arguments[1]))
    else:
        _say(str(await _flow(store, float(arguments[0]))))
    await store.close()


def _say(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
