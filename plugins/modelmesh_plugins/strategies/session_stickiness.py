"""One model per conversation."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from modelmesh.config.durations import PositiveDuration
from modelmesh.errors import SessionModelUnavailableError
from modelmesh.interfaces.strategy import Candidate, SelectionRequest, SelectionResult
from modelmesh_cdk.preference import Preferences
from modelmesh_cdk.strategy import SequentialStrategy

MAX_SESSIONS = 10_000
"""Sessions that are remembered; the one unused for longest makes room for a new one."""


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
        # Session to model and the monotonic time of its last request; the one used last stands last.
        self._sessions: OrderedDict[str, tuple[str, float]] = OrderedDict()
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
        self._sessions[session] = (chosen.model_id, now)
        self._sessions.move_to_end(session)
        while self._sessions:
            oldest = next(iter(self._sessions))
            if len(self._sessions) <= MAX_SESSIONS and self._is_fresh(self._sessions[oldest][1], now):
                break
            del self._sessions[oldest]

    def rank(
        self, candidates: Sequence[Candidate], request: SelectionRequest, selected: SelectionResult
    ) -> Sequence[Candidate]:
        """Order the others by preference; nobody else may answer a strict session."""
        if request.session_id is not None and self.config.affinity_mode == "strict":
            return ()
        placed = self.in_order(candidates)
        if not self._preferences:
            return placed.without((selected.model_id,))
        return self._preferences.ranked(placed, selected.model_id)

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
