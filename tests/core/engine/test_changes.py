"""Whose figures moved since somebody last looked."""

from __future__ import annotations

from typing import Any

import pytest

from modelmesh._engine.candidates import Candidates
from modelmesh._engine.changes import KEPT, Changes
from modelmesh.errors import ProviderServerError
from modelmesh.interfaces.provider import RateLimitStatus
from modelmesh.interfaces.strategy import ModelSnapshot
from modelmesh_cdk.testing import answer


def test_moves_since_a_look_are_named_once_each() -> None:
    """Models and providers apart; nothing moved is nobody, not everybody."""
    changes = Changes()
    changes.note_model("before")
    look = changes.count
    for name in ("a", "b", "a"):
        changes.note_model(name)
    changes.note_provider("p")

    assert changes.since(look) == ({"a", "b"}, {"p"})
    assert changes.since(changes.count) == (set(), set())


@pytest.mark.parametrize(("moves", "is_known"), [(KEPT, True), (KEPT + 1, False)])
def test_what_is_too_long_ago_is_not_known(moves: int, is_known: bool) -> None:
    """Whoever looks that rarely reads everything anew."""
    changes = Changes()
    for number in range(moves):
        changes.note_model(str(number))

    assert (changes.since(0) is not None) is is_known


def test_candidates_tell_which_of_them_moved() -> None:
    """Others of the mesh are no concern of theirs; a provider stands for all of its models."""
    changes = Changes()
    members = [ModelSnapshot(name, f"p{number % 2}") for number, name in enumerate("abcd")]
    candidates = Candidates(members, members[:3], changes)

    for name in ("b", "d", "elsewhere"):
        changes.note_model(name)
    changes.note_provider("p0")

    moved = candidates.moved_since(0)
    assert moved is not None
    assert sorted(each.model_id for each in moved) == ["a", "b", "c"]
    assert (candidates.moves, candidates.moved_since(4)) == (4, [])


def moved(world: Any, before: int) -> list[str]:
    """Return who of the pool has moved since."""
    found = world.pool.candidates(active=True).moved_since(before)
    return sorted(each.model_id for each in found)


def test_answers_and_failures_are_moves(build: Any) -> None:
    """Latency, cost and errors are other ones than before."""
    world = build(a=[ProviderServerError("down")], b=[])
    before = world.pool.candidates(active=True).moves

    world.ask()

    assert moved(world, before) == ["a", "b"]


def test_what_a_provider_says_of_its_limits_moves_all_its_models(build: Any) -> None:
    """And saying the same again moves nobody but who answered."""
    says = answer(rate_limits=RateLimitStatus(5, requests_limit=10))
    world = build(providers={"p": [says, says]}, models={"a": "p", "b": "p"})
    looks = []
    for _ in range(2):
        before = world.pool.candidates(active=True).moves
        world.ask()
        looks.append(moved(world, before))

    assert looks == [["a", "b"], ["a"]]


@pytest.mark.parametrize("strategy", ["latency-first", "cost-first"])
def test_strategies_see_each_answer(build: Any, strategy: str) -> None:
    """What they keep between two requests never outlives what it was made of."""
    world = build(
        a=[answer(delay=2.0, tokens=9)] * 2,
        b=[answer(delay=1.0, tokens=5), answer(delay=5.0, tokens=9)],
        price={"output_per_1k_tokens": 1.0},
        strategy=strategy,
    )
    before = [world.ask(name).model for name in ("a", "b")]

    assert [*before, world.ask().model, world.ask().model] == ["a", "b", "b", "a"]
