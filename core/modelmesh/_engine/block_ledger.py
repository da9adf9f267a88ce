"""Limits taken in blocks: a process reserves a slice of a shared limit and grants from it without asking again.

Where one store cannot carry a call per request, a block is one claim for many. The sum of all blocks never passes the
limit, so neither does what is granted from them. The price: what one process holds and does not use no other can until
the block's time is over; and a process that dies takes what was left of its blocks with it, as spent.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from math import ceil

from modelmesh._engine.coming_blocks import ComingBlocks
from modelmesh._engine.limit_rules import NO_LIMIT
from modelmesh._engine.unheard import ANSWERS
from modelmesh.errors import StateStoreError
from modelmesh.interfaces.ledger import GRANTED, Balance, Claim, Ledger, Verdict, WindowClaim
from modelmesh.interfaces.runtime import Clock, Random

BLOCK_SECONDS = 30.0
"""How long a process grants from a block before it gives the rest back."""

_LEASE_FACTOR = 4.0
"""How much longer the store waits at least for a block to be settled: requests granted late in it are on their way."""


@dataclass(slots=True)
class _Block:
    reservation: str
    account: str
    size: int
    ends_at: float
    settled_by: float
    spent: int = 0
    held: int = 0

    @property
    def left(self) -> int:
        return self.size - self.spent - self.held


@dataclass(slots=True)
class _Hold:
    blocks: dict[str, tuple[_Block, int]] = field(default_factory=dict)
    is_asked: bool = False
    answers: int = 1  # to releases that may know nothing of it; of one that was not heard of, it may be on its way


class BlockLedger:
    """Grants window claims from blocks of a shared ledger; rates and places are asked of it each time.

    Args:
        ledger: Keeps the limits.
        clock: Time.
        random: For the IDs of blocks.
        share: Part of a limit that a block takes, above 0 and at most 1.
        seconds: How long a block is granted from.
    """

    def __init__(
        self, ledger: Ledger, clock: Clock, random: Random, *, share: float, seconds: float = BLOCK_SECONDS
    ) -> None:
        self._ledger = ledger
        self._clock = clock
        self._share = share
        self._seconds = seconds
        self._prefix = f"block_{int(random.random() * 2**48):012x}_"
        self._number = 0
        self._guard = threading.Lock()  # requests run on several event loops, and blocks are tended on the mesh's own
        self._blocks: dict[str, list[_Block]] = {}
        self._coming = ComingBlocks()
        self._holds: dict[str, _Hold] = {}
        self._owed: list[_Block] = []

    @property
    def shared(self) -> Ledger:
        """The ledger that blocks are taken from."""
        return self._ledger

    async def reserve(
        self, reservation: str, claims: Sequence[Claim], *, lease: float, dispatched: bool = True
    ) -> Verdict:
        """Claim all or nothing, from blocks as far as they reach."""
        if reservation in self._holds:
            return GRANTED
        hold = self._holds[reservation] = _Hold()
        try:
            verdict = await self._take(hold, claims, lease)
            asked = [claim for claim in claims if not _is_taken_in_blocks(claim)]
            if verdict.granted and asked:
                hold.is_asked = True
                verdict = await self._ledger.reserve(reservation, asked, lease=lease, dispatched=dispatched)
                hold.is_asked = verdict.granted
        except BaseException:
            # The ledger is down, or the caller went away: what was not granted whole is not granted.
            self._forget(reservation)
            if hold.is_asked:
                # Perhaps, unheard: whoever claimed releases it.
                self._holds[reservation] = _Hold(is_asked=True, answers=ANSWERS)
            raise
        if not verdict.granted:
            await self._give_back(reservation)
        return verdict

    async def _take(self, hold: _Hold, claims: Sequence[Claim], lease: float) -> Verdict:
        for claim in claims:
            if not isinstance(claim, WindowClaim) or not _is_taken_in_blocks(claim):
                continue
            await self._retire(claim.account)
            found = await self._part_of_a_block(claim, lease)
            if isinstance(found, Verdict):
                return found
            hold.blocks[claim.account] = found, claim.amount
        return GRANTED

    async def _part_of_a_block(self, claim: WindowClaim, lease: float) -> _Block | Verdict:
        """Hold so much of a block that is there, of one that somebody has asked for already, or of a new one."""
        while True:
            found = self._from_block(claim, lease)
            if found is not None:
                return found
            coming = self._coming.join(claim.account, claim.amount, self._clock.monotonic() + lease)
            if coming is None:
                return await self._from_new_block(claim, lease)
            refusal = await asyncio.shield(coming.outcome)
            if refusal is not None and refusal.available < claim.amount:
                return refusal

    def _from_block(self, claim: WindowClaim, lease: float) -> _Block | None:
        """Hold so much of a block that has it, and that the store keeps until the request is settled at the latest."""
        settled_by = self._clock.monotonic() + lease
        with self._guard:
            for block in self._blocks.get(claim.account, ()):
                if block.left >= claim.amount and block.settled_by >= settled_by:
                    block.held += claim.amount
                    return block
        return None

    async def _from_new_block(self, claim: WindowClaim, lease: float) -> _Block | Verdict:
        size = max(claim.amount, ceil(claim.limit * self._share))
        # The last request that is granted from it is settled before its lease ends, and with it all counts as spent.
        lasts = self._seconds + max(lease, self._seconds * (_LEASE_FACTOR - 1.0))
        coming = self._coming.begin(claim.account, size - claim.amount, self._clock.monotonic() + lasts)
        refusal = None
        try:
            found = await self._ask_for_a_block(claim, size, lasts)
            refusal = found if isinstance(found, Verdict) else None
            return found
        finally:
            self._coming.end(coming, refusal)

    async def _ask_for_a_block(self, claim: WindowClaim, size: int, lasts: float) -> _Block | Verdict:
        verdict = Verdict(False)
        for _ in range(3):
            block = self._new(claim.account, size, lasts)
            try:
                verdict = await self._ledger.reserve(
                    block.reservation,
                    [WindowClaim(claim.account, size, claim.limit, claim.keep)],
                    lease=lasts,
                )
            except BaseException:
                self._owed.append(block)  # it may have been granted unheard, and would be spent when its lease ends
                raise
            if verdict.granted:
                with self._guard:
                    block.held = claim.amount
                    self._blocks.setdefault(claim.account, []).append(block)
                return block
            if verdict.available < claim.amount:
                break
            size = verdict.available
        return await self._refusal(claim, verdict)

    async def _refusal(self, claim: WindowClaim, verdict: Verdict) -> Verdict:
        """Say what could be granted, and when more may be there."""
        # What this process holds in crumbs counts as available: a smaller request would be granted from it.
        with self._guard:
            crumbs = max((block.left for block in self._blocks.get(claim.account, ())), default=0)
        available = max(verdict.available, crumbs)
        wait = None
        if not available:
            books = (await self._ledger.balances([claim.account]))[claim.account]
            # What is not spent is held in blocks, of which something may come back when their time is over.
            wait = self._seconds if books.reserved and books.spent < claim.limit else None
        return Verdict(False, claim.account, available, wait)

    def _new(self, account: str, size: int, lasts: float) -> _Block:
        with self._guard:
            self._number += 1
            name = f"{self._prefix}{self._number:x}"
        now = self._clock.monotonic()
        return _Block(name, account, size, now + self._seconds, now + lasts)

    async def _retire(self, account: str) -> None:
        """Settle the blocks of an account whose time is over or which are used up, once nothing is held of them."""
        if not self._blocks.get(account):
            return
        now = self._clock.monotonic()
        with self._guard:
            blocks = self._blocks.get(account, [])
            old = [block for block in blocks if not block.held and (now >= block.ends_at or not block.left)]
            if old or any(now >= block.ends_at for block in blocks):
                self._blocks[account] = [block for block in blocks if block not in old and now < block.ends_at]
        await self._give_all(old)

    async def _give_all(self, blocks: Sequence[_Block]) -> None:
        for place, block in enumerate(blocks):
            try:
                await self._give(block)
            except BaseException:
                self._owed += blocks[place + 1 :]
                raise

    async def _give(self, block: _Block) -> None:
        """Settle a block that nothing is granted from any more; one that the store does not take is owed to it."""
        try:
            await self._ledger.settle(block.reservation, {block.account: block.spent})
        except BaseException:
            self._owed.append(block)
            raise

    async def give_back_old(self) -> None:
        """Give back the rest of blocks whose time is over, also of accounts that nobody asks for any more."""
        owed, self._owed = self._owed, []
        try:
            while owed:
                with suppress(StateStoreError):  # it is owed again
                    await self._give(owed.pop())
        finally:
            self._owed += owed
        for account in list(self._blocks):
            with suppress(StateStoreError):  # they are owed
                await self._retire(account)
            with self._guard:
                if not self._blocks.get(account, True):
                    del self._blocks[account]

    async def tend(self) -> None:
        """Give old blocks back for as long as it runs: what a process that went quiet holds, others wait for."""
        while True:
            await self._clock.sleep(self._seconds / 2)
            await self.give_back_old()

    async def settle(self, reservation: str, actual: Mapping[str, int]) -> bool:
        """Book what was spent on the blocks it was granted from."""
        outcome = (await self.settle_all({reservation: actual}))[reservation]
        if isinstance(outcome, StateStoreError):
            raise outcome
        return outcome

    async def settle_all(self, settlements: Mapping[str, Mapping[str, int]]) -> Mapping[str, bool | StateStoreError]:
        """Book what was spent on the blocks, and settle the rest together."""
        outcomes: dict[str, bool | StateStoreError] = {}
        errors: dict[str, StateStoreError] = {}
        asked: dict[str, Mapping[str, int]] = {}
        for reservation, actual in settlements.items():
            hold = self._holds.pop(reservation, None)
            outcomes[reservation] = hold is not None
            if hold is None:
                continue
            if hold.is_asked:
                asked[reservation] = {account: spent for account, spent in actual.items() if account not in hold.blocks}
            try:
                await self._give_all(self._book(hold, actual))
            except StateStoreError as error:
                errors[reservation] = error
        if asked:
            outcomes.update(await self._ledger.settle_all(asked))
        return {**outcomes, **errors}

    def _book(self, hold: _Hold, actual: Mapping[str, int]) -> list[_Block]:
        """Book what was spent on all blocks of a hold; return those that are over by that, to be given back."""
        over: list[_Block] = []
        with self._guard:
            for account, (block, amount) in hold.blocks.items():
                block.held -= amount
                block.spent += actual.get(account, amount)
                blocks = self._blocks.get(account, [])
                # Used up, or retired while requests were on their way: this was the last of them.
                if not block.held and (block.left <= 0 or block not in blocks):
                    over.append(block)
                    if block in blocks:
                        blocks.remove(block)
        return over

    async def release(self, reservation: str) -> bool:
        """Give everything back, also what was granted elsewhere to a caller who did not wait to hear of it."""
        return await self._give_back(reservation)

    def _forget(self, reservation: str) -> None:
        """Give back to the blocks alone, without asking the ledger, to which one that is over is owed."""
        hold = self._holds.pop(reservation)
        self._owed += self._book(hold, dict.fromkeys(hold.blocks, 0))

    async def _give_back(self, reservation: str) -> bool:
        hold = self._holds.pop(reservation, None)
        if hold is None:
            return False
        over = self._book(hold, dict.fromkeys(hold.blocks, 0))
        try:
            return await self._release(reservation, hold.answers) if hold.is_asked else True
        finally:
            await self._give_all(over)

    async def _release(self, reservation: str, answers: int) -> bool:
        """Release what the ledger was asked for; until it has answered, the same may be asked again."""
        try:
            is_open = await self._ledger.release(reservation)
            answers = 0 if is_open else answers - 1
        finally:
            if answers:
                self._holds[reservation] = _Hold(is_asked=True, answers=answers)
        return is_open

    async def balances(self, accounts: Sequence[str]) -> Mapping[str, Balance]:
        """Return the shared books, in which blocks count as reserved."""
        return await self._ledger.balances(accounts)

    async def close(self) -> None:
        """Give the rest of every block back."""
        with self._guard:
            blocks, self._blocks = self._blocks, {}
            owed, self._owed = self._owed, []
        for each in (*blocks.values(), owed):
            for block in each:
                await self._ledger.settle(block.reservation, {block.account: block.spent + block.held})


def _is_taken_in_blocks(claim: Claim) -> bool:
    """Whether so much of it may be taken in advance.

    A rate would be let through at once, a place kept from others; and of what is only counted there is no part.
    """
    return isinstance(claim, WindowClaim) and claim.keep > 0 and claim.limit < NO_LIMIT
