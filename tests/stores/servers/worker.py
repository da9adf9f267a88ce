"""Processes that use a store: children that spend until they are killed, and takers of a rate with a wrong clock."""

from __future__ import annotations

import asyncio
import json
import os
import signal
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


def build(home: str, name: str, settings: str, skew: float) -> Any:
    """Build the store a test describes."""
    module = import_module(home)
    config = getattr(module, f"{name}Config")(**json.loads(settings))
    store = getattr(module, f"{name}StateStore")(config)
    store.bind(context("storage", clock=SkewedClock(skew)))
    return store


async def spend(store: Any, witness: str) -> None:
    """Spend until killed, 20 seconds at most."""
    await _spend(store, os.open(witness, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644), 20.0)


async def flow(store: Any, seconds: float) -> None:
    """Say when ready; after a line, take from a rate, and say how often it gave."""
    await store.load("ready")
    _say("ready")
    sys.stdin.readline()
    _say(str(await _flow(store, seconds)))
    await store.close()


def nursery(words: tuple[str, str, str], witness: str) -> None:
    """For each line, give birth to a child that spends, and say its number: imports are done once for all of them."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    import_module(words[0])
    for _ in sys.stdin:
        child = os.fork()
        if not child:
            asyncio.run(spend(build(*words, 0.0), witness))
            os._exit(0)
        _say(str(child))


def _say(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    store_words, (task, argument, *rest) = sys.argv[1:4], sys.argv[4:]
    if task == "nursery":
        nursery((store_words[0], store_words[1], store_words[2]), argument)
    else:
        asyncio.run(flow(build(*store_words, float(rest[0])), float(argument)))
