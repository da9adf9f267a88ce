"""Blocks of limits that were asked for and are not there yet: requests that come meanwhile wait for them.

Without it, each of many requests that come at once would find no block and take one, until the whole limit is held in
blocks that are hardly begun.
"""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass

from modelmesh.interfaces.ledger import Verdict


@dataclass(slots=True)
class Coming:
    """A block on its way.

    Attributes:
        account: Of what.
        left: What nobody waits for of it.
        settled_by: Monotonic time until which the store keeps it at least.
        outcome: Done when the store has answered; the refusal if it was one, None if the block is there or nobody heard
            what became of it.
    """

    account: str
    left: int
    settled_by: float
    outcome: asyncio.Future[Verdict | None]


class ComingBlocks:
    """Knows who has asked for which; those who wait run on the event loop of whoever asked."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._coming: dict[str, list[Coming]] = {}

    def begin(self, account: str, left: int, settled_by: float) -> Coming:
        """Note that a block is asked for, of which so much is left for others; end it whatever comes of it."""
        coming = Coming(account, left, settled_by, asyncio.get_running_loop().create_future())
        with self._guard:
            self._coming.setdefault(account, []).append(coming)
        return coming

    def end(self, coming: Coming, refusal: Verdict | None) -> None:
        """Let those who wait go on: with the refusal, or to look whether the block is there."""
        with self._guard:
            self._coming[coming.account].remove(coming)
            if not self._coming[coming.account]:
                del self._coming[coming.account]
        coming.outcome.set_result(refusal)

    def join(self, account: str, amount: int, settled_by: float) -> Coming | None:
        """Return one that has enough left for a request that is settled by then, None if there is none."""
        loop = asyncio.get_running_loop()
        with self._guard:
            for coming in self._coming.get(account, ()):
                is_enough = coming.left >= amount and coming.settled_by >= settled_by
                if is_enough and coming.outcome.get_loop() is loop:
                    coming.left -= amount
                    return coming
        return None
