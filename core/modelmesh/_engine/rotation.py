"""When a model leaves its pool's traffic, and for how long: plain decisions over its figures."""

from __future__ import annotations

from collections.abc import Sequence

from modelmesh._engine.policies import DeactivationRules, RecoveryRules
from modelmesh.interfaces.runtime import Random
from modelmesh.interfaces.strategy import (
    Candidate,
    DeactivationReason,
    SelectionRequest,
    SelectionResult,
    SelectionStrategy,
)
from modelmesh.state import ModelState


class DeactivationEvaluator:
    """Says whether a model's figures put it into standby."""

    def __init__(self, rules: DeactivationRules) -> None:
        self.rules = rules

    def should_deactivate(self, snapshot: Candidate | ModelState, *, samples: int | None = None) -> bool:
        """Whether there is a reason."""
        return self.get_reason(snapshot, samples=samples) is not None

    def get_reason(self, snapshot: Candidate | ModelState, *, samples: int | None = None) -> DeactivationReason | None:
        """Name the first reason that holds, money before errors before usage.

        Args:
            snapshot: The model's figures.
            samples: Outcomes in its error window; None when that is not known, and then the rate counts.
        """
        rules = self.rules
        if rules.budget_limit is not None and snapshot.cost_accumulated >= rules.budget_limit:
            return DeactivationReason.BUDGET_EXCEEDED
        if snapshot.failure_count >= rules.retry_limit:
            return DeactivationReason.ERROR_THRESHOLD
        enough = samples is None or samples >= rules.error_rate_min_samples
        if enough and snapshot.error_rate >= rules.error_rate_threshold and snapshot.failure_count:
            return DeactivationReason.ERROR_THRESHOLD
        if rules.token_limit is not None and snapshot.tokens_used >= rules.token_limit:
            return DeactivationReason.TOKEN_LIMIT
        if rules.request_limit is not None and snapshot.quota_used >= rules.request_limit:
            return DeactivationReason.REQUEST_LIMIT
        return None


class RecoveryEvaluator:
    """Says how long a model rests: each rest in a row is twice the one before, with jitter, up to a limit."""

    def __init__(self, rules: RecoveryRules, random: Random) -> None:
        self.rules = rules
        self._random = random

    def rest_after(self, ejections: int) -> float:
        """Return the seconds of the ``ejections``-th rest in a row (1-based).

        The jitter only lengthens, so that many processes do not come back to a provider in the same instant and
        none comes back early.
        """
        grown = self.rules.cooldown * 2.0 ** min(ejections - 1, 30)
        limit = max(self.rules.max_cooldown, self.rules.cooldown)
        return min(grown, limit) * self._random.uniform(1.0, 1.1)


class RotationPolicyService:
    """The three replaceable parts of a pool's rotation: who leaves, who returns, who is chosen."""

    def __init__(
        self,
        deactivation_evaluator: DeactivationEvaluator,
        recovery_evaluator: RecoveryEvaluator,
        selection_strategy: SelectionStrategy,
    ) -> None:
        self.deactivation = deactivation_evaluator
        self.recovery = recovery_evaluator
        self.strategy = selection_strategy

    def select_model(self, candidates: Sequence[Candidate], request: SelectionRequest) -> SelectionResult:
        """Choose among active candidates; never called with none."""
        return self.strategy.select(candidates, request)
