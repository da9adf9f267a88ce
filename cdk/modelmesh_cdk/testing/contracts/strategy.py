"""The contract of selection strategies."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Sequence
from typing import ClassVar

from modelmesh.interfaces.runtime import ConnectorContext
from modelmesh.interfaces.strategy import (
    Candidate,
    CandidateSequence,
    ModelSnapshot,
    SelectionRequest,
    SelectionResult,
    SelectionStrategy,
)
from modelmesh_cdk.strategy import _Placed
from modelmesh_cdk.testing.clock import FakeClock, FakeRandom, context

ROUNDS = 40

Script = list[tuple[list[ModelSnapshot], SelectionRequest]]


class StrategyContract:
    """Inherit it and write `make`; the strategy must be built so that it may choose any member.

    Attributes:
        request: What candidates are chosen for.
    """

    request: ClassVar[SelectionRequest] = SelectionRequest("chat-completion")

    # --- what subclasses write ----------------------------------------------------------

    def make(self, context: ConnectorContext) -> SelectionStrategy:
        """Build a strategy; the contract binds it and tells it the pool."""
        raise NotImplementedError(f"{type(self).__name__} must say in make() how its strategy is built")

    def members(self) -> list[ModelSnapshot]:
        """Build the pool: by default six models of two providers with different figures."""
        return [
            ModelSnapshot(
                f"model-{number}",
                f"provider-{number % 2}",
                error_rate=number / 10.0,
                latency_history=(0.1 * number, 0.2),
                latency_avg=0.05 * number + 0.1,
                cost_accumulated=float(number),
                quota_used=number,
            )
            for number in range(6)
        ]

    # --- choosing -------------------------------------------------------------------------

    def test_it_is_a_strategy(self) -> None:
        """It has every method the pool calls."""
        assert isinstance(self.make(context()), SelectionStrategy)

    def test_it_chooses_among_the_candidates(self) -> None:
        """Whoever is active, the choice is one of them, with its own provider, a finite score and a reason."""
        strategy = self.built()

        for candidates, request in self._script():
            chosen = strategy.select(candidates, request)

            offered = {candidate.model_id: candidate.provider_id for candidate in candidates}
            assert chosen.model_id in offered, f"{chosen.model_id} is not among {sorted(offered)}"
            assert chosen.provider_id == offered[chosen.model_id]
            assert math.isfinite(chosen.score)
            assert isinstance(chosen.reason, str)

    def test_the_only_candidate_is_chosen(self) -> None:
        """When one model is left it is taken, whichever it is."""
        strategy = self.built()

        for candidate in self.members():
            assert strategy.select([candidate], self.request).model_id == candidate.model_id

    def test_the_same_story_has_the_same_choices(self) -> None:
        """Two fresh strategies with the same clock and the same seed choose alike: failures can be replayed."""
        assert self._choices(self.built()) == self._choices(self.built())

    def test_it_chooses_alike_from_lists_and_from_the_pools_own_sequence(self) -> None:
        """The look-ups the engine's candidates offer are a short cut, not another rule."""
        order = [member.model_id for member in self.members()]

        def as_sequence(candidates: list[ModelSnapshot]) -> Sequence[Candidate]:
            sequence = _Placed(candidates, order)
            assert isinstance(sequence, CandidateSequence)
            return sequence  # type: ignore[return-value]  # a sequence for all that strategies do with it

        strategy = self.built()
        chosen = [strategy.select(as_sequence(each), request).model_id for each, request in self._script()]

        assert chosen == [result.model_id for result in self._choices(self.built())]

    def test_two_strategies_do_not_share_their_memory(self) -> None:
        """A pool's choices do not depend on what another pool chose."""
        one, other = self.built(), self.built()
        chosen: list[SelectionResult] = []

        for candidates, request in self._script():
            chosen.append(one.select(candidates, request))
            for _ in range(3):
                other.select(list(reversed(candidates)), request)

        assert chosen == self._choices(self.built())

    def test_members_may_leave_and_join(self) -> None:
        """After the pool has changed, the model chosen last may be gone and new ones are there."""
        strategy = self.built()
        members = self.members()
        gone = strategy.select(members, self.request).model_id

        rest = [*(member for member in members if member.model_id != gone), ModelSnapshot("newcomer", "provider-9")]
        strategy.pool_changed([member.model_id for member in rest])

        for _ in range(ROUNDS):
            chosen = strategy.select(rest, self.request)
            assert chosen.model_id != gone
            assert chosen.model_id in {member.model_id for member in rest}

    # --- only looking -----------------------------------------------------------------------

    def test_looking_moves_nothing(self) -> None:
        """Peeking, rating and ranking between choices change none of them."""
        strategy = self.built()
        chosen: list[SelectionResult] = []

        for candidates, request in self._script():
            for _ in range(2):
                strategy.peek(candidates, request)
            for candidate in candidates:
                strategy.score(candidate, request)
            result = strategy.select(candidates, request)
            strategy.rank(candidates, request, result)
            chosen.append(result)

        assert chosen == self._choices(self.built())

    def test_peek_tells_what_select_does(self) -> None:
        """An explanation shows the choice that would be made."""
        strategy = self.built()

        for candidates, request in self._script():
            expected = strategy.peek(candidates, request)
            assert strategy.select(candidates, request).model_id == expected.model_id

    def test_candidates_are_left_as_they_were(self) -> None:
        """Candidates are read-only: neither they nor their order are changed."""
        strategy = self.built()
        candidates = self.members()
        before = copy.deepcopy(candidates)

        for _ in range(ROUNDS):
            strategy.peek(candidates, self.request)
            result = strategy.select(candidates, self.request)
            strategy.rank(candidates, self.request, result)
            strategy.score(candidates[-1], self.request)

        assert candidates == before

    # --- ranking ------------------------------------------------------------------------------

    def test_the_ranking_holds_other_candidates_once_each(self) -> None:
        """Who is tried next is a candidate, is not the one that failed, and is tried once."""
        strategy = self.built()

        for candidates, request in self._script():
            selected = strategy.select(candidates, request)
            ranked = [candidate.model_id for candidate in strategy.rank(candidates, request, selected)]

            assert selected.model_id not in ranked
            assert len(set(ranked)) == len(ranked), "a candidate stands twice in the ranking"
            assert set(ranked) <= {candidate.model_id for candidate in candidates}

    def test_the_ranking_leaves_nobody_out(self) -> None:
        """Every other candidate is tried before a request fails; override it where the strategy excludes some."""
        strategy = self.built()
        candidates = self.members()
        selected = strategy.select(candidates, self.request)

        ranked = strategy.rank(candidates, self.request, selected)

        assert len(ranked) == len(candidates) - 1

    def test_scores_are_finite_numbers(self) -> None:
        """A score is a number that can be compared, before the first choice and after."""
        strategy = self.built()

        for _ in range(3):
            for candidate in self.members():
                assert math.isfinite(strategy.score(candidate, self.request))
            strategy.select(self.members(), self.request)

    # --- inside -------------------------------------------------------------------------------

    def built(self) -> SelectionStrategy:
        """Return a fresh strategy, bound, that knows its pool."""
        about = context("pool", clock=FakeClock(), random=FakeRandom(seed=7))
        strategy = self.make(about)
        strategy.bind(about)
        strategy.pool_changed([member.model_id for member in self.members()])
        return strategy

    def _script(self) -> Script:
        """Return rounds of who is active, in pool order, and what is asked."""
        drawn = random.Random(11)  # noqa: S311 (the same story every time)
        script: Script = []
        for number in range(ROUNDS):
            members = self.members()
            active = [member for member in members if drawn.random() < 0.6] or [members[number % len(members)]]
            script.append((active, self.request))
        return script

    def _choices(self, strategy: SelectionStrategy) -> list[SelectionResult]:
        return [strategy.select(candidates, request) for candidates, request in self._script()]
