"""How much retrying may run at once, so that an outage is not amplified: per pool, and over all pools of the process.

The shape is that of Envoy (its `circuit_breaker.proto`): a share of the requests that run, but always a few.
"""

from __future__ import annotations

PROCESS_PERCENT = 20.0
PROCESS_MINIMUM = 10
"""The budget over all pools; a pool's own comes from its configuration."""


class RetryBudget:
    """Counts requests, and retries among them.

    Args:
        percent: Share of the running requests that may be retrying.
        minimum: Retries that may run however few requests there are.
        above: A budget that has to grant each retry as well.

    Attributes:
        requests: Running now.
        retries: Of these, retrying.
    """

    __slots__ = ("_above", "_minimum", "_percent", "requests", "retries")

    def __init__(self, percent: float, minimum: int, above: RetryBudget | None = None) -> None:
        self._percent = percent
        self._minimum = minimum
        self._above = above
        self.requests = 0
        self.retries = 0

    @classmethod
    def of_process(cls) -> RetryBudget:
        """Return the budget over all pools of a mesh."""
        return cls(PROCESS_PERCENT, PROCESS_MINIMUM)

    def enter(self) -> None:
        """Count a request that begins."""
        self.requests += 1
        if self._above is not None:
            self._above.requests += 1

    def leave(self, *, retried: bool) -> None:
        """Count a request that ended, with the place it may have taken."""
        self.requests -= 1
        self.retries -= retried
        if self._above is not None:
            self._above.requests -= 1
            self._above.retries -= retried

    def take(self) -> bool:
        """Take a place for a retry, if there is one here and above."""
        above = self._above
        if not self._has_room() or (above is not None and not above._has_room()):
            return False
        self.retries += 1
        if above is not None:
            above.retries += 1
        return True

    def _has_room(self) -> bool:
        # One more must still be within the share: 20 % of 6 requests is 1 retry, not 2.
        return self.retries + 1 <= max(float(self._minimum), self.requests * self._percent / 100.0)
