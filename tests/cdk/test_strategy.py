"""BaseStrategy and SequentialStrategy."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, ValidationError

from modelmesh.interfaces.runtime import ConnectorContext
from modelmesh.interfaces.strategy import (
    Candidate,
    CandidateSequence,
    ModelSnapshot,
    SelectionRequest,
    SelectionResult,
    SelectionStrategy,
)
from modelmesh_cdk.strategy import BaseStrategy, SequentialStrategy

REQUEST = SelectionRequest()


def models(names: str, **error_rates: float) -> list[ModelSnapshot]:
    """Return a candidate per letter, at a provider of the same name."""
    return [ModelSnapshot(name, f"provider-{name}", error_rate=error_rates.get(name, 0.0)) for name in names]


def ids(candidates: Sequence[Candidate]) -> str:
    """Return the candidates' IDs in order."""
    return "".join(candidate.model_id for candidate in candidates)


class Last(BaseStrategy[Any]):
    """Chooses the last candidate and counts the choices that were real."""

    commits = 0

    def choose(self, candidates: Sequence[Candidate], request: SelectionRequest) -> tuple[Candidate, str]:
        return candidates[len(candidates) - 1], "the last"

    def commit(self, chosen: Candidate, request: SelectionRequest) -> None:
        self.commits += 1


class InTurn(SequentialStrategy[Any]):
    """Chooses the candidate that follows the last one chosen."""

    connector_id = "acme.in-turn.v1"
    last = ""

    def choose(self, candidates: Sequence[Candidate], request: SelectionRequest) -> tuple[Candidate, str]:
        return self.in_order(candidates).following(self.last), "in turn"

    def commit(self, chosen: Candidate, request: SelectionRequest) -> None:
        self.last = chosen.model_id

    def score(self, candidate: Candidate, request: SelectionRequest) -> float:
        return 1.0 if candidate.model_id == self.last else 0.0


def test_a_class_with_one_method_is_a_strategy() -> None:
    """What the engine needs, and what it registers, is all there."""
    assert isinstance(Last(), SelectionStrategy)
    assert Last.modelmesh_strategies() == {"": Last}
    assert InTurn.modelmesh_strategies() == {"acme.in-turn.v1": InTurn}


def test_a_strategy_without_choose_cannot_be_made() -> None:
    """The one method an author must write."""
    with pytest.raises(TypeError, match="choose"):
        BaseStrategy()  # type: ignore[abstract]  # that is the point


def test_settings_are_those_given_or_the_defaults() -> None:
    """A strategy without settings of its own refuses any."""

    class Settings(BaseModel):
        model_config = ConfigDict(frozen=True)
        weight: int = 3

    class Weighted(Last):
        config_model = Settings

    assert Weighted().config == Settings()
    assert Weighted(Settings(weight=7)).config.weight == 7
    with pytest.raises(ValidationError):
        Last.config_model.model_validate({"weight": 7})


class StoppedClock:
    """A clock that stands still."""

    def monotonic(self) -> float:
        return 0.0

    def time(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("a strategy does not wait")


def test_a_strategy_knows_its_context_and_its_pool() -> None:
    """The order of members is kept as it was, whatever happens to the list afterwards."""
    strategy = Last()
    context = ConnectorContext("chat", StoppedClock(), random.Random(0))
    order = ["a", "b"]

    strategy.bind(context)
    strategy.pool_changed(order)
    order.clear()

    assert strategy.context is context
    assert strategy.pool_order == ("a", "b")


def test_select_commits_and_peek_does_not() -> None:
    """Both give the same answer."""
    strategy = Last()

    seen = [strategy.peek(models("abc"), REQUEST) for _ in range(3)]

    assert strategy.commits == 0
    assert seen == [strategy.select(models("abc"), REQUEST)] * 3
    assert strategy.commits == 1


def test_a_result_names_the_choice_its_score_and_the_reason() -> None:
    """By default the score is what the error rate leaves."""
    result = Last().select(models("ab", b=0.25), REQUEST)

    assert result == SelectionResult("b", "provider-b", 0.75, "the last")


def test_a_choice_is_rated_before_it_is_committed() -> None:
    """The score is the one that decided, not the one that the choice brought about."""
    assert InTurn().select(models("ab"), REQUEST).score == 0.0


def test_a_wait_is_part_of_the_result() -> None:
    """Asked before the commit; none by default."""

    class Slow(Last):
        def wait(self, chosen: Candidate, request: SelectionRequest) -> float:
            return 2.0 - self.commits

    strategy = Slow()

    assert Last().select(models("a"), REQUEST).wait_seconds == 0.0
    assert [strategy.peek(models("a"), REQUEST).wait_seconds, strategy.select(models("a"), REQUEST).wait_seconds] == [
        2,
        2,
    ]


def test_the_others_are_ranked_by_score_then_by_pool_order() -> None:
    """The selected one is not among them."""
    strategy = Last()
    candidates = models("abcde", a=0.5, b=0.1, d=0.5, c=0.1)

    assert ids(strategy.rank(candidates, REQUEST, strategy.select(candidates, REQUEST))) == "bcad"


@pytest.mark.parametrize(
    ("present", "selected", "ranked"),
    [
        ("abcd", "a", "bcd"),
        ("abcd", "c", "dab"),
        ("abcd", "d", "abc"),
        ("bd", "c", "db"),
        ("c", "c", ""),
        ("ad", "a", "d"),
    ],
)
def test_a_sequential_strategy_ranks_from_behind_the_selected(present: str, selected: str, ranked: str) -> None:
    """Circularly, in pool order, also from the place of a member that stands by."""
    strategy = InTurn()
    strategy.pool_changed("abcd")

    assert ids(strategy.rank(models(present), REQUEST, SelectionResult(selected, "", 0.0))) == ranked


def test_a_sequential_strategy_goes_round_and_skips_who_stands_by() -> None:
    """A member that rests keeps its place and loses no turn of the others."""
    strategy = InTurn()
    strategy.pool_changed("abc")

    turns = [strategy.select(models(present), REQUEST).model_id for present in ("abc", "abc", "ab", "abc", "ac", "abc")]

    assert turns == ["a", "b", "a", "b", "c", "a"]


def test_the_engines_own_sequence_is_used_as_it_is() -> None:
    """It answers by ID and place already; only plain lists are wrapped."""
    strategy = InTurn()
    placed = strategy.in_order(models("abc"))

    assert isinstance(placed, CandidateSequence)
    assert strategy.in_order(placed) is placed  # type: ignore[arg-type]  # a sequence in all that matters


def test_a_plain_list_answers_by_id_and_by_place() -> None:
    """IDs of members that are no candidates keep their place; unknown ones stand before all."""
    strategy = InTurn()
    strategy.pool_changed("abcd")
    candidates = models("abd")
    placed = strategy.in_order(candidates)

    assert len(placed) == 3
    assert placed[1] is candidates[1]
    assert placed.get("d") is candidates[2]
    assert placed.get("c") is None
    assert [placed.at_or_after(name).model_id for name in "abcd?"] == ["a", "b", "d", "d", "a"]
    assert [placed.following(name).model_id for name in "abcd?"] == ["b", "d", "d", "a", "a"]
    assert ids(placed.without({"a", "x"})) == "bd"
    assert ids(placed.of_provider("provider-b")) == "b"


@given(st.permutations("abcdef"), st.sets(st.sampled_from("abcdef"), min_size=1), st.sampled_from("abcdef"))
def test_nobody_is_lost_or_named_twice(order: list[str], present: set[str], selected: str) -> None:
    """Selected and ranked together are the candidates, whether or not the pool's order names them."""
    candidates = models("".join(name for name in order if name in present))
    for known in (order, order[:2], []):
        strategy = InTurn()
        strategy.pool_changed(known)

        ranked = ids(strategy.rank(candidates, REQUEST, SelectionResult(selected, "", 0.0)))

        assert sorted(ranked) == sorted(present - {selected})


def test_candidates_that_the_order_does_not_name_stand_last() -> None:
    """A stage of somebody's own may bring them in."""
    strategy = InTurn()
    strategy.pool_changed("ab")

    assert ids(strategy.rank(models("abxy"), REQUEST, SelectionResult("x", "", 0.0))) == "yab"
