"""Watches money, quotas and rates: R1 (never over), R2 (leases end), R3 (rates), R17 (calendars)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from modelmesh.interfaces.ledger import NANO_USD, Claim, RateClaim, Verdict, WindowClaim
from modelmesh_cdk.ledger import Books

if TYPE_CHECKING:
    from modelmesh_cdk.testing.simulation.watch import Watch
    from modelmesh_cdk.testing.simulation.world import World

_DATE = re.compile(r"/(\d{4}-\d{2}(?:-\d{2})?)$")
_BLOCK = 120.0
"""Seconds that the lease of a block lasts, of which a process grants by itself."""
_MARGIN = 31.0
"""Seconds by which a lease may outlast the longest attempt, and one more."""
_ON_THE_WAY = 1.5
"""Seconds that a claim may be on its way to the store, and that a jump of the clock therefore excuses."""


class LedgerWatch:
    """Holds the books against what they promise, and the calendar of accounts against the clock on the wall."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._limits = _limits(watch.world)
        self._taken: dict[tuple[int, str], list[tuple[str, int]]] = {}
        self._levels: dict[tuple[int, str], tuple[float, float]] = {}
        world = watch.world
        self._is_strict = all(ask.max_tokens is not None for ask in world.asks)
        self._longest = float(world.pool.get("timeouts", {}).get("total") or 3_600.0)
        if world.storage.get("lease_share"):
            self._longest = max(self._longest, _BLOCK)
        self._zones = {
            **{
                f"{kind}/provider/{spec.name}/": ZoneInfo(spec.settings[section].get("timezone", "UTC"))
                for spec in world.providers
                for kind, section in (("budget", "budget"), ("quota", "quota"))
                if section in spec.settings
            },
            **{
                f"{kind}/pool/": ZoneInfo(world.pool.get("deactivation", {}).get("timezone", "UTC"))
                for kind in ("budget", "limit")
            },
        }

    def reserved(
        self,
        process: int,
        books: Books,
        now: float,
        reservation: str,
        claims: Sequence[Claim],
        lease: float,
        verdict: Verdict,
    ) -> None:
        """Look at a reservation."""
        if lease > self._longest + _MARGIN:
            self._watch.broke("R2", f"a lease of {lease:.0f} s, where no attempt lasts longer than {self._longest:g} s")
        for claim in claims:
            if isinstance(claim, WindowClaim):
                self._look_at_calendar(process, claim)
                if verdict.granted:
                    self._look_at_window(books, claim.account)
            elif verdict.granted:
                self._look_at_rate(books, now, reservation, claim)

    def settled(self, books: Books, now: float) -> None:
        """Look at every window after a settlement."""
        if not self._is_strict:
            return  # an answer that nobody bounded may cost more than was reserved
        for account in books.windows:
            self._look_at_window(books, account)

    def _look_at_window(self, books: Books, account: str) -> None:
        window = books.windows.get(account)
        limit = self._limits.get(_DATE.sub("", account))
        if window is not None and limit is not None and window.spent + window.reserved > limit:
            self._watch.broke(
                "R1", f"{account} holds {window.spent} spent and {window.reserved} reserved, and its limit is {limit}"
            )

    def released(self, books: Books, reservation: str) -> None:
        """Take what was given back out of our own buckets: a call that was not made passes no rate."""
        for account, amount in self._taken.pop((id(books), reservation), ()):
            level, since = self._levels[id(books), account]
            self._levels[id(books), account] = (max(0.0, level - amount), since)

    def _look_at_rate(self, books: Books, now: float, reservation: str, claim: RateClaim) -> None:
        """Keep a bucket of our own, in floats and by another rule than the ledger's integers."""
        if not claim.account.endswith(("/rpm", "/requests")):
            return  # tokens flow back when an answer took fewer than were reserved
        key = (id(books), claim.account)
        level, since = self._levels.get(key, (0.0, now))
        level = max(0.0, level - (now - since) * claim.limit / claim.period) + claim.amount
        self._levels[key] = (level, now)
        self._taken.setdefault((id(books), reservation), []).append((claim.account, claim.amount))
        if level > claim.burst + 1e-3:
            self._watch.broke("R3", f"{claim.account} let {level:.3f} through at once, and its burst is {claim.burst}")

    def _look_at_calendar(self, process: int, claim: WindowClaim) -> None:
        found = _DATE.search(claim.account)
        if found is None:
            return
        zone = next((zone for start, zone in self._zones.items() if claim.account.startswith(start)), ZoneInfo("UTC"))
        process_now = self._watch.processes[process]
        if self._watch.loop.time() - process_now.jumped_at < _ON_THE_WAY:
            return
        wall = process_now.clock.time()
        said = found[1]
        names = {_date(moment, zone)[: len(said)] for moment in (wall, wall - _ON_THE_WAY)}
        if said not in names:
            self._watch.broke("R17", f"{claim.account} is claimed from on {' or '.join(sorted(names))}, {zone.key}")
        if _date(wall + claim.keep, zone)[: len(said)] <= said:
            self._watch.broke("R17", f"{claim.account} would be forgotten within its own window, in {claim.keep:.0f} s")

    # --- when it is over ----------------------------------------------------------------------

    def at_rest(self) -> None:
        """Look for reservations that no request holds any more; a store that failed may still have some."""
        if any(fault.kind in ("store_down", "store_slow", "crash") for fault in self._watch.world.faults):
            return
        for books in self._books():
            requests = [name for name in books.reservations if not name.startswith("block_")]
            if requests:
                self._watch.broke("R7", f"{len(requests)} reservations are open at rest, such as {requests[0]}")

    def longest_lease(self) -> float:
        """Seconds after which every lease has ended."""
        return self._longest + _MARGIN

    def after_leases(self) -> None:
        """Look for what is reserved after every lease, and for spending that nobody booked."""
        for process in self._watch.processes:
            books = process.books.books
            books.balances(process.books.now(), ())
            if books.reservations:
                name = next(iter(books.reservations))
                self._watch.broke("R2", f"{len(books.reservations)} reservations outlive their leases, such as {name}")
            for account, window in books.windows.items():
                if window.reserved:
                    self._watch.broke("R2", f"{account} holds {window.reserved} for reservations that are over")
        if self._is_strict:
            self._look_for_unbooked()

    def _look_for_unbooked(self) -> None:
        """Hold what providers charge against what was booked as spent."""
        books = self._books()
        for spec in self._watch.world.providers:
            if "budget" not in spec.settings:
                continue
            billed = sum(call.billed for call in self._watch.calls if call.provider == spec.name)
            cost = round(billed * spec.price / 1_000.0 * NANO_USD)
            start = f"budget/provider/{spec.name}/"
            booked = sum(
                window.spent for each in books for name, window in each.windows.items() if name.startswith(start)
            )
            if booked < cost:
                self._watch.broke("R1", f"provider {spec.name} charges {cost} nano-USD and {booked} are booked")

    def _books(self) -> list[Books]:
        found: dict[int, Books] = {id(process.books): process.books.books for process in self._watch.processes}
        return list(found.values())


def _date(moment: float, zone: ZoneInfo) -> str:
    return f"{datetime.fromtimestamp(moment, UTC).astimezone(zone):%Y-%m-%d}"


def _limits(world: World) -> dict[str, int]:
    """Return the limit of each account, as the configuration means it."""
    found: dict[str, int] = {}
    rules = world.pool.get("deactivation", {})
    for spec in world.providers:
        budget, quota = spec.settings.get("budget", {}), spec.settings.get("quota", {})
        for kind in ("daily", "monthly"):
            if f"{kind}_limit" in budget:
                found[f"budget/provider/{spec.name}/{kind}"] = round(budget[f"{kind}_limit"] * NANO_USD)
        for unit in ("requests", "tokens"):
            if unit in quota:
                found[f"quota/provider/{spec.name}/{quota.get('reset_schedule', 'monthly')}/{unit}"] = quota[unit]
        for model in spec.model_names:
            if "request_limit" in rules:
                found[f"limit/pool/chat/{model}/requests"] = rules["request_limit"]
            if "budget_limit" in rules:
                found[f"budget/pool/chat/{model}"] = round(rules["budget_limit"] * NANO_USD)
    return found
