"""Whether a failed call may be made again, and after how long."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal

from modelmesh.errors import BudgetExceededError, ProviderError
from modelmesh.interfaces.runtime import Random

Backoff = Literal["fixed", "exponential_jitter", "retry_after"]
Scope = Literal["same_model", "same_provider", "any"]

_NEVER_AGAIN = frozenset({"client_error", "content_filter", "unsupported", "auth", "quota"})
"""Categories for which calling the same model once more cannot help."""


class RetryClass(Enum):
    """What a failure means for calling the same model again."""

    RETRYABLE = "retryable"
    NON_RETRYABLE = "non_retryable"
    RATE_LIMITED = "rate_limited"


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Retries of a pool; the defaults are the configuration's.

    Attributes:
        max_attempts: Retries after the first call (not calls in all).
        backoff: How the wait grows.
        initial_delay: Seconds before the first retry.
        max_delay: Seconds; no single wait is longer. A longer ``Retry-After`` is not waited for.
        scope: Who is called again under ``prefer="retry"``.
        prefer: ``rotate`` goes to the next candidate at once and waits only when nobody is left;
            ``retry`` calls within the scope again, after a wait, before it rotates.
        retryable_codes: Statuses that may be retried whatever the category says.
        non_retryable_codes: Statuses that may not.
        written_codes: Those of both lists that the configuration names itself; a provider's settings decide of others.
        honor_retry_after: Whether the provider's own wait replaces the computed one.
    """

    max_attempts: int = 3
    backoff: Backoff = "exponential_jitter"
    initial_delay: float = 0.5
    max_delay: float = 10.0
    scope: Scope = "same_model"
    prefer: Literal["rotate", "retry"] = "rotate"
    retryable_codes: frozenset[int] = frozenset({429, 500, 502, 503})
    non_retryable_codes: frozenset[int] = frozenset({400, 401, 403})
    written_codes: frozenset[int] = frozenset()
    honor_retry_after: bool = True

    def classify_error(self, error: Exception) -> RetryClass:
        """Say what a failure means; explicit code lists win over the error's category."""
        if isinstance(error, BudgetExceededError) or not isinstance(error, ProviderError):
            return RetryClass.NON_RETRYABLE
        status = error.status_code
        told = None if status in self.written_codes else error.retryable_by_settings
        if error.category in _NEVER_AGAIN or told is False or (told is None and status in self.non_retryable_codes):
            return RetryClass.NON_RETRYABLE
        if error.category == "rate_limit":
            return RetryClass.RATE_LIMITED
        if told or status in self.retryable_codes or error.retryable:
            return RetryClass.RETRYABLE
        return RetryClass.NON_RETRYABLE

    def should_retry(self, error: Exception, attempt: int) -> bool:
        """Whether the ``attempt``-th failure (1-based) leaves a retry."""
        return attempt <= self.max_attempts and self.classify_error(error) is not RetryClass.NON_RETRYABLE

    def get_delay(self, attempt: int, error: Exception | None = None, *, random: Random) -> float | None:
        """Return the seconds to wait before retry number ``attempt`` (1-based).

        Returns:
            None when the provider asked for more than ``max_delay``: then waiting is not worth it.
        """
        asked = getattr(error, "retry_after", None)
        if asked is not None and (self.honor_retry_after or self.backoff == "retry_after"):
            return float(asked) if asked <= self.max_delay else None
        if self.backoff == "fixed":
            return min(self.initial_delay, self.max_delay)
        # 2**60 seconds is already beyond any limit; the cap keeps the power from overflowing a float.
        ceiling = min(self.max_delay, self.initial_delay * 2.0 ** min(attempt - 1, 60))
        return ceiling * random.uniform(0.5, 1.0)
