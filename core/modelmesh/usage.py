"""What a mesh was used for: cost, tokens and calls, by model, and how its budgets stand."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from modelmesh.replies import Reply
from modelmesh.statistics import StatsScope

if TYPE_CHECKING:
    from modelmesh.quota import QuotaRow
    from modelmesh.statistics import StatisticsCollector


@dataclass(frozen=True, slots=True)
class ModelUsage:
    """Use of one model.

    Attributes:
        total_cost: USD; calls without a known price count 0.
        total_tokens: Input and output.
        total_requests: Calls, failed ones among them.
    """

    total_cost: float = 0.0
    total_tokens: int = 0
    total_requests: int = 0


@dataclass(frozen=True, slots=True)
class Usage:
    """Use of a mesh at one moment, over the time that its statistics look back (seven days unless configured).

    Attributes:
        total_cost: USD; calls without a known price count 0.
        total_tokens: Input and output.
        total_requests: Calls to models, failed ones and retries among them.
        by_model: The same for each model that was called, by its ID.
    """

    total_cost: float = 0.0
    total_tokens: int = 0
    total_requests: int = 0
    by_model: dict[str, ModelUsage] = field(default_factory=dict)
    _quota: Callable[[], Iterable[QuotaRow]] = field(default=tuple, repr=False, compare=False)

    @property
    def budget_status(self) -> Reply | None:
        """How the budget stands of which the smallest part is left; None when there is none.

        It has ``subject``, ``limit``, ``used``, ``reserved`` and ``remaining`` (USD), ``exceeded``, and ``resets_at``
        (Unix time or None).

        Raises:
            StateStoreError: The state store does not answer.
            UsageError: Asked on the mesh's own event loop.
        """
        budgets = [row for row in self._quota() if row.unit == "USD"]
        if not budgets:
            return None
        tightest = min(budgets, key=lambda row: row.left / row.limit if row.limit else 0.0)
        return Reply(
            {
                "subject": tightest.subject,
                "limit": tightest.limit,
                "used": tightest.spent,
                "reserved": tightest.reserved,
                "remaining": tightest.left,
                "exceeded": tightest.left <= 0.0,
                "resets_at": tightest.resets_at,
            }
        )


def usage_of(statistics: StatisticsCollector, quota: Callable[[], Iterable[QuotaRow]]) -> Usage:
    """Add up the use of a mesh.

    Args:
        statistics: Of the mesh.
        quota: Returns how its limits stand.
    """
    by_model = _by_name(statistics, StatsScope.MODEL)
    # Where figures of models are not kept, those of providers or pools add up to the same.
    parts = by_model or _by_name(statistics, StatsScope.PROVIDER) or _by_name(statistics, StatsScope.POOL)
    return Usage(
        sum(part.total_cost for part in parts.values()),
        sum(part.total_tokens for part in parts.values()),
        sum(part.total_requests for part in parts.values()),
        by_model,
        quota,
    )


def _by_name(statistics: StatisticsCollector, scope: StatsScope) -> dict[str, ModelUsage]:
    found: dict[str, ModelUsage] = {}
    for name in statistics.names(scope):
        try:
            stats = statistics.query(scope, name)
        except KeyError:  # it was never called, or too long ago
            continue
        if stats.total_requests:
            tokens = stats.total_tokens_in + stats.total_tokens_out
            found[name] = ModelUsage(stats.total_cost, tokens, stats.total_requests)
    return found
