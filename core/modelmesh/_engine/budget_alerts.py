"""Warnings of budgets that come near their limits: one for each, once a window."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from modelmesh.interfaces.ledger import NANO_USD, Balance, Ledger
from modelmesh.interfaces.observability import Severity

if TYPE_CHECKING:
    from modelmesh._engine.limit_rules import Limit
    from modelmesh._engine.telemetry import Telemetry
    from modelmesh.interfaces.runtime import Clock

LOOK_SECONDS = 1.0
"""How often a ledger elsewhere is asked at most: what is spent there tells nobody by itself."""


class BudgetAlerts:
    """Traces a warning for each budget of which the share ``alert_threshold`` is spent.

    Args:
        ledger: Keeps the budgets.
        clock: Time.
        telemetry: Told.
    """

    def __init__(self, ledger: Ledger, clock: Clock, telemetry: Telemetry) -> None:
        self._ledger = ledger
        self._clock = clock
        self._telemetry = telemetry
        self._told: set[tuple[str, int]] = set()
        self._changed: dict[str, Limit] = {}
        self._look_at = 0.0

    def go_on_from(self, before: BudgetAlerts) -> None:
        """Warn no more of what was warned of under an earlier configuration; a limit that was changed is another."""
        self._told |= before._told

    def note(self, accounts: Iterable[tuple[Limit, str]]) -> None:
        """Have budgets looked at of which something is just being spent elsewhere."""
        for limit, account in accounts:
            if limit.alert is not None and (account, limit.amount) not in self._told:
                self._changed[account] = limit

    async def look(self, *, at_once: bool = False) -> None:
        """Ask the ledger after the budgets that were noted, unless it was asked a moment ago."""
        now = self._clock.monotonic()
        if not self._changed or not self._telemetry.wants_warning or (now < self._look_at and not at_once):
            return
        self._look_at = now + LOOK_SECONDS
        changed, self._changed = self._changed, {}
        try:
            balances = await self._ledger.balances(list(changed))
        except Exception:  # of a store whoever wrote it; that it fails is told where it settles
            return
        self.tell([(limit, account) for account, limit in changed.items()], balances)

    def tell(self, accounts: Iterable[tuple[Limit, str]], balances: Mapping[str, Balance]) -> None:
        """Warn of those that have come near."""
        for limit, account in accounts:
            spent, known = balances[account].spent, (account, limit.amount)
            if limit.alert is None or spent < limit.alert * limit.amount or known in self._told:
                continue
            self._told.add(known)
            self._telemetry.trace(
                Severity.WARNING,
                "budget",
                f"{limit.subject}: {spent / limit.amount:.0%} is spent",
                {"account": account, "spent_usd": spent / NANO_USD, "limit_usd": limit.amount / NANO_USD},
            )
