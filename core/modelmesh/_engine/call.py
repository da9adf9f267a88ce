"""One request on its way: what was asked, how much time is left, what was tried."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isinf, isnan
from typing import TYPE_CHECKING, Any

from modelmesh._engine.limits import BudgetReachedError
from modelmesh._engine.model import STREAMING
from modelmesh._engine.policies import PoolPolicy
from modelmesh.errors import AllProvidersExhaustedError, DeadlineExceededError, InvalidRequestError, ProviderError
from modelmesh.interfaces.provider import AttemptRecord, Operation, ProviderRequest, Receipt, Timeouts
from modelmesh.interfaces.runtime import Clock, Random

if TYPE_CHECKING:
    from modelmesh._engine.member import Member
    from modelmesh._engine.pipeline import PipelineResult
    from modelmesh._engine.pool import CapabilityPool
    from modelmesh._engine.trace_context import RequestTrace
    from modelmesh.interfaces.observability import RequestLogEntry
    from modelmesh.middleware import MiddlewareContext


class Call:
    """One request, from routing to its last attempt.

    Attributes:
        refusals: Attempts that limits forbade.
        retrying: Whether it holds a place in the pool's retry budget.
        provider_seconds: Time spent waiting for providers.
        waited_seconds: Time spent in pauses between attempts.
        trace: Its place in a trace, where somebody records spans.
        unique_id: What its reservations go by: its own among the requests of all processes, whatever ``request_id``
            the caller brings.
        held_log: The record of a failed attempt, until it is known whether another follows.
        last_member: Whom the last attempt called.
        during_rest: When the rest was to end in which its last attempt was made; None if nobody rested.
        context: What middleware is told of the present attempt; None where there is none.
        partial: Text of broken streams that the caller has seen already, under ``on_stream_failure: continue``.
    """

    __slots__ = (
        "attempts",
        "capability",
        "clock",
        "context",
        "deadline_at",
        "during_rest",
        "headers",
        "held_log",
        "last_member",
        "metadata",
        "operation",
        "partial",
        "payload",
        "policy",
        "pool",
        "provider_seconds",
        "random",
        "refusals",
        "request_id",
        "retrying",
        "route",
        "started",
        "stream",
        "timeouts",
        "trace",
        "unique_id",
        "waited_seconds",
    )

    def __init__(
        self,
        request_id: str,
        capability: str,
        operation: Operation,
        payload: Mapping[str, Any],
        *,
        unique_id: str,
        route: PipelineResult,
        started: float,
        clock: Clock,
        random: Random,
        metadata: Mapping[str, Any],
        headers: Mapping[str, str],
        trace: RequestTrace | None = None,
    ) -> None:
        self.request_id = request_id
        self.unique_id = unique_id
        self.capability = capability
        self.operation = operation
        self.payload = payload
        self.route = route
        self.pool: CapabilityPool = route.pool
        self.policy: PoolPolicy = route.pool.policy
        self.stream = route.delivery_mode == STREAMING
        self.started = started
        self.clock = clock
        self.random = random
        self.metadata = metadata
        self.headers = headers
        self.trace = trace
        self.held_log: RequestLogEntry | None = None
        self.attempts: list[AttemptRecord] = []
        self.retrying = False
        self.refusals = 0
        self.provider_seconds = 0.0
        self.waited_seconds = 0.0
        self.last_member: Member | None = None
        self.context: MiddlewareContext | None = None
        self.during_rest: float | None = None
        self.partial = ""
        own = metadata.get("deadline") if metadata else None
        seconds = self.policy.deadline if own is None else _seconds(own)
        self.deadline_at = None if seconds is None else started + seconds
        self.timeouts: Timeouts = self.policy.timeouts

    @property
    def delivery_mode(self) -> str:
        """``sync`` or ``streaming``."""
        return self.route.delivery_mode

    def everyone(self) -> Sequence[Member]:
        """Every member that could serve the request, active or not."""
        return self.route.everyone()

    @property
    def time_left(self) -> float | None:
        """Seconds until the deadline; None without one."""
        return None if self.deadline_at is None else self.deadline_at - self.clock.monotonic()

    def has_time_for(self, seconds: float) -> bool:
        """Whether the deadline is further away than this."""
        return self.deadline_at is None or self.clock.monotonic() + seconds < self.deadline_at

    def over_caps(self) -> bool:
        """Whether the attempt cap or the cost cap is reached."""
        policy = self.policy
        if policy.max_attempts is not None and len(self.attempts) >= policy.max_attempts:
            return True
        return policy.max_cost is not None and sum(a.cost or 0.0 for a in self.attempts) >= policy.max_cost

    def request_for(self, member: Member) -> ProviderRequest:
        """Build the request of the next attempt."""
        return ProviderRequest(
            member.model.wire_name,
            self.payload,
            self.operation,
            self.stream,
            self.timeouts,
            self.headers if self.trace is None else self.trace.next_attempt(),
            self.metadata,
            self.request_id,
        )

    def receipt(self) -> Receipt:
        """Say what the request took so far."""
        return Receipt(self.request_id, self.pool.name, self.attempts, self.overhead_us())

    def overhead_us(self) -> float:
        """Microseconds the router itself took so far."""
        busy = self.clock.monotonic() - self.started - self.provider_seconds - self.waited_seconds
        return max(0.0, busy * 1e6)

    def continue_after(self, text: str) -> None:
        """Make the next attempt go on where a broken stream ended: its text becomes the assistant's last turn."""
        if not text:
            return
        messages = list(self.payload.get("messages") or ())
        if self.partial:
            messages.pop()
        self.partial += text
        self.payload = {**self.payload, "messages": [*messages, {"role": "assistant", "content": self.partial}]}

    def exhausted(self, last: ProviderError | None) -> AllProvidersExhaustedError:
        """Build the error of a request with nobody left to call."""
        shown = last.budget if isinstance(last, BudgetReachedError) else last
        error = AllProvidersExhaustedError(
            self.pool.name, attempts=len(self.attempts), last_error=shown, receipt=self.receipt()
        )
        error.__cause__ = shown
        return error

    def late(self) -> DeadlineExceededError:
        """Build the error of a request whose deadline passed."""
        seconds = (self.deadline_at or self.started) - self.started
        error = DeadlineExceededError(seconds, pool_name=self.pool.name, attempts=len(self.attempts))
        error.receipt = self.receipt()
        return error


def _seconds(own: object) -> float | None:
    """Return a request's own deadline; None for one that never comes."""
    if isinstance(own, bool) or not isinstance(own, (int, float)) or isnan(own):
        found = own if isinstance(own, float) else f"a {type(own).__name__}"
        raise InvalidRequestError(f"the request's deadline must be a number of seconds; it is {found}")
    return None if isinf(own) and own > 0 else float(own)
