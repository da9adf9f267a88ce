"""What is left of configured limits: how much, until when, and when it is used up at the present pace."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from modelmesh.errors import StateStoreError
from modelmesh.interfaces.ledger import NANO_USD, Balance, Ledger

if TYPE_CHECKING:
    from modelmesh._engine.kept_headroom import Seen
    from modelmesh._engine.limit_rules import Limit
    from modelmesh._engine.provider_service import ProviderService
    from modelmesh.config import Configuration
    from modelmesh.interfaces.provider import RateLimitStatus


@dataclass(slots=True)
class QuotaRow:
    """One limit as it stands.

    Attributes:
        subject: What it limits, for people.
        unit: ``USD``, ``requests`` or ``tokens``.
        limit: The most, in that unit.
        spent: Spent for good.
        reserved: Held by requests on their way.
        resets_at: Unix time at which it begins anew; None when it does not.
        runs_out_at: Unix time at which it is used up if it goes on like this; None when it lasts until the reset.
    """

    subject: str
    unit: str
    limit: float
    spent: float
    reserved: float
    resets_at: float | None = None
    runs_out_at: float | None = None

    @property
    def left(self) -> float:
        """What may still be claimed, 0 or more."""
        return max(0.0, self.limit - self.spent - self.reserved)


@dataclass(slots=True)
class HeadroomRow:
    """What a provider last said about its own limits; see `modelmesh.interfaces.provider.RateLimitStatus`.

    Attributes:
        provider: Its configured name.
        status: As it said, or fresh if the window is over since.
        seen_at: Unix time of that answer; None where no store keeps it.
        resets_at: Unix time at which the window is fresh; None when it did not say.
        runs_out_at: Unix time at which nothing is left if it goes on like this; None when that is not before the reset.
    """

    provider: str
    status: RateLimitStatus
    seen_at: float | None = None
    resets_at: float | None = None
    runs_out_at: float | None = None


@dataclass(frozen=True, slots=True)
class RollingQuota:
    """A quota that flows back evenly. Its account is the moment at which it is full again: no number says what is left.

    Attributes:
        subject: What it limits, for people.
        unit: ``requests`` or ``tokens``.
        limit: The most in its period, in that unit.
        period: Seconds over which all of it flows back.
    """

    subject: str
    unit: str
    limit: float
    period: float


async def quota_rows(limits: Iterable[Limit], ledger: Ledger, now: float) -> list[QuotaRow]:
    """Return how windows and budgets stand; what flows back (`rolling_quotas` and rates) has no books and is left out.

    Args:
        limits: As configured.
        ledger: Keeps their accounts.
        now: Unix time.

    Raises:
        StateStoreError: The ledger does not answer, or with something else.
    """
    windows = [limit for limit in limits if limit.period is None]
    accounts = [limit.claim(0, now).account for limit in windows]
    balances = _checked(await ledger.balances(accounts), accounts, ledger)
    rows: list[QuotaRow] = []
    for limit, account in zip(windows, accounts, strict=True):
        balance = balances[account]
        begins, ends = (None, None) if limit.window is None else limit.window.span(now)
        row = QuotaRow(
            limit.subject,
            "USD" if limit.unit == "nano_usd" else limit.unit,
            _shown(limit, limit.amount),
            _shown(limit, balance.spent),
            _shown(limit, balance.reserved),
            ends,
        )
        if begins is not None and ends is not None:
            row.runs_out_at = _runs_out(row, begins, ends, now)
        rows.append(row)
    return rows


def rolling_quotas(configuration: Configuration) -> list[RollingQuota]:
    """Return the rolling quotas of a configuration's providers that are enabled."""
    from modelmesh._engine.limit_rules import provider_limits

    return [
        RollingQuota(limit.subject, limit.unit, limit.amount, limit.period)
        for name, entry in configuration.providers.items()
        if entry.enabled
        for limit in provider_limits(name, None, entry.quota, None)
        if limit.period is not None
    ]


def headroom_rows(providers: Mapping[str, ProviderService], seen: Mapping[str, Seen], now: float) -> list[HeadroomRow]:
    """Return what each provider last said about its limits; those that said nothing are left out.

    Args:
        providers: By configured name.
        seen: What is kept of them in the store.
        now: Unix time.
    """
    rows: list[HeadroomRow] = []
    for name, provider in providers.items():
        kept, own = seen.get(name), provider.rate_limits
        if kept is None:
            if own is not None:
                rows.append(HeadroomRow(name, own))
            continue
        ends = kept.newest.resets_at
        row = HeadroomRow(name, kept.as_of(now), kept.newest.at)
        if ends is None or now < ends:
            row.resets_at, row.runs_out_at = ends, kept.runs_out_at()
        rows.append(row)
    return rows


def _checked(balances: Any, accounts: list[str], ledger: Ledger) -> Mapping[str, Balance]:
    """Return books of all accounts, as the ledger's interface promises them."""
    if isinstance(balances, Mapping) and all(isinstance(balances.get(account), Balance) for account in accounts):
        return balances
    from modelmesh._engine.origin import class_name

    raise StateStoreError(
        f"state store {class_name(type(ledger))} answered for the books of accounts with {type(balances).__name__};"
        " its balances has to return a mapping with a Balance for each account it is asked for"
    )


def _shown(limit: Limit, amount: int) -> float:
    return amount / NANO_USD if limit.unit == "nano_usd" else amount


def _runs_out(row: QuotaRow, begins: float, ends: float, now: float) -> float | None:
    """Return when a window is used up if the rest of it goes as its beginning went."""
    passed = now - begins
    if not row.left:
        return now
    if passed <= 0 or row.spent <= 0:
        return None
    moment = now + row.left / (row.spent / passed)
    return moment if moment < ends else None
