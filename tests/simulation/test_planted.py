"""The simulation can fail: faults that are put in on purpose are found, each within 500 seeds."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from modelmesh_cdk.testing.simulation import Outcome, run_seed

_SPEC = importlib.util.spec_from_file_location("planted", Path(__file__).parent / "planted.py")
assert _SPEC is not None
assert _SPEC.loader is not None
planted: Any = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(planted)

SEEDS = 500


def first_found(goals: frozenset[str]) -> Outcome | None:
    """Return the first run that breaks one of these promises."""
    for seed in range(SEEDS):
        outcome = run_seed(seed)
        if outcome.broken is not None and outcome.broken.goal in goals:
            return outcome
    return None


@pytest.mark.parametrize("name", list(planted.PLANTED))
def test_a_planted_fault_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within 500 seeds, by the promise that it breaks."""
    plant, goals = planted.PLANTED[name]
    plant(monkeypatch)

    found = first_found(goals)

    assert found is not None
