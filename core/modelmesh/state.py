"""ModelState and ProviderState: health and usage as data, updated after each request, saved and restored.

Both are plain data; `configure` attaches what is not data, a clock and the limits they are judged by, and none of that
is compared or serialised. Unconfigured, a state has no limits and reads the system's clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from math import isfinite
from typing import Any

from modelmesh._engine.system import SystemClock
from modelmesh.interfaces.runtime import Clock

HISTORY = 50
"""Latencies kept, and the window "recent" means."""

ERROR_WINDOW = 100
"""Outcomes the error rate is taken over."""

_SYSTEM_CLOCK = SystemClock()


@dataclass
class ModelState:
    """Per-model health and usage tracking."""

    status: str = "active"
    """Current status: 'active' or 'standby'."""

    failure_count: int = 0
    """Consecutive failures since last success."""

    error_rate: float = 0.0
    """Error rate over sliding window (0.0-1.0)."""

    cooldown_remaining: float = 0.0
    """Time remaining in seconds before recovery eligibility; counts down on its own."""

    quota_used: int = 0
    """Requests consumed in current quota period."""

    tokens_used: int = 0
    """Tokens consumed in current quota period."""

    cost_accumulated: float = 0.0
    """Cost accumulated in current budget period (USD)."""

    latency_history: list[float] = field(default_factory=list)
    """Recent request latencies in seconds for scoring."""

    last_request: float | None = None
    """Unix timestamp of last successful request."""

    last_failure: float | None = None
    """Unix timestamp of last failure."""

    deactivation_reason: str | None = None
    """Reason for standby status (if applicable). Values include 'error_threshold', 'quota_exhausted',
    'budget_exceeded', 'token_limit', 'request_limit', 'maintenance_window', 'manual'."""

    def __post_init__(self) -> None:
        self._outcomes: deque[bool] = deque(maxlen=ERROR_WINDOW)
        self._failures = 0
        self._history = HISTORY
        self._error_rate_threshold = 0.5
        self._request_limit: int | None = None
        self._token_limit: int | None = None
        self._budget_limit: float | None = None

    def configure(
        self,
        *,
        clock: Clock | None = None,
        error_rate_threshold: float = 0.5,
        request_limit: int | None = None,
        token_limit: int | None = None,
        budget_limit: float | None = None,
        error_window: int = ERROR_WINDOW,
        history: int = HISTORY,
    ) -> None:
        """Attach a clock and the limits that the ``is_…`` questions are answered by.

        Args:
            clock: Time; the system's by default.
            error_rate_threshold: 0.0-1.0; at or above it a model is not healthy.
            request_limit: Requests per period, or None.
            token_limit: Tokens per period, or None.
            budget_limit: USD per period, or None.
            error_window: Outcomes the error rate is taken over.
            history: Latencies kept.
        """
        remaining = self.cooldown_remaining
        if clock is not None:
            self.__dict__["_clock"] = clock
        self.cooldown_remaining = remaining
        self._error_rate_threshold = error_rate_threshold
        self._request_limit = request_limit
        self._token_limit = token_limit
        self._budget_limit = budget_limit
        self._history = history
        self._outcomes = deque(self._outcomes, maxlen=error_window)
        self._failures = sum(self._outcomes)

    @property
    def samples(self) -> int:
        """Outcomes in the error window; 0 after a restart, when ``error_rate`` is the saved one."""
        return len(self._outcomes)

    # --- query methods ----------------------------------------------------

    def is_healthy(self) -> bool:
        """Return True if the model is active with no excessive failures.

        A model is healthy when its status is 'active' and its error rate is below the configured threshold.
        """
        return self.status == "active" and self.error_rate < self._error_rate_threshold

    def is_over_quota(self) -> bool:
        """Return True if requests or tokens used exceed their limit; without a limit never."""
        if self._request_limit is not None and self.quota_used > self._request_limit:
            return True
        return self._token_limit is not None and self.tokens_used > self._token_limit

    def is_over_budget(self) -> bool:
        """Return True if the accumulated cost exceeds the budget; without a budget never."""
        return self._budget_limit is not None and self.cost_accumulated > self._budget_limit

    # --- mutation methods -------------------------------------------------

    def record_success(self, latency: float, tokens: int, cost: float) -> None:
        """Record a successful request.

        Resets the consecutive failure count, appends to latency history, and increments quota and cost counters.

        Args:
            latency: Request latency in seconds.
            tokens: Tokens consumed by the request.
            cost: Cost of the request in USD.
        """
        self.failure_count = 0
        history = self.latency_history
        history.append(latency)
        if len(history) > self._history:
            del history[: len(history) - self._history]
        self.quota_used += 1
        self.tokens_used += tokens
        self.cost_accumulated += cost
        self.last_request = self._now()
        self._record_outcome(failed=False)

    def record_failure(self, error: Exception) -> None:
        """Record a failed request.

        Increments the consecutive failure count, updates the error rate over the sliding window, and records the
        failure timestamp.

        Args:
            error: The exception raised by the provider.
        """
        self.failure_count += 1
        self.last_failure = self._now()
        self._record_outcome(failed=True)

    def set_error_window(self, outcomes: int) -> None:
        """Take the error rate over so many outcomes from now on."""
        self._outcomes = deque(self._outcomes, maxlen=outcomes)
        self._failures = sum(self._outcomes)

    def start_period(self) -> None:
        """Count quota, tokens and cost anew: a quota's day or month has begun."""
        self.quota_used = 0
        self.tokens_used = 0
        self.cost_accumulated = 0.0

    def _record_outcome(self, *, failed: bool) -> None:
        outcomes = self._outcomes
        if len(outcomes) == outcomes.maxlen:
            self._failures -= outcomes[0]
        outcomes.append(failed)
        self._failures += failed
        self.error_rate = self._failures / len(outcomes)

    def _now(self) -> float:
        clock: Clock = self.__dict__.get("_clock", _SYSTEM_CLOCK)
        return clock.time()

    # --- serialization ----------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Serialize the state to a dictionary for persistence: all eleven fields, nothing else."""
        return {each.name: _copied(getattr(self, each.name)) for each in fields(self)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ModelState:
        """Deserialize a state from a dictionary.

        Args:
            data: Dictionary previously produced by to_dict(); keys it lacks take their default, others are ignored.

        Returns:
            A restored ModelState instance.

        Raises:
            ValueError: A value has the wrong type or is not finite; names the field.
        """
        return cls(**_checked(cls, data))


def _get_cooldown(state: ModelState) -> float:
    clock: Clock = state.__dict__.get("_clock", _SYSTEM_CLOCK)
    until: float | None = state.__dict__.get("_cooldown_until")
    return 0.0 if until is None else max(0.0, until - clock.monotonic())


def _set_cooldown(state: ModelState, seconds: float) -> None:
    clock: Clock = state.__dict__.get("_clock", _SYSTEM_CLOCK)
    state.__dict__["_cooldown_until"] = clock.monotonic() + seconds if seconds > 0 else None


# A dataclass field that is read from a deadline: installed once the dataclass is built, so that its constructor,
# comparison and serialisation treat it as the field it is.
ModelState.cooldown_remaining = property(_get_cooldown, _set_cooldown)  # type: ignore[assignment]


@dataclass
class ProviderState:
    """Per-provider aggregate health tracking."""

    available: bool = True
    """Provider is operational."""

    auth_valid: bool = True
    """Authentication is valid."""

    last_probe: float | None = None
    """Unix timestamp of last health probe."""

    availability_score: float = 1.0
    """Rolling availability score (0.0-1.0)."""

    active_model_count: int = 0
    """Number of active models from this provider."""

    total_quota_used: int = 0
    """Aggregate quota consumption across all models."""

    total_cost: float = 0.0
    """Aggregate cost across all models (USD)."""

    def __post_init__(self) -> None:
        self._clock: Clock = _SYSTEM_CLOCK
        self._alpha = 0.25
        self._minimum = 0.5

    def configure(self, *, clock: Clock | None = None, ema_alpha: float = 0.25, min_availability: float = 0.5) -> None:
        """Attach a clock and the figures probes are judged by.

        Args:
            clock: Time; the system's by default.
            ema_alpha: Weight of the newest probe in the score, 0.0-1.0.
            min_availability: Score below which the provider is not available, 0.0-1.0.
        """
        self._clock = clock or self._clock
        self._alpha = ema_alpha
        self._minimum = min_availability

    # --- query methods ----------------------------------------------------

    def is_healthy(self) -> bool:
        """Return True if the provider is available and authenticated, and its score above the minimum."""
        return self.available and self.auth_valid and self.availability_score > self._minimum

    # --- mutation methods -------------------------------------------------

    def record_probe(self, success: bool, latency: float | None = None) -> None:
        """Record a health probe result.

        Updates the availability score using an exponential moving average. Sets `available` to False if the score
        drops below the minimum threshold, and to True again once a success has brought it back.

        Args:
            success: Whether the probe succeeded.
            latency: Probe response latency in seconds (if available); not kept.
        """
        outcome = 1.0 if success else 0.0
        self.availability_score += self._alpha * (outcome - self.availability_score)
        self.last_probe = self._clock.time()
        if self.availability_score < self._minimum:
            self.available = False
        elif success:
            self.available = True

    # --- serialization ----------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Serialize the state to a dictionary for persistence: all seven fields, nothing else."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ProviderState:
        """Deserialize a state from a dictionary.

        Args:
            data: Dictionary previously produced by to_dict(); keys it lacks take their default, others are ignored.

        Returns:
            A restored ProviderState instance.

        Raises:
            ValueError: A value has the wrong type or is not finite; names the field.
        """
        return cls(**_checked(cls, data))


_NUMBER = (int, float)
_TYPES: dict[str, tuple[type, ...]] = {
    "status": (str,),
    "failure_count": (int,),
    "error_rate": _NUMBER,
    "cooldown_remaining": _NUMBER,
    "quota_used": (int,),
    "tokens_used": (int,),
    "cost_accumulated": _NUMBER,
    "latency_history": (list,),
    "last_request": (*_NUMBER, type(None)),
    "last_failure": (*_NUMBER, type(None)),
    "deactivation_reason": (str, type(None)),
    "available": (bool,),
    "auth_valid": (bool,),
    "last_probe": (*_NUMBER, type(None)),
    "availability_score": _NUMBER,
    "active_model_count": (int,),
    "total_quota_used": (int,),
    "total_cost": _NUMBER,
}


def _checked(cls: type[ModelState | ProviderState], data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that are there, once their types are right."""
    kept: dict[str, Any] = {}
    for each in fields(cls):
        if each.name not in data:
            continue
        value = data[each.name]
        expected = _TYPES[each.name]
        if not isinstance(value, expected) or (isinstance(value, bool) and bool not in expected):
            names = " or ".join("null" if kind is type(None) else kind.__name__ for kind in expected)
            raise ValueError(f"{cls.__name__}.{each.name} must be {names}, not {type(value).__name__}")
        items = value if isinstance(value, list) else [value]
        if isinstance(value, list) and any(type(item) not in _NUMBER for item in items):
            raise ValueError(f"{cls.__name__}.{each.name} must hold numbers only")
        if any(isinstance(item, float) and not isfinite(item) for item in items):
            raise ValueError(f"{cls.__name__}.{each.name} must be finite")
        kept[each.name] = _copied(value)
    return kept


def _copied(value: Any) -> Any:
    return list(value) if isinstance(value, list) else value
