"""When a model leaves its pool's traffic, and for how long."""

from __future__ import annotations

from typing import Any

import pytest

from modelmesh._engine.policies import DeactivationRules, RecoveryRules
from modelmesh._engine.rotation import DeactivationEvaluator, RecoveryEvaluator, RotationPolicyService
from modelmesh.interfaces.strategy import ModelSnapshot, SelectionRequest
from modelmesh_cdk.strategy import SequentialStrategy
from modelmesh_cdk.testing import FakeRandom

LIMITS = DeactivationRules(request_limit=10, token_limit=100, budget_limit=1.0)


def snapshot(**figures: Any) -> ModelSnapshot:
    """A model with these figures."""
    return ModelSnapshot("a", "x", **figures)


@pytest.mark.parametrize(
    ("figures", "expected"),
    [
        ({}, None),
        ({"failure_count": 2}, None),
        ({"failure_count": 3}, "error_threshold"),
        ({"error_rate": 0.49, "failure_count": 1}, None),
        ({"error_rate": 0.5, "failure_count": 1}, "error_threshold"),
        ({"error_rate": 0.9, "failure_count": 0}, None),
        ({"quota_used": 9}, None),
        ({"quota_used": 10}, "request_limit"),
        ({"tokens_used": 100}, "token_limit"),
        ({"cost_accumulated": 0.99}, None),
        ({"cost_accumulated": 1.0}, "budget_exceeded"),
        ({"cost_accumulated": 2.0, "failure_count": 9, "tokens_used": 999, "quota_used": 99}, "budget_exceeded"),
        ({"failure_count": 9, "tokens_used": 999, "quota_used": 99}, "error_threshold"),
        ({"tokens_used": 999, "quota_used": 99}, "token_limit"),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else str(value),
)
def test_the_first_reason_that_holds_is_named(figures: dict[str, Any], expected: str | None) -> None:
    """Money before errors before usage; a limit holds as soon as it is reached."""
    evaluator = DeactivationEvaluator(LIMITS)

    assert evaluator.get_reason(snapshot(**figures)) == expected
    assert evaluator.should_deactivate(snapshot(**figures)) is (expected is not None)


@pytest.mark.parametrize(("samples", "expected"), [(9, None), (10, "error_threshold"), (None, "error_threshold")])
def test_the_error_rate_means_nothing_before_enough_outcomes(samples: int | None, expected: str | None) -> None:
    """Else the first failure of a new model, a rate of 1.0, would always be its last."""
    evaluator = DeactivationEvaluator(DeactivationRules())

    assert evaluator.get_reason(snapshot(error_rate=1.0, failure_count=1), samples=samples) == expected


@pytest.mark.parametrize(("ejections", "seconds"), [(1, 60), (2, 120), (3, 240), (4, 300), (5_000, 300)])
@pytest.mark.parametrize(("drawn", "more"), [(0.0, 1.0), (0.999_999, 1.1)], ids=["shortest", "longest"])
def test_rests_double_up_to_a_limit_with_jitter_on_top(
    ejections: int, seconds: float, drawn: float, more: float
) -> None:
    """Jitter lengthens by at most a tenth and never shortens."""
    evaluator = RecoveryEvaluator(RecoveryRules(), FakeRandom(drawn))

    assert evaluator.rest_after(ejections) == pytest.approx(seconds * more, rel=1e-4)


def test_a_cooldown_beyond_the_limit_stands() -> None:
    """Who configures an hour gets an hour."""
    evaluator = RecoveryEvaluator(RecoveryRules(cooldown=3_600), FakeRandom(0.0, 0.0))

    assert (evaluator.rest_after(1), evaluator.rest_after(2)) == (3_600, 3_600)


def test_the_three_parts_make_a_policy() -> None:
    """Choosing is the strategy's."""

    class First(SequentialStrategy[Any]):
        def choose(self, candidates: Any, request: Any) -> Any:
            return candidates[0], "first"

    service = RotationPolicyService(
        DeactivationEvaluator(LIMITS), RecoveryEvaluator(RecoveryRules(), FakeRandom()), First()
    )

    assert service.select_model([snapshot()], SelectionRequest()).model_id == "a"
