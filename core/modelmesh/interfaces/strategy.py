"""What crosses the border between the engine and a selection strategy.

A strategy chooses one of a pool's active candidates. It gets live, read-only views, so looking at one figure of one
candidate costs an attribute access, and a pool of a thousand models costs no more than one of ten.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

from modelmesh.interfaces.provider import ModelPricing, RateLimitStatus
from modelmesh.interfaces.runtime import ConnectorContext


class ModelStatus(StrEnum):
    """Whether a model takes traffic."""

    ACTIVE = "active"
    STANDBY = "standby"


class DeactivationReason(StrEnum):
    """Why a model went standby. The set is open: connectors may give other strings."""

    ERROR_THRESHOLD = "error_threshold"
    QUOTA_EXHAUSTED = "quota_exhausted"
    BUDGET_EXCEEDED = "budget_exceeded"
    TOKEN_LIMIT = "token_limit"  # noqa: S105 (a limit on tokens, no password)
    REQUEST_LIMIT = "request_limit"
    MAINTENANCE_WINDOW = "maintenance_window"
    MANUAL = "manual"
    PROVIDER_UNAVAILABLE = "provider_unavailable"
    DEPRECATED = "deprecated"


class RecoveryTrigger(StrEnum):
    """What made a model active again."""

    COOLDOWN_EXPIRED = "cooldown_expired"
    QUOTA_RESET = "quota_reset"
    PROBE_SUCCESS = "probe_success"
    MANUAL = "manual"
    STARTUP_PROBE = "startup_probe"


class Candidate(Protocol):
    """A model that may be chosen, as it is at this moment. Read-only.

    `ModelSnapshot` has the same attributes as plain values, for tests and records.
    """

    @property
    def model_id(self) -> str:
        """As configured; unique within the mesh."""
        ...

    @property
    def provider_id(self) -> str:
        """As configured."""
        ...

    @property
    def status(self) -> str:
        """``active`` or ``standby``, in this pool."""
        ...

    @property
    def failure_count(self) -> int:
        """Consecutive failures since the last success."""
        ...

    @property
    def error_rate(self) -> float:
        """0.0-1.0 over the last 100 outcomes."""
        ...

    @property
    def cooldown_remaining(self) -> float | None:
        """Seconds, or None when no cooldown runs."""
        ...

    @property
    def quota_used(self) -> int:
        """Requests in the present quota period."""
        ...

    @property
    def tokens_used(self) -> int:
        """Tokens in the present quota period."""
        ...

    @property
    def cost_accumulated(self) -> float:
        """USD in the present budget period."""
        ...

    @property
    def latency_history(self) -> Sequence[float]:
        """Seconds, oldest first, at most 50."""
        ...

    @property
    def latency_avg(self) -> float | None:
        """Mean of ``latency_history`` in seconds, or None without history."""
        ...

    @property
    def last_request(self) -> datetime | None:
        """The last success, timezone-aware UTC."""
        ...

    @property
    def last_failure(self) -> datetime | None:
        """The last failure, timezone-aware UTC."""
        ...

    @property
    def deactivation_reason(self) -> str | None:
        """Why it is standby."""
        ...

    @property
    def in_flight(self) -> int:
        """Attempts running now."""
        ...

    @property
    def pricing(self) -> ModelPricing | None:
        """None if not known."""
        ...

    @property
    def rate_limits(self) -> RateLimitStatus | None:
        """What the provider last said, or None."""
        ...

    @property
    def features(self) -> Mapping[str, bool]:
        """As configured, such as ``tool_calling``."""
        ...

    @property
    def constraints(self) -> Mapping[str, Any]:
        """As configured, such as ``context_window``."""
        ...


@dataclass
class ModelSnapshot:
    """A candidate's figures as plain values; see `Candidate` for units."""

    model_id: str
    provider_id: str
    status: str = ModelStatus.ACTIVE.value
    failure_count: int = 0
    error_rate: float = 0.0
    cooldown_remaining: float | None = None
    quota_used: int = 0
    tokens_used: int = 0
    cost_accumulated: float = 0.0
    latency_avg: float | None = None
    last_request: datetime | None = None
    last_failure: datetime | None = None
    latency_history: Sequence[float] = ()
    deactivation_reason: str | None = None
    in_flight: int = 0
    pricing: ModelPricing | None = None
    rate_limits: RateLimitStatus | None = None
    features: Mapping[str, bool] = field(default_factory=dict)
    constraints: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)  # not frozen: one is made for each choice
class SelectionRequest:
    """What a strategy may know of the request it chooses for.

    Attributes:
        capability: As asked for.
        delivery_mode: ``sync``, ``streaming`` or ``batch``.
        session_id: For sticky strategies, or None.
        metadata: The caller's.
    """

    capability: str = ""
    delivery_mode: str = "sync"
    session_id: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)  # not frozen: one is made for each choice
class SelectionResult:
    """A strategy's choice.

    Attributes:
        model_id: Of the chosen candidate.
        provider_id: Of the chosen candidate.
        score: Higher is better; the scale is the strategy's own.
        reason: One or two words for logs.
        wait_seconds: How long the engine lets pass before it calls the chosen model. A wait that the request's
            deadline does not leave time for is not begun: the others are called first then.
        switched_from: The candidate that would have been chosen, had its provider's rate limit not come near; such a
            switch is told as an event.
    """

    model_id: str
    provider_id: str
    score: float
    reason: str = ""
    wait_seconds: float = 0.0
    switched_from: str | None = None


@runtime_checkable
class CandidateSequence(Protocol):
    """What the engine hands strategies: a sequence of candidates that also answers by ID and by place.

    Plain lists work as well, in tests and in pools filtered by a stage of somebody's own; ``BaseStrategy`` makes
    both look alike. IDs may be those of members that are not candidates just now: they keep their place.
    """

    def __len__(self) -> int:
        """How many stand to be chosen."""
        ...

    def __getitem__(self, index: int) -> Candidate:
        """The candidate at a position, in pool order."""
        ...

    def get(self, model_id: str) -> Candidate | None:
        """Return the candidate of this ID, or None."""
        ...

    def at_or_after(self, model_id: str) -> Candidate:
        """Return this candidate, or the next after its place, circularly."""
        ...

    def following(self, model_id: str) -> Candidate:
        """Return the next candidate after this member's place, circularly; itself last."""
        ...

    def after(self, model_id: str) -> Sequence[Candidate]:
        """Return all but this one, in circular order from behind its place."""
        ...

    def without(self, model_ids: Collection[str]) -> Sequence[Candidate]:
        """Return all but these, in pool order."""
        ...

    def of_provider(self, provider_id: str) -> Sequence[Candidate]:
        """Return those of one provider, in pool order."""
        ...


class TrackedCandidates(CandidateSequence, Protocol):
    """Candidates that tell whose figures moved: the engine's own, one object until somebody joins or leaves.

    With it a strategy keeps what it read and sorted, and reads anew what is not as it was.
    """

    @property
    def moves(self) -> int:
        """How often figures moved so far; as long as it stands, what was read still holds.

        Figures are latency, errors, cost, price, and what a provider says of its limits. ``in_flight`` is none of them.
        """
        ...

    def moved_since(self, moves: int) -> Sequence[Candidate] | None:
        """Return the candidates whose figures moved since `moves` stood at this; None for all of them."""
        ...


@runtime_checkable
class SelectionStrategy(Protocol):
    """Chooses among the active candidates of one pool. Inherit ``modelmesh_cdk.BaseStrategy``.

    The pool makes one object and calls it from one thread at a time. Candidates are active, can deliver what is
    asked, and stand in pool order; standby models are not among them but keep their place in ``pool_order``.
    """

    def bind(self, context: ConnectorContext) -> None:
        """Receive the pool's context; called once, before anything else."""
        ...

    def pool_changed(self, pool_order: Sequence[str]) -> None:
        """Take note of the pool's members, by model ID in pool order, active or not.

        Called before the first choice and after each change of membership, not when a model goes standby.
        """
        ...

    def select(self, candidates: Sequence[Candidate], request: SelectionRequest) -> SelectionResult:
        """Choose, and move whatever pointer the strategy keeps. ``candidates`` is never empty.

        Raises:
            RoutingError: None of them may be used (a strict session, say).
        """
        ...

    def peek(self, candidates: Sequence[Candidate], request: SelectionRequest) -> SelectionResult:
        """Tell what `select` would choose, moving nothing."""
        ...

    def rank(
        self, candidates: Sequence[Candidate], request: SelectionRequest, selected: SelectionResult
    ) -> Sequence[Candidate]:
        """Order the candidates other than the selected one: who is tried next if it fails, best first."""
        ...

    def score(self, candidate: Candidate, request: SelectionRequest) -> float:
        """Rate one candidate, higher is better; moves nothing."""
        ...


@runtime_checkable
class SharesSessions(Protocol):
    """What a strategy that binds sessions to models has besides, so that processes with one state store share them.

    As everything of a strategy it is called from one thread at a time, and returns at once.
    """

    def share_sessions(self, tell: Callable[[str, str], None] | None) -> None:
        """Take what to call with a session and its model whenever they are bound, and now and then while in use.

        None: there is nobody to tell any more.
        """
        ...

    def take_session(self, session_id: str, model_id: str, idle: float) -> None:
        """Bind a session as another process says; one whose model is not in the pool stays as it is.

        Args:
            session_id: Of the session.
            model_id: What it is bound to from now on. Nobody is told of it again.
            idle: Seconds since the session's last request.
        """
        ...

    def bound_sessions(self) -> Mapping[str, tuple[str, float]]:
        """Return the model of each session in use and the seconds since its last request, the one used last first."""
        ...
