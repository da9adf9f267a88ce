"""What an attempt leaves behind: health, statistics, log, trace, events. Plain bookkeeping, no decisions to call."""

from __future__ import annotations

import threading
from statistics import median
from typing import TYPE_CHECKING, Any

from modelmesh._engine.call import Call
from modelmesh._engine.member import NEVER, Member
from modelmesh._engine.policies import RATE_LIMITED
from modelmesh._engine.pool import CapabilityPool
from modelmesh._engine.provider_service import OUTAGE_THRESHOLD
from modelmesh.errors import ModelMeshError, ProviderError, ProviderTimeoutError, QuotaExhaustedError
from modelmesh.interfaces.observability import EventType, Severity
from modelmesh.interfaces.provider import AttemptRecord, RateLimitStatus, TokenUsage
from modelmesh.interfaces.strategy import DeactivationReason, RecoveryTrigger
from modelmesh.statistics import RequestMetrics

if TYPE_CHECKING:
    from modelmesh._engine.telemetry import Telemetry
    from modelmesh.statistics import StatisticsCollector

_NOBODYS_FAULT = frozenset({"client_error", "content_filter", "unsupported"})
"""Categories that say nothing about the model's health."""

_LATELY = 60.0
"""Seconds for which an answer shows that a model does not hang."""


class Recorder:
    """Takes the outcome of each attempt into state, statistics and observability."""

    def __init__(self, telemetry: Telemetry, statistics: StatisticsCollector, lock: threading.RLock) -> None:
        self._telemetry = telemetry
        self._statistics = statistics
        self._lock = lock

    def begins(self, call: Call, member: Member, error: ProviderError | None) -> None:
        """Note that an attempt begins: the first, a retry of the same model, or another model in its place."""
        before = call.last_member
        if before is not None:
            if before is not member:
                self._rotated(call, before, member, error)
            elif self._telemetry.wants_warning:
                self._telemetry.trace(
                    Severity.WARNING, "router", f"retries {member.model_id}", _facts(call, error), error=_text(error)
                )
        if self._telemetry.wants_debug:
            self._telemetry.trace(
                Severity.DEBUG,
                f"provider.{member.provider_id}",
                f"sends to {member.model_id}",
                {
                    "request_id": call.request_id,
                    "attempt": len(call.attempts) + 1,
                    "operation": call.operation,
                    "delivery_mode": call.delivery_mode,
                    "upstream_model": member.model.wire_name,
                },
            )

    def _rotated(self, call: Call, before: Member, member: Member, error: ProviderError | None) -> None:
        self._telemetry.event(
            EventType.MODEL_ROTATED,
            model_id=member.model_id,
            provider_id=member.provider_id,
            pool_id=call.pool.name,
            metadata={
                "from_model": before.model_id,
                "from_provider": before.provider_id,
                "reason": error.category if error else "unknown",
                "attempt": len(call.attempts) + 1,
                "request_id": call.request_id,
            },
        )
        if self._telemetry.wants_info:
            self._telemetry.trace(
                Severity.INFO,
                f"pool.{call.pool.name}",
                f"{member.model_id} takes over from {before.model_id}",
                {"request_id": call.request_id, "reason": error.category if error else None},
            )
        if self._telemetry.wants_warning:
            self._telemetry.trace(
                Severity.WARNING,
                "router",
                f"rotated from {before.model_id} to {member.model_id}",
                _facts(call, error),
                error=_text(error),
            )

    def gave_up(self, call: Call, error: ModelMeshError) -> None:
        """Note that a request ends without a whole answer."""
        own_mistake = isinstance(error, ProviderError) and error.category in _NOBODYS_FAULT
        severity = Severity.WARNING if own_mistake else Severity.ERROR
        if self._telemetry.dispatcher.wants_trace(severity):
            self._telemetry.trace(
                severity,
                "router",
                f"{call.capability} was not answered: {type(error).__name__}",
                {
                    "request_id": call.request_id,
                    "pool": call.pool.name,
                    "attempts": len(call.attempts),
                    "tried": list(dict.fromkeys(record.model_id for record in call.attempts)),
                    "overhead_us": round(call.overhead_us(), 1),
                },
                error=str(error),
            )

    def paused(self, call: Call, seconds: float, error: ProviderError | None) -> None:
        """Note that the request waits before it calls again."""
        if self._telemetry.wants_warning:
            self._telemetry.trace(
                Severity.WARNING,
                "router",
                f"waiting {seconds:.3f} s before the next call in pool {call.pool.name}",
                {"request_id": call.request_id, "reason": error.category if error else RATE_LIMITED},
                error=str(error) if error else None,
            )

    def succeeded(
        self,
        call: Call,
        member: Member,
        *,
        latency: float,
        usage: TokenUsage,
        first_token: float | None = None,
        response: object = None,
    ) -> AttemptRecord:
        """Take a whole answer into account.

        Args:
            call: The request.
            member: Who answered.
            latency: Seconds.
            usage: Tokens, estimated when the provider did not say.
            first_token: Seconds to the first content of a stream.
            response: The answer, for logs at the level that asks for payloads.
        """
        model, provider = member.model, member.model.provider
        pricing = model.definition.pricing
        cost = None if pricing is None else pricing.cost(usage)
        with self._lock:
            model.state.record_success(latency, usage.prompt_tokens + usage.completion_tokens, cost or 0.0)
            model.figures_moved()
            provider.troubles = 0
            provider.state.total_quota_used += 1
            provider.state.total_cost += cost or 0.0
            self._heal(call, member)
        self._report(member, usage)
        record = AttemptRecord(
            member.model_id,
            member.provider_id,
            "success",
            None,
            200,
            latency * 1000.0,
            None if first_token is None else first_token * 1000.0,
            usage.prompt_tokens,
            usage.completion_tokens,
            cost,
        )
        self._close_attempt(call, member, record, success=True, response=response)
        return record

    def heed(self, member: Member, limits: RateLimitStatus) -> None:
        """Take an answer's rate limits in: a model with nothing left rests until the provider says it has."""
        member.model.provider.take_rate_limits(limits)
        empty = limits.requests_remaining == 0 or limits.tokens_remaining == 0
        if empty and limits.reset_seconds and not member.pool.is_last_active(member):
            now = member.pool.clock.monotonic()
            with self._lock:
                member.pool.deactivate_member(member, RATE_LIMITED, rest=limits.reset_seconds, now=now)

    def _report(self, member: Member, usage: TokenUsage) -> None:
        try:
            member.model.provider.connector.report_usage(member.model.wire_name, usage)
        except (Exception, SystemExit) as error:  # the answer is there: a connector's bookkeeping does not take it back
            self._telemetry.trace(
                Severity.WARNING,
                f"provider.{member.provider_id}",
                "failed to take a usage report",
                {"error_type": type(error).__name__},
            )

    def failed(
        self,
        call: Call,
        member: Member,
        error: ProviderError,
        *,
        latency: float,
        usage: TokenUsage | None = None,
        first_token: float | None = None,
    ) -> AttemptRecord:
        """Take a failed attempt into account: blame whoever it concerns, rest them where the rules say so."""
        usage = usage or TokenUsage()
        pricing = member.model.definition.pricing
        spent = None if pricing is None or not usage.total_tokens else pricing.cost(usage)
        with self._lock:
            if not self._was_hurried(member, error, latency):
                self._blame(call, member, error)
        record = AttemptRecord(
            member.model_id,
            member.provider_id,
            error.category,
            str(error),
            error.status_code,
            latency * 1000.0,
            None if first_token is None else first_token * 1000.0,
            usage.prompt_tokens,
            usage.completion_tokens,
            spent,
        )
        self._close_attempt(call, member, record, success=False, error=error)
        return record

    def cancelled(self, call: Call, member: Member, *, latency: float, usage: TokenUsage) -> AttemptRecord:
        """Note an attempt whose caller went away: nobody's failure, but its tokens count."""
        pricing = member.model.definition.pricing
        cost = None if pricing is None else pricing.cost(usage)
        with self._lock:
            member.model.state.tokens_used += usage.prompt_tokens + usage.completion_tokens
            member.model.state.cost_accumulated += cost or 0.0
            member.model.figures_moved()
        record = AttemptRecord(
            member.model_id,
            member.provider_id,
            "cancelled",
            "the caller went away",
            None,
            latency * 1000.0,
            None,
            usage.prompt_tokens,
            usage.completion_tokens,
            cost,
        )
        call.attempts.append(record)
        if self._telemetry.wants_logs:
            self._telemetry.log(call, record, status_code=499)
        return record

    def release_log(self, call: Call, *, is_last: bool = False) -> None:
        """Write the log record of a failed attempt: another one begins, or the request is over."""
        if call.held_log is not None:
            self._telemetry.log_held(call, is_last=is_last)

    # --- health -----------------------------------------------------------

    def _heal(self, call: Call, member: Member) -> None:
        """End probation after an answer; forget earlier rests once the model has outlasted the last one."""
        if member.probation:
            for place in member.model.members:
                place.probation = False
        elif member.ejections:
            pool = member.pool
            if pool.clock.monotonic() - member.rested_at > 2 * pool.rotation.recovery.rules.cooldown:
                member.ejections = 0
        if member.may_have_healed() and call.during_rest == member.due:
            # It was called as a last resort during this very rest, and it answered. The answer of a call that began
            # before the rest, or before it was made longer, proves nothing.
            pool = member.pool
            pool.recover_member(member, RecoveryTrigger.PROBE_SUCCESS, now=pool.clock.monotonic())
        provider = member.model.provider
        if provider.deactivated is not None and member.active:
            # Somebody had it return by hand. The answer of a call that began before the trouble proves nothing.
            provider.recover(RecoveryTrigger.PROBE_SUCCESS, member.pool.clock.monotonic())

    def _was_hurried(self, member: Member, error: ProviderError, latency: float) -> bool:
        """Whether a deadline ended a call sooner than half of the model's answers come, and it has answered lately.

        Callers in a hurry put no model to rest for everybody else. One that has answered nobody for a while gets no
        such benefit: it may hang.
        """
        cut = error if isinstance(error, ProviderTimeoutError) else error.__cause__
        if not isinstance(cut, ProviderTimeoutError) or cut.clock != "deadline":
            return False
        state = member.model.state
        if state.last_request is None or not state.latency_history:
            return False
        is_recent = self._telemetry.wall_time() - state.last_request < _LATELY
        return is_recent and latency < median(state.latency_history)

    def _blame(self, call: Call, member: Member, error: ProviderError) -> None:
        category = error.category
        if category in _NOBODYS_FAULT:
            return
        now = call.clock.monotonic()
        if category == "auth":
            self._provider_down(call, member, "auth_failure", auth=True, now=now)
            return
        if category == "quota":
            error_wait = self._until_quota_reset(call, error)
            if isinstance(error, QuotaExhaustedError) and error.scope == "provider":
                self._provider_down(call, member, "quota_exhausted", auth=False, now=now, at_least=error_wait)
                return
            for place in member.model.members:
                self._rest(place, DeactivationReason.QUOTA_EXHAUSTED, now, at_least=error_wait)
            return
        if not _counts(error, call.pool):
            return
        member.model.state.record_failure(error)
        member.model.figures_moved()
        if self._is_outage(call, member, error):
            self._provider_down(call, member, "api_outage", auth=False, now=now)
            return
        for place in member.model.members:
            if category == "rate_limit" and error.retry_after:
                if not place.pool.is_last_active(place):
                    place.pool.deactivate_member(place, RATE_LIMITED, rest=error.retry_after, now=now)
            else:
                self._apply_errors(place, now)

    def _until_quota_reset(self, call: Call, error: ProviderError) -> float | None:
        """Return the seconds until a used-up quota begins anew, by the calendar or as the provider says."""
        reset = call.pool.quota_reset
        if reset is None:
            return error.retry_after
        now = self._telemetry.wall_time()
        return max(reset.at(now)[1] - now, error.retry_after or 0.0)

    def _apply_errors(self, place: Member, now: float) -> None:
        pool = place.pool
        state = place.model.state
        if place.probation:
            reason: DeactivationReason | None = DeactivationReason.ERROR_THRESHOLD
        else:
            reason = pool.rotation.deactivation.get_reason(state, samples=state.samples)
        if reason is DeactivationReason.ERROR_THRESHOLD and pool.is_last_active(place):
            return  # panic routing: errors alone never leave a pool without anybody
        if reason is not None:
            self._rest(place, reason, now)

    def _rest(self, place: Member, reason: DeactivationReason, now: float, *, at_least: float | None = None) -> None:
        rest = max(place.pool.rotation.recovery.rest_after(place.ejections + 1), at_least or 0.0)
        place.pool.deactivate_member(place, reason, rest=rest, now=now)

    def _is_outage(self, call: Call, member: Member, error: ProviderError) -> bool:
        provider = member.model.provider
        if error.category not in ("network", "timeout", "server_error"):
            return False
        provider.troubles += 1
        return "on_api_outage" in call.policy.provider_deactivation and provider.troubles >= OUTAGE_THRESHOLD

    def _provider_down(
        self, call: Call, member: Member, cause: str, *, auth: bool, now: float, at_least: float | None = None
    ) -> None:
        provider = member.model.provider
        if auth and "on_auth_failure" not in call.policy.provider_deactivation:
            return
        if provider.deactivated is not None:
            return
        rest = None
        if call.policy.provider_recovery != "on_manual":
            rest = max(call.pool.rotation.recovery.rest_after(member.ejections + 1), at_least or 0.0)
        provider.deactivate(cause, auth=auth, rest=NEVER if rest is None else rest, now=now)
        self._telemetry.trace(
            Severity.ERROR,
            f"provider.{provider.name}",
            f"every model of the provider rests: {cause}",
            {"models": [model.name for model in provider.models]},
        )

    # --- records ----------------------------------------------------------

    def _close_attempt(
        self,
        call: Call,
        member: Member,
        record: AttemptRecord,
        *,
        success: bool,
        error: ProviderError | None = None,
        response: object = None,
    ) -> None:
        call.attempts.append(record)
        self._statistics.record(
            member.model_id,
            member.provider_id,
            call.pool.name,
            RequestMetrics(record.latency_ms, record.tokens_in, record.tokens_out, record.cost, success),
        )
        telemetry = self._telemetry
        if telemetry.wants_logs:
            telemetry.log(call, record, status_code=status_of(record, error), response=response)
        component = f"provider.{member.provider_id}"
        if success:
            if telemetry.wants_info:
                # The decision is told here: a line of its own for each request would cost as much again.
                facts = {
                    "request_id": call.request_id,
                    "attempt": len(call.attempts),
                    "latency_ms": round(record.latency_ms, 3),
                    "tokens_in": record.tokens_in,
                    "tokens_out": record.tokens_out,
                    "pool": call.pool.name,
                    "reason": call.route.selection.reason,
                }
                telemetry.trace(Severity.INFO, component, f"{member.model_id} answered", facts)
            severity = Severity.INFO if len(call.attempts) > 1 else Severity.DEBUG
            if telemetry.dispatcher.wants_trace(severity):
                done = {
                    "request_id": call.request_id,
                    "attempts": len(call.attempts),
                    "overhead_us": round(call.overhead_us(), 1),
                }
                telemetry.trace(severity, "router", f"{call.capability} was answered", done)
            return
        severity = Severity.WARNING if error is None or error.retryable else Severity.ERROR
        if telemetry.dispatcher.wants_trace(severity):
            telemetry.trace(
                severity,
                component,
                f"{member.model_id} failed",
                {
                    "request_id": call.request_id,
                    "attempt": len(call.attempts),
                    "category": record.outcome,
                    "status_code": record.status_code,
                    "latency_ms": round(record.latency_ms, 3),
                },
                error=record.reason,
            )


def _facts(call: Call, error: ProviderError | None) -> dict[str, Any]:
    """Say which request goes on and why."""
    return {
        "request_id": call.request_id,
        "pool": call.pool.name,
        "attempt": len(call.attempts) + 1,
        "reason": error.category if error else None,
    }


def _text(error: ProviderError | None) -> str | None:
    return None if error is None else str(error)


def _counts(error: ProviderError, pool: CapabilityPool) -> bool:
    """Whether a failure says something about health: no HTTP status, a malformed answer, or a listed status."""
    if error.status_code is None or error.category == "malformed" or error.status_code < 400:
        return True
    return error.status_code in pool.policy.deactivation.error_codes


def status_of(record: AttemptRecord, error: ProviderError | None) -> int:
    """Return the status for a log record; 504 and 502 stand in where a failure had none."""
    if record.status_code is not None:
        return record.status_code
    return 504 if isinstance(error, ProviderTimeoutError) else 502
