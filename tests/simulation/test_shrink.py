"""A world that breaks a promise is made smaller, and shown so that it can be run again."""

from __future__ import annotations

import pytest

from modelmesh._engine.streaming import StreamProgress
from modelmesh_cdk.testing.simulation import Outcome, World, report, run_seed, run_world, shrink

SEEDS = 50


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Outcome:
    """A run in which cut streams were taken for whole ones, of more requests than that takes."""
    monkeypatch.setattr(StreamProgress, "end", lambda self: None)
    outcomes = (run_seed(seed) for seed in range(SEEDS))
    return next(each for each in outcomes if each.broken is not None and len(each.asked) > 10)


def test_what_is_not_needed_is_left_out(broken: Outcome) -> None:
    """One request, one fault and one process are enough for a stream that is cut."""
    smallest = shrink(broken)

    assert smallest.broken is not None
    assert smallest.broken.goal == "R6"
    assert len(smallest.world.asks) == 1
    assert len(smallest.world.faults) == 1
    assert smallest.world.processes == 1


def test_trying_smaller_worlds_ends(broken: Outcome) -> None:
    """After as many runs as it was given."""
    runs: list[World] = []

    def run(world: World) -> Outcome:
        runs.append(world)
        return run_world(world)

    shrink(broken, runs=7, run=run)

    assert len(runs) == 7


def test_the_report_says_how_to_see_it_again(broken: Outcome) -> None:
    """The seed, the promise, and a script that breaks it."""
    smallest = shrink(broken)
    text = report(broken, smallest)

    again = run_world(World.read(text[text.index("\n{") :]))
    assert f"--sim-seed {broken.world.seed}" in text
    assert "breaks R6" in text
    assert again.broken is not None
    assert again.digest == smallest.digest
