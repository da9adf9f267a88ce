"""What a provider's own batch may take and what it took: claimed from every limit before, booked once it is known.

A batch may take a day and outlive this process, so its claim has a lease of days and stands under the job's ID: any
process that learns how the batch ended settles it. A batch of which nobody ever asks counts as it was estimated.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from math import ceil
from threading import RLock
from typing import TYPE_CHECKING, Any

from modelmesh._engine.batch_jobs import Carrier, Claimed, Job
from modelmesh._engine.estimates import Estimate, estimated
from modelmesh._engine.limits import Hold, Limits
from modelmesh.errors import BudgetExceededError, StateStoreError
from modelmesh.interfaces.ledger import NANO_USD, Claim, RateClaim
from modelmesh.interfaces.observability import Severity
from modelmesh.interfaces.provider import ModelPricing, TokenUsage

if TYPE_CHECKING:
    from modelmesh._engine.limit_rules import Limit
    from modelmesh._engine.member import Member
    from modelmesh._engine.telemetry import Telemetry
    from modelmesh.interfaces.runtime import Clock
    from modelmesh.statistics import StatisticsCollector

_WINDOW = 86_400.0
"""Seconds in which providers are done with a batch, where the model does not say."""

_COLLECTING = 7 * 86_400.0
"""Seconds after that in which somebody may still ask what came of it."""

_NOTHING = TokenUsage()


@dataclass(slots=True)
class Bill:
    """What a batch took.

    Attributes:
        usages: Of each answer, in any order.
        failed: Requests that were not answered.
        tokens_in: Input tokens.
        tokens_out: Output tokens.
        cost: USD; None when the price is not known.
    """

    usages: list[TokenUsage] = field(default_factory=list)
    failed: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float | None = None

    @property
    def answered(self) -> int:
        """Requests that were answered: those that a provider bills."""
        return len(self.usages)


def bill_of(results: Iterable[Mapping[str, Any] | None], job: Job, carrier: Carrier) -> Bill:
    """Return what a batch took, by its results; an answer that does not say counts as its share of the estimate."""
    bill, unknown = Bill(), 0
    for result in results:
        if result is None or "response" not in result:
            bill.failed += result is not None
            continue
        usage = _usage_of(result["response"])
        if usage is None:
            unknown += 1
        bill.usages.append(usage or _NOTHING)
    bill.tokens_in = sum(usage.prompt_tokens for usage in bill.usages) + _share(carrier.tokens_in, unknown, job)
    bill.tokens_out = sum(usage.completion_tokens for usage in bill.usages) + _share(carrier.tokens_out, unknown, job)
    pricing = carrier.pricing
    if pricing is not None:
        tokens = replace(pricing, per_request=None).cost(TokenUsage(bill.tokens_in, bill.tokens_out))
        bill.cost = tokens + (pricing.per_request or 0.0) * bill.answered
    return bill


def nothing_done(job: Job, carrier: Carrier) -> Bill:
    """Return the bill of a batch of which nothing was answered."""
    return Bill(failed=job.failed, cost=None if carrier.pricing is None else 0.0)


def batch_pricing(member: Member) -> ModelPricing | None:
    """Return what a request costs in a batch; None when the price is not known."""
    pricing, discount = member.model.definition.pricing, member.model.definition.batch.get("cost_discount")
    if pricing is None or not discount:
        return pricing
    left = 1.0 - discount
    each = pricing.per_request
    return ModelPricing(
        pricing.input_per_1k_tokens * left,
        pricing.output_per_1k_tokens * left,
        None if each is None else each * left,
    )


class BatchBooks:
    """Claims and settles for batches that providers carry out.

    Args:
        limits: Of the configuration in force.
        clock: Time.
        telemetry: Told what batches took.
        statistics: Where it is counted.
        lock: Guards the state of models.
    """

    def __init__(
        self, limits: Limits, clock: Clock, telemetry: Telemetry, statistics: StatisticsCollector, lock: RLock
    ) -> None:
        self._limits = limits
        self._clock = clock
        self._telemetry = telemetry
        self._statistics = statistics
        self._lock = lock

    def move_to(self, limits: Limits) -> None:
        """Go on with the limits of another configuration."""
        self._limits = limits

    # --- before ---------------------------------------------------------------------

    async def claim(self, job: Job, member: Member, payloads: Sequence[Mapping[str, Any]]) -> Carrier | None:
        """Claim what a batch may take from every limit of a model.

        Returns:
            The terms the job runs on; None where a limit does not grant it, or cannot be asked.

        Raises:
            BudgetExceededError: A budget is reached, and the pool says to tell the caller at once.
        """
        pricing = batch_pricing(member)
        estimates = [estimated(payload, member, pricing) for payload in payloads]
        tokens_out = sum(estimate.tokens_out for estimate in estimates)
        carrier = Carrier(
            member.model_id,
            member.provider_id,
            member.pool.name,
            member.model.wire_name,
            "",
            pricing,
            [],
            sum(estimate.tokens for estimate in estimates) - tokens_out,
            tokens_out,
        )
        if not member.limits:
            return carrier
        now = self._clock.time()
        claims: list[Claim] = []
        for limit in member.limits:
            claim = _claim(limit, estimates, now)
            unit = "" if limit.kind == "rate_limit" else limit.unit
            carrier.claimed.append(Claimed(claim.account, unit, limit.unpriced))
            claims.append(claim)
        return carrier if await self._is_granted(job, member, claims) else None

    async def _is_granted(self, job: Job, member: Member, claims: Sequence[Claim]) -> bool:
        lease = float(member.model.definition.batch.get("completion_window") or _WINDOW) + _COLLECTING
        try:
            verdict = await self._limits.lasting.reserve(job.id, claims, lease=lease)
        except StateStoreError as error:
            # It may have been granted unheard; nothing was sent, and should this not arrive, the lease ends.
            await self.give_back(job)
            self._tell(
                Severity.WARNING, f"no batch goes to {member.model_id}: its limits cannot be checked", job, error
            )
            return False
        except asyncio.CancelledError:
            await self.give_back(job)
            raise
        if verdict.granted:
            return True
        place = next(place for place, claim in enumerate(claims) if claim.account == verdict.account)
        limit, asked = member.limits[place], claims[place].amount
        if limit.unit == "nano_usd" and member.pool.policy.on_budget_exceeded == "error":
            spent = limit.amount - verdict.available
            raise BudgetExceededError(limit.budget, limit.amount / NANO_USD, (spent + asked) / NANO_USD)
        self._tell(Severity.INFO, f"the batch is not handed to {member.model_id}: {limit.subject} forbids it", job)
        return False

    async def give_back(self, job: Job) -> None:
        """Give back what was claimed for a batch that was not submitted."""
        with suppress(StateStoreError):  # its lease will end
            await self._limits.lasting.release(job.id)

    # --- after ------------------------------------------------------------------------

    async def settle(self, job: Job, carrier: Carrier, bill: Bill, member: Member | None) -> None:
        """Book what a batch took, in limits and in statistics; call it once.

        Args:
            job: Which.
            carrier: Its terms.
            bill: What it took.
            member: The model's place in the pool it came through; None when that is gone.
        """
        actual = {each.account: _amount(each, bill) for each in carrier.claimed if each.unit}
        if member is None:
            with suppress(StateStoreError):  # it counts as reserved
                await self._limits.lasting.settle(job.id, actual)
        elif carrier.claimed:
            accounts = [
                (limit, each.account)
                for each in carrier.claimed
                for limit in member.limits
                if each.account == limit.account or each.account.startswith(f"{limit.account}/")
            ]
            hold = Hold(job.id, member, 0, Estimate(0, None, True), self._limits.lasting, accounts)
            await self._limits.settle(hold, actual)
        self._count(carrier, bill, member)
        said = f"the batch of {carrier.model} has ended as {job.status}"
        self._tell(Severity.INFO, said, job, answered=bill.answered, failed=bill.failed, cost=bill.cost)

    def _count(self, carrier: Carrier, bill: Bill, member: Member | None) -> None:
        self._statistics.record_batch(
            carrier.model,
            carrier.provider,
            carrier.pool,
            requests=bill.answered + bill.failed,
            failures=bill.failed,
            tokens_in=bill.tokens_in,
            tokens_out=bill.tokens_out,
            cost=bill.cost,
        )
        if member is None:
            return
        model, provider = member.model, member.model.provider
        with self._lock:
            model.state.quota_used += bill.answered
            model.state.tokens_used += bill.tokens_in + bill.tokens_out
            model.state.cost_accumulated += bill.cost or 0.0
            model.figures_moved()
            provider.state.total_quota_used += bill.answered
            provider.state.total_cost += bill.cost or 0.0
        for usage in bill.usages:
            try:
                provider.connector.report_usage(carrier.wire_name, usage)
            except (Exception, SystemExit) as error:  # the answers are there, whatever a connector's bookkeeping does
                said = f"provider {provider.name!r} failed to take a usage report: {type(error).__name__}"
                self._telemetry.trace(Severity.WARNING, "batch", said)
                return

    def _tell(
        self, severity: Severity, message: str, job: Job, error: Exception | None = None, **facts: object
    ) -> None:
        self._telemetry.trace(
            severity, "batch", message, {"job": job.id, **facts}, error=None if error is None else str(error)
        )


def _claim(limit: Limit, estimates: Sequence[Estimate], now: float) -> Claim:
    if limit.kind == "rate_limit":
        # A provider works on a batch at its own pace: to its rates, handing one over is a single small request.
        return limit.claim(1 if limit.unit == "requests" else 0, now)
    amount = sum(estimate.of(limit) for estimate in estimates)
    claim = limit.claim(amount, now)
    # A rolling quota is never passed by calling a batch as large as the quota is.
    return replace(claim, amount=amount) if isinstance(claim, RateClaim) else claim


def _amount(claimed: Claimed, bill: Bill) -> int:
    if claimed.unit == "requests":
        return bill.answered
    if claimed.unit == "tokens":
        return bill.tokens_in + bill.tokens_out
    return claimed.unpriced * bill.answered if bill.cost is None else round(bill.cost * NANO_USD)


def _share(estimate: int, answers: int, job: Job) -> int:
    return ceil(estimate * answers / job.total)


def _usage_of(response: Mapping[str, Any]) -> TokenUsage | None:
    """Return the tokens an answer in OpenAI's shape says it took; None when it does not."""
    usage = response.get("usage")
    if not isinstance(usage, Mapping):
        return None
    counts = [usage.get("prompt_tokens"), usage.get("completion_tokens", 0)]
    tokens = [each for each in counts if type(each) is int and each >= 0]
    return TokenUsage(tokens[0], tokens[1], sum(tokens)) if len(tokens) == len(counts) else None
