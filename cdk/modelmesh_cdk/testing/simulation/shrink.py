"""Makes a world that breaks a promise smaller, until nothing can be left out of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from modelmesh_cdk.testing.simulation.run import Outcome, run_world
from modelmesh_cdk.testing.simulation.world import World

Item = TypeVar("Item")


def shrink(found: Outcome, *, runs: int = 300, run: Callable[[World], Outcome] = run_world) -> Outcome:
    """Return the smallest world found that breaks the same promise.

    Args:
        found: A run that broke one.
        runs: How many smaller worlds to try at most.
        run: How they are run.
    """
    assert found.broken is not None
    goal = found.broken.goal
    best, left, is_smaller = found, runs, True
    while is_smaller and left > 0:
        is_smaller = False
        for world in _smaller(best.world):
            if left <= 0:
                break
            left -= 1
            outcome = run(world)
            if outcome.broken is not None and outcome.broken.goal == goal:
                best, is_smaller = outcome, True
                break
    return best


def report(found: Outcome, smallest: Outcome) -> str:
    """Say what broke, how to see it again, and the least that it takes."""
    assert found.broken is not None
    assert smallest.broken is not None
    return "\n".join(
        [
            f"seed {found.world.seed} breaks {found.broken}",
            f"  again: pytest --sim-seed {found.world.seed}",
            f"  the least it takes breaks {smallest.broken}",
            "  as a script for World.read:",
            smallest.world.script(),
        ]
    )


def _smaller(world: World) -> Iterator[World]:
    """Yield worlds with something left out, the most first."""
    for faults in _without(world.faults):
        yield world.but(faults=faults)
    for asks in _without(world.asks):
        if asks:
            yield world.but(asks=asks)
    if world.processes > 1:
        for count in range(1, world.processes):
            yield world.but(processes=count)
    for providers in _without(world.providers):
        if providers:
            kept = {"", *(spec.name for spec in providers), *(str(number) for number in range(world.processes))}
            yield world.but(providers=providers, faults=tuple(fault for fault in world.faults if fault.target in kept))
    for key in world.pool:
        if key not in ("deadline", "timeouts"):
            pool: dict[str, Any] = {name: value for name, value in world.pool.items() if name != key}
            yield world.but(pool=pool)
    if any(world.skews):
        yield world.but(skews=(0.0,))


def _without(items: Sequence[Item]) -> Iterator[tuple[Item, ...]]:
    """Yield the items without each half, each quarter, … and each single one."""
    size = len(items)
    while size >= 1:
        for start in range(0, len(items), size):
            yield (*items[:start], *items[start + size :])
        size //= 2
