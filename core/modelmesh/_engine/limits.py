"""Limits on money, quotas and rates: claimed before each call at what it may take, settled at what it took.

Every limit is an account of the ledger (`modelmesh.interfaces.ledger`), whichever keeps it: this process's memory, or a
store that many share. Models without limits cost nothing here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from modelmesh._engine.block_ledger import BlockLedger
from modelmesh._engine.budget_alerts import BudgetAlerts
from modelmesh._engine.estimates import Estimate, estimated
from modelmesh._engine.guarded_ledger import BACK, GONE, NotAskedError
from modelmesh._engine.late_settlements import LateSettlements
from modelmesh._engine.limit_rules import Limit, within_bounds
from modelmesh._engine.origin import class_name, store_erred
from modelmesh._engine.policies import RATE_LIMITED
from modelmesh._engine.settlements import Settlements
from modelmesh._engine.unheard import Unheard
from modelmesh.errors import BudgetExceededError, ProviderError, QuotaExhaustedError, RateLimitError, StateStoreError
from modelmesh.interfaces.ledger import NANO_USD, Claim, Ledger, Verdict, WindowClaim
from modelmesh.interfaces.observability import Severity
from modelmesh.interfaces.provider import AttemptRecord

if TYPE_CHECKING:
    from modelmesh._engine.call import Call
    from modelmesh._engine.member import Member
    from modelmesh._engine.telemetry import Telemetry
    from modelmesh.interfaces.runtime import Clock

_LEASE_MARGIN = 30.0
"""Seconds by which a lease outlasts the longest attempt."""

HELD_SECONDS = 1.0
"""After what time a limit is asked again that is not spent, but held by requests on their way."""

StoreErrorPolicy = Literal["local", "closed", "open"]

STORE_DOWN = "store_down"
"""Code of the error that stands for a call whose limits cannot be checked."""


@dataclass(frozen=True, slots=True)
class Fallback:
    """What happens to limits while their ledger is down.

    Attributes:
        policy: By kind of limit: ``closed`` refuses calls, ``local`` keeps a share of the limit here, ``open`` lets
            calls through.
        ledger: What keeps the local ones.
        processes: Among how many a limit is then shared.
    """

    policy: Mapping[str, StoreErrorPolicy] = field(
        default_factory=lambda: {"budget": "closed", "quota": "closed", "rate_limit": "local"}
    )
    ledger: Ledger | None = None
    processes: int = 1


@dataclass(slots=True)
class Hold:
    """A reservation that an attempt runs under.

    Attributes:
        reservation: Its ID.
        member: Whose attempt it is.
        place: Number of the request's attempts before this one.
        estimate: What was reserved.
        ledger: Who keeps it.
        accounts: Each limit with its account.
        places: Account of the provider's places, of which the attempt holds one; empty when it has any number.
    """

    reservation: str
    member: Member
    place: int
    estimate: Estimate
    ledger: Ledger
    accounts: list[tuple[Limit, str]] = field(default_factory=list)
    places: str = ""


class BudgetReachedError(QuotaExhaustedError):
    """A call that would pass a budget; ``budget`` is what the caller is told when nobody else is left."""

    def __init__(self, budget: BudgetExceededError, **facts: Any) -> None:
        super().__init__(budget.message, **facts)
        self.budget = budget


class LimitReachedError(QuotaExhaustedError):
    """A call that would pass a configured quota."""


class _NoVerdictError(StateStoreError):
    """The store answered a claim with what says neither that it is granted nor who refuses it."""


class Limits:
    """Claims and settles for the driver.

    Args:
        ledger: Keeps the accounts.
        clock: Time.
        telemetry: Told of limits that are reached or near.
        shared: Whether the ledger is elsewhere, so that settling is worth doing off the request's path.
        fallback: What happens to which limits while the ledger is down, and what keeps the local ones then.
        store: The class of the store behind the ledger, for messages.

    Attributes:
        alerts: What warns of budgets that come near their limits.
    """

    def __init__(
        self,
        ledger: Ledger,
        clock: Clock,
        telemetry: Telemetry,
        *,
        shared: bool = False,
        fallback: Fallback | None = None,
        store: type | None = None,
    ) -> None:
        self._ledger = ledger
        self._store = type(ledger) if store is None else store
        self._fallback = fallback
        self._clock = clock
        self._telemetry = telemetry
        self._shared = shared
        self._is_down = False  # as far as no guard knows
        self.alerts = BudgetAlerts(ledger, clock, telemetry)
        self._settling: set[asyncio.Task[None]] = set()
        self._late = LateSettlements(self.lasting, clock, self._not_settled)
        self._settlements = Settlements(ledger, self._not_settled, self.alerts.look, self._late.takes)
        self._unheard = Unheard(ledger, clock)

    @property
    def lasting(self) -> Ledger:
        """What keeps reservations that outlast this process: the ledger itself, never what was taken in advance."""
        return self._ledger.shared if isinstance(self._ledger, BlockLedger) else self._ledger

    @property
    def local(self) -> Ledger | None:
        """What keeps limits here while the ledger is down."""
        return None if self._fallback is None else self._fallback.ledger

    async def reserve(self, call: Call, member: Member) -> Hold | ProviderError:
        """Claim what an attempt may take.

        Returns:
            The hold to settle, or the error that stands for an attempt that must not be made.

        Raises:
            BudgetExceededError: A budget is reached, and the pool says to tell the caller at once.
        """
        busy = _busy(member)
        if busy is not None:
            return busy
        # Who waits for the ledger counts as running: a place that is looked at now and taken later is taken twice.
        member.model.asking += 1
        try:
            return await self._reserve(call, member)
        finally:
            member.model.asking -= 1

    async def _reserve(self, call: Call, member: Member) -> Hold | ProviderError:
        now = self._clock.time()
        estimate = estimated(call.payload, member)
        hold = Hold(
            f"{call.unique_id}.{len(call.attempts)}.{call.refusals}",
            member,
            len(call.attempts),
            estimate,
            self._ledger,
        )
        claims: list[Claim] = []
        for limit in member.limits:
            claim = limit.claim(estimate.of(limit), now)
            hold.accounts.append((limit, claim.account))
            claims.append(claim)
        claims += _place(hold)
        try:
            verdict = await self._claim(call, hold, claims)
            if self._is_down:
                self._is_down = False
                self._telemetry.trace(Severity.ERROR, "storage", BACK)
        except Exception as raised:  # also what a store answers that is no verdict
            error = raised if isinstance(raised, StateStoreError) else store_erred(raised, self._store)
            if not self._shared or isinstance(error, _NoVerdictError):
                self._tell_down(error)
            if self._shared and not isinstance(error, NotAskedError):
                self._unheard.add(hold.reservation)  # it may have been granted all the same
            decided = await self._while_down(call, member, hold, now, error)
            if not isinstance(decided, Verdict):
                # The store may have granted it unheard: the next claim needs an ID of its own.
                call.refusals += 1
                return decided
            verdict = decided
        except asyncio.CancelledError:
            # The ledger may have granted it all the same, and nobody would settle it.
            self._later(self._release(hold))
            raise
        if verdict.granted:
            return hold
        call.refusals += 1
        if verdict.account == hold.places:
            return _all_run(member)
        return self._refused(call, member, hold, await self._with_wait(hold, verdict), now)

    def _tell_down(self, error: StateStoreError) -> None:
        """Say once what is wrong with a ledger, where no guard does: whoever asks is not told."""
        if not self._is_down:
            self._is_down = True
            self._telemetry.trace(Severity.ERROR, "storage", GONE, error=error.message)

    async def _with_wait(self, hold: Hold, verdict: Verdict) -> Verdict:
        """Say of a window with nothing left when to ask again, if it is not spent but held by other requests."""
        if verdict.available or verdict.retry_after is not None:
            return verdict
        limit = next(limit for limit, account in hold.accounts if account == verdict.account)
        if limit.period is not None:
            return verdict
        try:
            books = (await hold.ledger.balances([verdict.account]))[verdict.account]
        except Exception:  # the refusal stands, without a time
            return verdict
        is_held = books.reserved > 0 and books.spent < limit.amount
        return replace(verdict, retry_after=HELD_SECONDS) if is_held else verdict

    async def _claim(self, call: Call, hold: Hold, claims: list[Claim]) -> Verdict:
        """Reserve; a request that nobody bounded takes what is left of a window, if that pays for its input."""
        lease = self._lease(call)
        verdict = self._checked(await hold.ledger.reserve(hold.reservation, claims, lease=lease), claims)
        for _ in claims:
            if verdict.granted or hold.estimate.is_bounded or not verdict.available or verdict.account == hold.places:
                break
            place = next(place for place, claim in enumerate(claims) if claim.account == verdict.account)
            refused, limit = claims[place], hold.accounts[place][0]
            if not isinstance(refused, WindowClaim) or limit.unit == "requests":
                break
            if verdict.available < hold.estimate.least(limit):
                break
            claims[place] = replace(refused, amount=verdict.available)
            verdict = self._checked(await hold.ledger.reserve(hold.reservation, claims, lease=lease), claims)
        return verdict

    def _checked(self, verdict: object, claims: list[Claim]) -> Verdict:
        """Return a verdict that can be acted on; taken for granted, any other would let a request wait for ever.

        Raises:
            _NoVerdictError: It is none.
        """
        if not isinstance(verdict, Verdict):
            said = f"answered a claim with {type(verdict).__name__}"
        elif verdict.granted or any(claim.account == verdict.account for claim in claims):
            return verdict
        else:
            said = f"refused a claim for account {str(verdict.account)[:60]!r}, which is none of it"
        raise _NoVerdictError(
            f"state store {class_name(self._store)} {said}; its reserve has to return a Verdict that is granted, or"
            " that names the account that refuses"
        )

    async def _while_down(
        self, call: Call, member: Member, hold: Hold, now: float, error: StateStoreError
    ) -> Verdict | ProviderError:
        """Decide without the ledger: closed limits refuse, local ones are kept here in a share, open ones wave through.

        Returns:
            A verdict on what is kept here, or the error of an attempt that must not be made.
        """
        fallback = self._fallback or Fallback()
        of_places = fallback.policy["rate_limit"] if hold.places else "open"
        subjects = [limit.subject for limit in member.limits if fallback.policy[limit.kind] == "closed"]
        if of_places == "closed":
            subjects.append(_places_of(member))
        if not subjects and fallback.ledger is None:
            subjects = [limit.subject for limit in member.limits] or [_places_of(member)]
        if subjects or fallback.ledger is None:
            # Where the store is, and what is wrong with it, is for whoever runs it: in the cause, and in a trace.
            said = f"{subjects[0]} cannot be checked: the state store does not answer"
            refusal = QuotaExhaustedError(said, code=STORE_DOWN, retry_after=1.0, sent=False)
            refusal.__cause__ = error
            return refusal
        hold.ledger = fallback.ledger
        hold.accounts, hold.places = [], ""
        claims: list[Claim] = _place(hold, share=fallback.processes) if of_places == "local" else []
        for limit in member.limits:
            if fallback.policy[limit.kind] == "local":
                claim = limit.claim(hold.estimate.of(limit), now, share=fallback.processes)
                hold.accounts.append((limit, claim.account))
                claims.append(claim)
        return await self._claim(call, hold, claims)

    def _lease(self, call: Call) -> float:
        total = call.timeouts.total
        if call.deadline_at is not None:
            left = call.deadline_at - self._clock.monotonic()
            total = left if total is None else min(left, total)
        return (3_600.0 if total is None else max(0.0, total)) + _LEASE_MARGIN

    # --- refusals ---------------------------------------------------------------

    def _refused(self, call: Call, member: Member, hold: Hold, verdict: Verdict, now: float) -> ProviderError:
        limit = next(limit for limit, account in hold.accounts if account == verdict.account)
        if limit.period is not None:
            error: ProviderError = RateLimitError(f"{limit.subject} is reached", retry_after=verdict.retry_after)
        elif limit.unit == "nano_usd":
            error = self._over_budget(call, limit, hold, verdict, now)
        else:
            error = LimitReachedError(f"{limit.subject} is used up", retry_after=_wait(limit, verdict, now))
        error.provider_id, error.model_id = member.provider_id, member.model_id
        if hold.ledger is self._ledger:  # a share that is used up while the ledger is down is no reason to rest
            self._rest(call, member, limit, verdict, now)
        self._telemetry.trace(
            Severity.INFO,
            f"provider.{member.provider_id}",
            f"{member.model_id} is not called: {error.message}",
            {"request_id": call.request_id, "account": verdict.account, "available": verdict.available},
        )
        return error

    def _over_budget(self, call: Call, limit: Limit, hold: Hold, verdict: Verdict, now: float) -> BudgetReachedError:
        asked = hold.estimate.of(limit)
        budget = BudgetExceededError(
            limit.budget, limit.amount / NANO_USD, (limit.amount - verdict.available + asked) / NANO_USD
        )
        if call.policy.on_budget_exceeded == "error":
            raise budget
        return BudgetReachedError(budget, retry_after=_wait(limit, verdict, now))

    def _rest(self, call: Call, member: Member, limit: Limit, verdict: Verdict, now: float) -> None:
        """Put whom the limit concerns to rest until it may allow calls again."""
        if limit.period is not None or verdict.retry_after is not None:
            moment = self._clock.monotonic()
            if verdict.retry_after is not None and not member.pool.is_last_active(member):
                reason = RATE_LIMITED if limit.period is None else limit.reason
                member.pool.deactivate_member(member, reason, rest=verdict.retry_after, now=moment)
            return
        if verdict.available <= 0:  # otherwise a smaller request still fits
            self._rest_window(member, limit, now)

    def _rest_window(self, member: Member, limit: Limit, now: float) -> None:
        rest = None if limit.window is None else limit.window.at(now)[1] - now
        moment = self._clock.monotonic()
        for model in member.model.provider.models if limit.provider_wide else [member.model]:
            for place in model.members:
                if limit.provider_wide or place is member:
                    place.pool.deactivate_member(place, limit.reason, rest=rest, now=moment)

    # --- settling ---------------------------------------------------------------

    async def close(self, call: Call, hold: Hold, error: ProviderError | None) -> None:
        """Book what an attempt took, as its record and its error tell.

        An answer counts as what it used. A provider that answered with an error did not do the work, and nothing is
        booked but the rates. What may have reached the provider and was never answered counts as reserved, or, of a
        stream, as what had been sent and seen.
        """
        if len(call.attempts) == hold.place:
            await self._book(hold, self._nothing(hold))  # it was never made
            return
        record = call.attempts[-1]
        if record.outcome == "success":
            await self._book(hold, _spent(hold, record))
        elif error is not None and (not error.sent or _was_refused(error)):
            await self._book(hold, self._nothing(hold))
        elif call.stream and record.tokens_out:
            await self._book(hold, _spent(hold, record))
        else:
            await self._book(hold, {})

    def _nothing(self, hold: Hold) -> Mapping[str, int]:
        return {account: 0 for limit, account in hold.accounts if limit.period is None}

    async def _book(self, hold: Hold, actual: Mapping[str, int]) -> None:
        if not self._shared:
            await self.settle(hold, actual)
        elif hold.ledger is self._ledger:
            # Off the response's path. Should this loop end first, the lease settles it at what was reserved.
            self.alerts.note(hold.accounts)
            self._settlements.add(hold.reservation, _with_place(hold, actual))
        else:
            self._later(self.settle(hold, actual))

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)

    async def _release(self, hold: Hold) -> None:
        try:
            await hold.ledger.release(hold.reservation)
        except StateStoreError:
            if self._shared and hold.ledger is self._ledger:
                self._unheard.add(hold.reservation)

    async def settle(self, hold: Hold, actual: Mapping[str, int]) -> None:
        """Book what was spent; what ``actual`` leaves out counts as reserved."""
        try:
            await hold.ledger.settle(hold.reservation, _with_place(hold, actual))
            if not self._shared:
                await self._look(hold)
        except Exception as error:  # the answer is there and paid for, whatever becomes of the books
            self._not_settled(error)

    def _not_settled(self, error: Exception) -> None:
        self._telemetry.trace(
            Severity.ERROR, "storage", "a request could not be settled; it counts as reserved", error=str(error)
        )

    async def tend(self) -> None:
        """Give back what was taken in advance and not used, for as long as it runs; ends at once if there is none."""
        if isinstance(self._ledger, BlockLedger):
            await self._ledger.tend()

    async def finish(self) -> None:
        """Wait for what is still being settled on this loop, and give back what was taken in advance."""
        loop = asyncio.get_running_loop()
        await self._settlements.finish()
        await self._late.finish()
        await self.alerts.look(at_once=True)
        await self._unheard.finish()
        waiting = [task for task in self._settling if task.get_loop() is loop]
        if waiting:
            await asyncio.wait(waiting)
        if isinstance(self._ledger, BlockLedger):
            with suppress(StateStoreError):  # the leases of its blocks will end
                await self._ledger.close()

    async def _look(self, hold: Hold) -> None:
        """Put to rest whoever has just used a limit up, and warn of budgets that come near theirs."""
        windows = [(limit, account) for limit, account in hold.accounts if limit.period is None]
        balances = await hold.ledger.balances([account for _, account in windows])
        self.alerts.tell(windows, balances)
        for limit, account in windows:
            if limit.enforce and balances[account].spent >= limit.amount:
                self._rest_window(hold.member, limit, self._clock.time())


def _wait(limit: Limit, verdict: Verdict, now: float) -> float | None:
    """Return the seconds until a window may grant again: when others give back what they hold, or when it is over."""
    if verdict.retry_after is not None:
        return verdict.retry_after
    return None if limit.window is None else limit.window.at(now)[1] - now


def _was_refused(error: ProviderError) -> bool:
    return error.status_code is not None and error.status_code >= 400


def _spent(hold: Hold, record: AttemptRecord) -> dict[str, int]:
    amounts: dict[str, int] = {}
    for limit, account in hold.accounts:
        if limit.unit == "requests":
            amounts[account] = 1
        elif limit.unit == "tokens":
            amounts[account] = within_bounds(record.tokens_in + record.tokens_out)
        else:
            amounts[account] = limit.unpriced if record.cost is None else within_bounds(round(record.cost * NANO_USD))
    return amounts


def _busy(member: Member) -> ProviderError | None:
    """Return the error of a provider that has as many calls running as it may, by those of this process alone."""
    provider = member.model.provider
    most = provider.concurrency
    if most is None or sum(model.in_flight + model.asking for model in provider.models) < most:
        return None
    return _all_run(member)


def _with_place(hold: Hold, actual: Mapping[str, int]) -> Mapping[str, int]:
    """Add that the place is free again."""
    return {**actual, hold.places: 0} if hold.places else actual


def _place(hold: Hold, *, share: int = 1) -> list[Claim]:
    """Claim one of the places of its provider, if they are limited; ``share`` is among how many they are divided."""
    provider = hold.member.model.provider
    if provider.concurrency is None:
        return []
    hold.places = f"concurrency/provider/{provider.name}"
    return [WindowClaim(hold.places, 1, max(1, provider.concurrency // share), 0.0)]


def _places_of(member: Member) -> str:
    return f"the limit of {member.model.provider.concurrency} concurrent calls for provider {member.provider_id!r}"


def _all_run(member: Member) -> ProviderError:
    """Return the error of a provider whose places are all taken: one of them is free again in no time."""
    return RateLimitError(
        f"provider {member.provider_id!r} has its {member.model.provider.concurrency} concurrent calls running",
        retry_after=None,
        provider_id=member.provider_id,
        model_id=member.model_id,
    )
