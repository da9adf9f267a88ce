"""One model until its provider's limit comes near, then another."""

from __future__ import annotations

import math
from bisect import bisect_right, insort
from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from modelmesh.config.durations import Duration, PositiveDuration
from modelmesh.interfaces.strategy import Candidate, SelectionRequest, SelectionResult
from modelmesh_cdk.figures import Headroom, HeadroomReader, neutral
from modelmesh_cdk.ordering import Order, OrderedStrategy
from modelmesh_cdk.preference import Preferences

MINUTE = 60.0
"""Seconds that ``max_rpm`` looks back."""


class RateLimitSettings(BaseModel):
    """When to leave a model alone, and what to do then."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    threshold: float = Field(
        default=0.8, gt=0, le=1, description="Share of the provider's limit that may be used up before it is spared."
    )
    min_delta: Duration = Field(default=0.0, description="Least time between two requests to a model (duration).")
    max_rpm: int | None = Field(
        default=None, ge=0, description="Most requests to a model in any 60 seconds; 0 or nothing for no limit."
    )
    action: Literal["switch_model", "delay_request", "queue"] = Field(
        default="switch_model",
        description="switch_model: go on with the model that has most left. delay_request: wait until the limit allows"
        " it again; requests that wait for the same moment go together. queue: wait in line, one after the other.",
    )
    max_wait: PositiveDuration = Field(
        default=60.0, description="Longest wait of delay_request and queue; beyond it they switch (duration)."
    )


class RateLimitConfig(BaseModel):
    """Settings of rate-limit-aware, in the pool's section."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    rate_limit: RateLimitSettings = Field(
        default_factory=RateLimitSettings, description="When to leave a model alone, and what to do then."
    )
    model_priority: list[str] = Field(default=[], description="Which model to begin with, the most preferred first.")
    provider_priority: list[str] = Field(
        default=[], description="Which provider to begin with, the most preferred first, after the models."
    )


class Pace:
    """When requests go to one model: those of the last minute, and those that wait for their turn."""

    __slots__ = ("_times",)

    def __init__(self) -> None:
        self._times: list[float] = []

    def add(self, at: float, *, now: float) -> None:
        """Note a request, which may be one that goes out later."""
        self.forget(now)
        insort(self._times, at)

    def forget(self, now: float) -> None:
        """Drop what is older than a minute, but never the last request: the distance to it may be longer."""
        old = bisect_right(self._times, now - MINUTE)
        del self._times[: min(old, len(self._times) - 1)]

    def count(self, now: float) -> int:
        """Return how many went out in the last minute."""
        return bisect_right(self._times, now) - bisect_right(self._times, now - MINUTE)

    def free_at(self, start: float, *, min_delta: float, most: int, in_line: bool) -> float:
        """Return the first moment from ``start`` on at which one more may go.

        Args:
            start: Monotonic time.
            min_delta: Seconds between two.
            most: In any minute; 0 for any number.
            in_line: Whether those that wait already go first.
        """
        times, at = self._times, start
        known = len(times) if in_line else bisect_right(times, start)
        if known:
            # A minimal distance of none still keeps the line: nobody goes before who came earlier.
            at = max(at, times[known - 1] + min_delta)
        if most and known >= most:
            at = max(at, times[known - most] + MINUTE)
        return at


class HeadroomOrder(Order):
    """Those under the threshold first, each group by falling headroom; unknown headroom counts as the median.

    Attributes:
        remaining: Requests left, by model.
    """

    def __init__(self, figures: Mapping[str, Headroom | None], threshold: float) -> None:
        middle = neutral([left.remaining for left in figures.values() if left is not None])
        self.remaining = {name: middle if left is None else left.remaining for name, left in figures.items()}
        over = {name: left is not None and left.usage >= threshold for name, left in figures.items()}
        super().__init__(sorted(figures, key=lambda name: (over[name], -self.remaining[name])))


class RateLimitAware(OrderedStrategy[RateLimitConfig, "Headroom | None"]):
    """Stays with a model while less than ``threshold`` of its limit is used, and its own pace allows it.

    It begins with the first of ``model_priority``, of ``provider_priority``, or of the pool. What the provider says of
    its limits counts first; without that, the requests this strategy sent in the last 60 seconds against ``max_rpm``.
    When the model has to be spared, the one with most requests left takes its place (or the request waits, as
    ``action`` says); when all have to be, the one with most left. It never puts a model to rest.
    """

    config_model = RateLimitConfig

    def __init__(self, config: RateLimitConfig | None = None) -> None:
        super().__init__(config)
        self._rules = self.config.rate_limit
        self._preferences = Preferences(self.config.model_priority, self.config.provider_priority)
        self._headroom = HeadroomReader()
        self._paces: dict[str, Pace] = {}
        self._current: str | None = None

    def pool_changed(self, pool_order: Sequence[str]) -> None:
        """Forget members that left."""
        super().pool_changed(pool_order)
        members = frozenset(pool_order)
        self._headroom.forget_all_but(members)
        self._paces = {name: pace for name, pace in self._paces.items() if name in members}

    # --- figures ------------------------------------------------------------------

    def read(self, candidate: Candidate) -> Headroom | None:
        """Return what the provider says is left."""
        return self._headroom.read(candidate, self.context.clock.monotonic())

    def stale_at(self) -> float:
        """Return when the next provider's window ends."""
        return self._headroom.next_end(self.context.clock.monotonic())

    def arrange(self, figures: Mapping[str, Headroom | None]) -> Order:
        """Put those with most left first."""
        return HeadroomOrder(figures, self._rules.threshold)

    # --- choosing -----------------------------------------------------------------

    def choose(self, candidates: Sequence[Candidate], request: SelectionRequest) -> tuple[Candidate, str]:
        """Return the current model, or who takes its place."""
        chosen, reason, _ = self._decide(candidates, self.context.clock.monotonic())
        return chosen, reason

    def select(self, candidates: Sequence[Candidate], request: SelectionRequest) -> SelectionResult:
        """Choose, stay with the chosen model, and note when its request goes out."""
        now = self.context.clock.monotonic()
        chosen, reason, wait = self._decide(candidates, now)
        result = SelectionResult(chosen.model_id, chosen.provider_id, 1.0 - self._usage(chosen, now), reason, wait)
        before, self._current = self._current, chosen.model_id
        # One that rests is not spared for its limit: that it left has been told already.
        if before is not None and before != chosen.model_id and self.in_order(candidates).get(before) is not None:
            result.switched_from = before
        if self._rules.min_delta or self._rules.max_rpm or self._rules.action == "queue":
            self._paces.setdefault(chosen.model_id, Pace()).add(now + wait, now=now)
        return result

    def peek(self, candidates: Sequence[Candidate], request: SelectionRequest) -> SelectionResult:
        """Choose, and note nothing."""
        now = self.context.clock.monotonic()
        chosen, reason, wait = self._decide(candidates, now)
        return SelectionResult(chosen.model_id, chosen.provider_id, 1.0 - self._usage(chosen, now), reason, wait)

    def _decide(self, candidates: Sequence[Candidate], now: float) -> tuple[Candidate, str, float]:
        """Return whom to call, why, and after how many seconds."""
        placed = self.in_order(candidates)
        current = placed.get(self._current) if self._current is not None else None
        reason = "current"
        if current is None:
            current, reason = self._preferences.first(placed) or (candidates[0], "pool order")
        if self._is_free(current, now):
            return current, reason, 0.0
        wait = None if self._rules.action == "switch_model" else self._wait_for(current, now)
        if wait is not None:
            return current, "wait", wait
        return (*self._most_left(candidates, now), 0.0)

    def score(self, candidate: Candidate, request: SelectionRequest) -> float:
        """Rate by the share of the limit that is left."""
        return 1.0 - self._usage(candidate, self.context.clock.monotonic())

    # --- limits -------------------------------------------------------------------

    def _usage(self, candidate: Candidate, now: float) -> float:
        """Return the share of the limit that is used: the provider's figure, else this strategy's own count."""
        left = self._headroom.read(candidate, now)
        if left is not None:
            return left.usage
        pace = self._paces.get(candidate.model_id)
        if pace is None or not self._rules.max_rpm:
            return 0.0
        return min(1.0, pace.count(now) / self._rules.max_rpm)

    def _is_free(self, candidate: Candidate, now: float) -> bool:
        """Whether a request may go to the model just now."""
        left = self._headroom.read(candidate, now)
        if left is not None and left.usage >= self._rules.threshold:
            return False
        return self._free_at(candidate, now, spoken=left is not None) <= now

    def _free_at(self, candidate: Candidate, start: float, *, spoken: bool) -> float:
        """Return the first moment from ``start`` on that the model's pace allows.

        Args:
            candidate: The model.
            start: Monotonic time.
            spoken: Whether the provider says what is left; otherwise the threshold is held against the own count.
        """
        pace = self._paces.get(candidate.model_id)
        if pace is None:
            return start
        rules = self._rules
        most = rules.max_rpm or 0
        if most and not spoken:
            most = max(1, math.ceil(most * rules.threshold - 1e-9))
        return pace.free_at(start, min_delta=rules.min_delta, most=most, in_line=rules.action == "queue")

    def _wait_for(self, candidate: Candidate, now: float) -> float | None:
        """Return the seconds until the model may be called; None if nobody knows, or it is too long."""
        left = self._headroom.read(candidate, now)
        start: float | None = now
        if left is not None and left.usage >= self._rules.threshold:
            start = self._headroom.window_ends(candidate, now)
        if start is None:
            return None
        wait = self._free_at(candidate, start, spoken=left is not None) - now
        return wait if wait <= self._rules.max_wait else None

    def _most_left(self, candidates: Sequence[Candidate], now: float) -> tuple[Candidate, str]:
        """Return who has most requests left: among those that are free, or among all when nobody is."""
        board = self.board(candidates)
        assert isinstance(board.order, HeadroomOrder)
        remaining, figures = board.order.remaining, board.figures
        if not self._rules.max_rpm:
            for name in board.order.ids:
                candidate = board.candidate(name)
                if self._is_free(candidate, now):
                    return candidate, "most left"
            return board.candidate(max(figures, key=remaining.__getitem__)), "all near their limits"

        def left(name: str) -> float:
            pace = self._paces.get(name)
            if figures[name] is not None or pace is None:
                return remaining[name] if figures[name] is not None else float(self._rules.max_rpm or 0)
            return float((self._rules.max_rpm or 0) - pace.count(now))

        free = [name for name in figures if self._is_free(board.candidate(name), now)]
        chosen = max(free or figures, key=left)
        return board.candidate(chosen), "most left" if free else "all near their limits"
