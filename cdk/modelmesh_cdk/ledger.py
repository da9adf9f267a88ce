"""The arithmetic of limits: accounts, windows, rates and leases, with the time passed in and nothing kept elsewhere.

`Books` is what `modelmesh.interfaces.ledger` promises, in plain integers. Stores that keep their state in one process
use it as it is; stores that keep it in tables load the accounts a call names, let `Books` decide, and write them back;
the contract of state stores holds all of them to it.

Times become whole microseconds. A rate's debt is kept in amount × microseconds of its period, which drains ``limit``
each microsecond: no division, so nothing is lost to rounding, however odd the limit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from heapq import heapify, heappop, heappush
from typing import Any, TypeAlias

from modelmesh.errors import StateStoreError
from modelmesh.interfaces.ledger import GRANTED, LARGEST_AMOUNT, Balance, Claim, RateClaim, Verdict, WindowClaim

MICROSECONDS = 1_000_000
"""In a second."""

LONGEST_SECONDS = 1e10
"""The longest lease, period, and time an account is kept: three centuries, which all stores count in microseconds."""

SWEEP_SECONDS = 60
"""How often accounts that nobody needs any more are looked for."""

Line: TypeAlias = tuple[str, int, int, int, int]
"""What a reservation holds of one account: account, amount; of a rate also its limit, its period and the moment its
debt would have been drained had nothing come after (microseconds). A window's last three are 0."""


class Window:
    """What one window account holds.

    Attributes:
        spent: For good.
        reserved: By reservations whose lease runs.
        keep: Microseconds it is kept after a change.
        forget_at: From this moment on it may be forgotten, once nothing is reserved.
    """

    __slots__ = ("forget_at", "keep", "reserved", "spent")

    def __init__(self, spent: int = 0, reserved: int = 0, keep: int = 0, forget_at: int = 0) -> None:
        self.spent = spent
        self.reserved = reserved
        self.keep = keep
        self.forget_at = forget_at

    def state(self) -> tuple[int, int, int, int]:
        """Return what makes it again."""
        return self.spent, self.reserved, self.keep, self.forget_at


class Rate:
    """What one rate account owes.

    Attributes:
        debt: Amount × period at ``at``; 0 when rested.
        at: The moment it was counted.
        limit: Drained each microsecond.
        period: Microseconds.
    """

    __slots__ = ("at", "debt", "limit", "period")

    def __init__(self, debt: int = 0, at: int = 0, limit: int = 1, period: int = 1) -> None:
        self.debt = debt
        self.at = at
        self.limit = limit
        self.period = period

    def state(self) -> tuple[int, int, int, int]:
        """Return what makes it again."""
        return self.debt, self.at, self.limit, self.period

    def owed(self, now: int, limit: int, period: int) -> int:
        """What is left of the debt now, counted in another period if need be, drained by the given limit."""
        debt = self.debt if period == self.period else -(-self.debt * period // self.period)
        passed = now - self.at
        # A clock that was put back drains nothing; counting goes on from its new time.
        return max(0, debt - passed * limit) if passed > 0 else debt


class Reservation:
    """What was claimed and is not settled yet.

    Attributes:
        ends_at: When its lease ends, in microseconds.
        dispatched: Whether it then counts as spent.
        lines: What it holds.
    """

    __slots__ = ("dispatched", "ends_at", "lines")

    def __init__(self, ends_at: int, dispatched: bool, lines: Sequence[Line]) -> None:
        self.ends_at = ends_at
        self.dispatched = dispatched
        self.lines = lines


class Books:
    """Accounts and reservations. Not thread-safe: whoever shares it locks around each call.

    Times are seconds of one clock, the same in all calls; it may be put back, which delays what hangs on it and gives
    nothing away. A reservation that was settled, released or ended is forgotten.

    Attributes:
        windows: Window accounts by name.
        rates: Rate accounts by name.
        reservations: Open ones by ID.
    """

    def __init__(self) -> None:
        self.windows: dict[str, Window] = {}
        self.rates: dict[str, Rate] = {}
        self.reservations: dict[str, Reservation] = {}
        self._leases: list[tuple[int, str]] = []
        self._sweep_at = 0

    # --- what the border promises ---------------------------------------------------------

    def reserve(
        self, now: float, reservation: str, claims: Sequence[Claim], *, lease: float, dispatched: bool = True
    ) -> Verdict:
        """Claim all or nothing."""
        moment = int(now * MICROSECONDS)
        self._catch_up(moment)
        if self._reservation(reservation) is not None:
            return GRANTED
        taken: list[tuple[Claim, Any, int, int]] = []
        for claim in claims:
            if isinstance(claim, WindowClaim):
                window = self._window(claim.account)
                if window is None or (window.forget_at <= moment and not window.reserved):
                    held = 0
                else:
                    held = window.spent + window.reserved
                if held + claim.amount > claim.limit:
                    return Verdict(False, claim.account, max(0, claim.limit - held))
                taken.append((claim, window, held, 0))
            else:
                rate = self._rate(claim.account)
                period = int(claim.period * MICROSECONDS)
                owed = 0
                if rate is not None:
                    owed = rate.owed(moment, claim.limit, period)
                    # Even when refused: else an account in debt would stand still until a clock that was put back
                    # has come to its old time again.
                    rate.at = min(rate.at, moment)
                over = owed + (claim.amount - claim.burst) * period
                if over > 0:
                    wait = -(-over // claim.limit) / MICROSECONDS if claim.amount <= claim.burst else None
                    return Verdict(False, claim.account, max(0, (claim.burst * period - owed) // period), wait)
                taken.append((claim, rate, owed, period))
        lines = [self._take(moment, *each) for each in taken]
        ends_at = moment + int(lease * MICROSECONDS)
        self.reservations[reservation] = Reservation(ends_at, dispatched, lines)
        heappush(self._leases, (ends_at, reservation))
        return GRANTED

    def settle(self, now: float, reservation: str, actual: Mapping[str, int]) -> bool:
        """Replace what was reserved by what was spent; return whether the reservation was open."""
        moment = int(now * MICROSECONDS)
        self._catch_up(moment)
        found = self._reservation(reservation)
        if found is None:
            return False
        self._close(reservation)
        for line in found.lines:
            self._settle_line(moment, line, actual.get(line[0], line[1]))
        return True

    def release(self, now: float, reservation: str) -> bool:
        """Give everything back; return whether the reservation was open."""
        moment = int(now * MICROSECONDS)
        self._catch_up(moment)
        found = self._reservation(reservation)
        if found is None:
            return False
        self._close(reservation)
        for line in found.lines:
            self._settle_line(moment, line, 0)
        return True

    def balances(self, now: float, accounts: Iterable[str]) -> dict[str, Balance]:
        """Return the books of window accounts; unknown ones are empty."""
        moment = int(now * MICROSECONDS)
        self._catch_up(moment)
        balances = {}
        for account in accounts:
            window = self._window(account)
            if window is None or (window.forget_at <= moment and not window.reserved):
                balances[account] = Balance()
            else:
                balances[account] = Balance(window.spent, window.reserved)
        return balances

    # --- keeping and reading back ---------------------------------------------------------

    def dump(self) -> dict[str, Any]:
        """Return everything as lists, numbers and text, for `Books.read`."""
        return {
            "windows": {account: list(window.state()) for account, window in self.windows.items()},
            "rates": {account: list(rate.state()) for account, rate in self.rates.items()},
            "reservations": {
                name: [each.ends_at, each.dispatched, [list(line) for line in each.lines]]
                for name, each in self.reservations.items()
            },
        }

    @classmethod
    def read(cls, dumped: Mapping[str, Any]) -> Books:
        """Make the books that `dump` described.

        Raises:
            ValueError: They are no such description; or KeyError, TypeError.
        """
        books = cls()
        for account, (spent, reserved, keep, forget_at) in dumped["windows"].items():
            books.windows[account] = Window(int(spent), int(reserved), int(keep), int(forget_at))
        for account, (debt, at, limit, period) in dumped["rates"].items():
            books.rates[account] = Rate(int(debt), int(at), int(limit), int(period))
        for name, (ends_at, dispatched, lines) in dumped["reservations"].items():
            books.open(name, int(ends_at), bool(dispatched), read_lines(lines))
        return books

    def open(self, reservation: str, ends_at: int, dispatched: bool, lines: Sequence[Line]) -> None:
        """Put in a reservation whose accounts count it already."""
        self.reservations[reservation] = Reservation(ends_at, dispatched, lines)
        heappush(self._leases, (ends_at, reservation))

    # --- where accounts come from; tables override these -------------------------------------

    def _window(self, account: str) -> Window | None:
        return self.windows.get(account)

    def _rate(self, account: str) -> Rate | None:
        return self.rates.get(account)

    def _reservation(self, reservation: str) -> Reservation | None:
        return self.reservations.get(reservation)

    # --- inside -------------------------------------------------------------------------------

    def _take(self, moment: int, claim: Claim, account: Any, held: int, period: int) -> Line:
        """Book one claim that was found to fit; ``held`` is what a window holds or a rate owes before."""
        if isinstance(claim, WindowClaim):
            if account is None:
                account = self.windows[claim.account] = Window()
            elif not held:
                account.spent = 0  # it may be one that was to be forgotten
            account.reserved += claim.amount
            account.keep = int(claim.keep * MICROSECONDS)
            account.forget_at = max(account.forget_at, moment + account.keep)
            return claim.account, claim.amount, 0, 0, 0
        if account is None:
            account = self.rates[claim.account] = Rate()
        account.debt = debt = held + claim.amount * period
        account.at, account.limit, account.period = moment, claim.limit, period
        return claim.account, claim.amount, claim.limit, period, moment - (-debt // claim.limit)

    def _settle_line(self, moment: int, line: Line, actual: int) -> None:
        account, amount, limit, period, drained_at = line
        if not limit:
            window = self._window(account)
            if window is None:
                window = self.windows[account] = Window(reserved=amount)
            window.reserved -= amount
            window.spent += actual
            window.forget_at = max(window.forget_at, moment + window.keep)
            return
        if actual == amount:
            return
        rate = self._rate(account)
        if rate is None:
            rate = self.rates[account] = Rate(0, moment, limit, period)
        owed = rate.owed(moment, rate.limit, rate.period)
        change = (actual - amount) * period
        if change < 0:
            # Only what still weighs on the account flows back. What was drained meanwhile is lost: had it flowed
            # earlier, the account would have stood at zero, and a rate does not save up.
            change = -min(-change, max(0, drained_at - moment) * limit)
        rate.debt = max(0, owed + change * rate.period // period)
        rate.at = moment

    def _close(self, reservation: str) -> None:
        del self.reservations[reservation]
        # Ended leases leave the heap when their time comes; so many that never will are cleared out at once.
        if len(self._leases) > 2 * len(self.reservations) + 64:
            self._leases = [(each.ends_at, name) for name, each in self.reservations.items()]
            heapify(self._leases)

    def _catch_up(self, moment: int) -> None:
        """End what has run out."""
        while self._leases and self._leases[0][0] <= moment:
            ends_at, name = heappop(self._leases)
            ended = self.reservations.get(name)
            if ended is None or ended.ends_at != ends_at:
                continue  # it was settled, and its ID possibly used again
            del self.reservations[name]
            for line in ended.lines:
                # As of the lease's end: nothing has changed since, and it matters not who noticed how late.
                self._settle_line(ends_at, line, self._lapsed(ended, line))
        if moment >= self._sweep_at:
            self._sweep_at = moment + SWEEP_SECONDS * MICROSECONDS
            self._forget(moment)

    def _lapsed(self, ended: Reservation, line: Line) -> int:
        """Return what counts as spent of a line whose lease is over: what was dispatched, but no place."""
        account, amount, limit = line[:3]
        if not ended.dispatched:
            return 0
        window = None if limit else self._window(account)
        return 0 if window is not None and not window.keep else amount

    def _forget(self, moment: int) -> None:
        for account in [name for name, each in self.windows.items() if each.forget_at <= moment and not each.reserved]:
            del self.windows[account]
        for account in [name for name, each in self.rates.items() if not each.owed(moment, each.limit, each.period)]:
            del self.rates[account]


def read_lines(lines: Iterable[Sequence[Any]]) -> list[Line]:
    """Make the lines of a reservation of lists, such as JSON has.

    Raises:
        ValueError: They are none; or TypeError.
    """
    return [
        (str(account), int(amount), int(limit), int(period), int(drained_at))
        for account, amount, limit, period, drained_at in lines
    ]


def check_claims(claims: Sequence[Claim], lease: float) -> None:
    """Refuse claims that mean nothing, before any store meets them.

    Raises:
        StateStoreError: Names the account and what is wrong with it.
    """
    if not 0.0 < lease <= LONGEST_SECONDS:
        raise StateStoreError(f"a lease is a positive number of seconds, 1e10 at most, not {lease!r}")
    if len(claims) > 1 and len({claim.account for claim in claims}) < len(claims):
        raise StateStoreError("the claims of a reservation are on different accounts; add up what is on the same")
    for claim in claims:
        check_account(claim.account)
        if type(claim.amount) is not int or not 0 <= claim.amount <= LARGEST_AMOUNT:
            raise StateStoreError(f"{claim.account}: an amount is a whole number from 0 to 2**60, not {claim.amount!r}")
        if type(claim.limit) is not int or not -LARGEST_AMOUNT <= claim.limit <= LARGEST_AMOUNT:
            raise StateStoreError(f"{claim.account}: a limit is a whole number up to 2**60, not {claim.limit!r}")
        if isinstance(claim, RateClaim):
            if claim.limit < 1 or type(claim.burst) is not int or not 1 <= claim.burst <= claim.limit:
                raise StateStoreError(
                    f"{claim.account}: a rate's limit is 1 or more, its burst from 1 to the limit;"
                    f" here they are {claim.limit} and {claim.burst}"
                )
            if not 1e-6 <= claim.period <= LONGEST_SECONDS:
                raise StateStoreError(
                    f"{claim.account}: a period is a positive time in seconds, 1e10 at most, not {claim.period!r}"
                )
        elif not 0.0 <= claim.keep <= LONGEST_SECONDS:
            raise StateStoreError(f"{claim.account}: keep is a time in seconds, 1e10 at most, not {claim.keep!r}")


def check_account(account: str) -> None:
    """Refuse a name that some store could not keep.

    Raises:
        StateStoreError: It is empty, or not printable.
    """
    if not account.isprintable() or not account:
        raise StateStoreError(f"an account's name is printable text, not {account!r}")


def check_actual(actual: Mapping[str, int]) -> None:
    """Refuse spending that means nothing.

    Raises:
        StateStoreError: Names the account.
    """
    for account, amount in actual.items():
        check_account(account)
        if type(amount) is not int or not 0 <= amount <= LARGEST_AMOUNT:
            raise StateStoreError(f"{account}: what was spent is a whole number from 0 to 2**60, not {amount!r}")
