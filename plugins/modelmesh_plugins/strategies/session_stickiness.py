"""One model per conversation."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from modelmesh.config.durations import PositiveDuration
from modelmesh.errors import SessionModelUnavailableError
from modelmesh.interfaces.strategy import Candidate, SelectionRequest, SelectionResult
from modelmesh_cdk.preference import Preferences
from modelmesh_cdk.strategy import SequentialStrategy

MAX_SESSIONS = 10_000
"""Sessions that are remembered if nothing else is said; the one unused for longest makes room for a new one."""

_TOLD_SHARE = 4
"""Into how many parts a session's timeout is divided, of which one may pass before others hear that it is in use."""


class SessionConfig(BaseModel):
    """Settings of session-stickiness, in the pool's section."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    affinity_mode: Literal["fallback", "strict"] = Field(
        default="fallback",
        description="When a session's model is standby: fallback gives it another one, strict is an error.",
    )
    session_timeout: PositiveDuration = Field(
        default=1_800.0, description="A session is forgotten after this long without a request (duration)."
    )
    max_sessions: int = Field(
        default=MAX_SESSIONS,
        ge=1,
        description="Sessions that are remembered, those of all processes that share a state store included; the one"
        " unused for longest makes room for a new one.",
    )
    model_priority: list[str] = Field(default=[], description="Models for new sessions, the most preferred first.")
    provider_priority: list[str] = Field(
        default=[], description="Providers for new sessions, the most preferred first, after the models."
    )


class SessionStickiness(SequentialStrategy[SessionConfig]):
    """Keeps each session with the model that served it first.

    A session is what requests with the same ``session_id`` belong to. New ones, and requests without, get the first
    active model of ``model_priority``, else of ``provider_priority``, else of the pool. A session whose model left the
    pool starts anew under either mode.
    """

    config_model = SessionConfig

    def __init__(self, config: SessionConfig | None = None) -> None:
        super().__init__(config)
        self._preferences = Preferences(self.config.model_priority, self.config.provider_priority)
        # Session to model, and the monotonic times of its last request and of when others were told of it last; the one
        # used last stands last.
        self._sessions: OrderedDict[str, tuple[str, float, float]] = OrderedDict()
        self._tell: Callable[[str, str], None] | None = None
        self._members: frozenset[str] = frozenset()

    def pool_changed(self, pool_order: Sequence[str]) -> None:
        """Take note of the members."""
        super().pool_changed(pool_order)
        self._members = frozenset(pool_order)

    def choose(self, candidates: Sequence[Candidate], request: SelectionRequest) -> tuple[Candidate, str]:
        """Return the session's model, or one for a new session.

        Raises:
            SessionModelUnavailableError: The session's model is standby and ``affinity_mode`` is strict.
        """
        placed = self.in_order(candidates)
        bound = self._model_of(request.session_id)
        if bound is not None:
            candidate = placed.get(bound)
            if candidate is not None:
                return candidate, "session"
            if self.config.affinity_mode == "strict":
                assert request.session_id is not None
                raise SessionModelUnavailableError(request.session_id, bound, pool_name=self.context.name)
        return self._preferences.first(placed) or (candidates[0], "pool order")

    def commit(self, chosen: Candidate, request: SelectionRequest) -> None:
        """Bind the session to the model, and forget sessions nobody uses any more."""
        session = request.session_id
        if session is None:
            return
        now = self.context.clock.monotonic()
        told_at = self._told_at(session, chosen.model_id)
        if self._tell is not None and now - told_at >= self.config.session_timeout / _TOLD_SHARE:
            self._tell(session, chosen.model_id)
            told_at = now
        self._bind(session, chosen.model_id, now, told_at)

    def _told_at(self, session: str, model: str) -> float:
        bound = self._sessions.get(session)
        return bound[2] if bound is not None and bound[0] == model else float("-inf")

    def _bind(self, session: str, model: str, used_at: float, told_at: float) -> None:
        oldest_use = next(iter(self._sessions.values()))[1] if self._sessions else used_at
        self._sessions[session] = (model, used_at, told_at)
        self._sessions.move_to_end(session, last=used_at >= oldest_use)
        now = self.context.clock.monotonic()
        while self._sessions:
            oldest = next(iter(self._sessions))
            if len(self._sessions) <= self.config.max_sessions and self._is_fresh(self._sessions[oldest][1], now):
                break
            del self._sessions[oldest]

    def share_sessions(self, tell: Callable[[str, str], None] | None) -> None:
        """Take what to call with a session and its model, for other processes."""
        self._tell = tell

    def take_session(self, session_id: str, model_id: str, idle: float) -> None:
        """Bind a session as another process says."""
        if model_id not in self._members:
            return
        told_at = used_at = self.context.clock.monotonic() - idle
        known = self._sessions.get(session_id)
        if known is not None:
            used_at = max(used_at, known[1])
        self._bind(session_id, model_id, used_at, told_at)

    def bound_sessions(self) -> Mapping[str, tuple[str, float]]:
        """Return the sessions that are in use with their models and idle seconds, the one used last first."""
        now = self.context.clock.monotonic()
        return {
            session: (model, now - used_at)
            for session, (model, used_at, _) in reversed(self._sessions.items())
            if self._is_fresh(used_at, now)
        }

    def rank(
        self, candidates: Sequence[Candidate], request: SelectionRequest, selected: SelectionResult
    ) -> Sequence[Candidate]:
        """Order the others by preference; nobody else may answer a strict session."""
        if request.session_id is not None and self.config.affinity_mode == "strict":
            return ()
        return self._preferences.ranked(self.in_order(candidates), selected.model_id)

    def score(self, candidate: Candidate, request: SelectionRequest) -> float:
        """Rate the session's model 2,000, the others as priority-selection does."""
        if self._model_of(request.session_id) == candidate.model_id:
            return 2_000.0
        return self._preferences.score(candidate)

    def _model_of(self, session: str | None) -> str | None:
        """Return the model a session is bound to, if it is, still is in the pool and was used lately."""
        bound = None if session is None else self._sessions.get(session)
        if bound is None or not self._is_fresh(bound[1], self.context.clock.monotonic()):
            return None
        return bound[0] if bound[0] in self._members else None

    def _is_fresh(self, used_at: float, now: float) -> bool:
        return now - used_at < self.config.session_timeout
