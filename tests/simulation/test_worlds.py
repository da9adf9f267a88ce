"""Worlds drawn from seeds: whatever goes wrong in them, every promise holds in each."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from modelmesh_cdk.testing.simulation import World, draw_world, report, run_seed, run_world, shrink


def test_every_promise_holds_in_every_world(seeds: range) -> None:
    """No seed breaks an invariant; one that does is shown with the least it takes."""
    for seed in seeds:
        outcome = run_seed(seed)
        if outcome.broken is not None:
            pytest.fail(report(outcome, shrink(outcome)), pytrace=False)


@pytest.mark.parametrize("seed", [3, 19, 40])
def test_a_seed_is_always_the_same_run(seed: int) -> None:
    """Every callback runs in the same order, and every request ends in the same way."""
    first, again = run_seed(seed), run_seed(seed)

    assert first.digest == again.digest
    assert first.steps == again.steps > 0
    assert [each.outcome for each in first.asked] == [each.outcome for each in again.asked]


def test_other_seeds_are_other_runs() -> None:
    """Ten seeds are ten runs."""
    assert len({run_seed(seed).digest for seed in range(10)}) == 10


def test_a_seed_is_the_same_run_in_another_process() -> None:
    """Nothing hangs on the order of sets or on addresses."""
    code = (
        "from modelmesh_cdk.testing.simulation import run_seed; "
        "print(' '.join(run_seed(seed).digest for seed in range(20, 40)))"
    )
    runs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": salt},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for salt in ("1", "2")
    }

    assert len(runs) == 1
    assert len(runs.pop().split()) == 20


def test_a_script_is_the_world_it_shows() -> None:
    """What a failure prints can be read and run again."""
    world = draw_world(40)

    again = World.read(world.script())

    assert again == world
    assert run_world(again).digest == run_world(world).digest
