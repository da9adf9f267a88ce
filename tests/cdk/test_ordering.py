"""OrderedStrategy: an order that is kept until a figure moves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmesh._engine.candidates import Candidates
from modelmesh._engine.changes import Changes
from modelmesh.interfaces.strategy import Candidate, ModelSnapshot, SelectionRequest, SelectionResult
from modelmesh_cdk.figures import NEVER
from modelmesh_cdk.ordering import Order, OrderedStrategy, Ranked
from modelmesh_cdk.testing import FakeClock
from modelmesh_cdk.testing.clock import context

REQUEST = SelectionRequest()


class FewestErrors(OrderedStrategy[Any, float]):
    """Sorts by error rate, and counts what it reads and how often it sorts."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: Counter[str] = Counter()
        self.sorts = 0
        self.stale = NEVER

    def read(self, candidate: Candidate) -> float:
        self.reads[candidate.model_id] += 1
        return candidate.error_rate

    def arrange(self, figures: Mapping[str, float]) -> Order:
        self.sorts += 1
        return super().arrange(figures)

    def stale_at(self) -> float:
        return self.stale


class Quick(OrderedStrategy[Any, float]):
    """Sorts by error rate, as authors write it."""

    def read(self, candidate: Candidate) -> float:
        return candidate.error_rate


class Pool:
    """Candidates as the engine hands them, of models named by letters."""

    def __init__(self, **error_rates: float) -> None:
        self.changes = Changes()
        self.members = [ModelSnapshot(name, f"p{name}", error_rate=rate) for name, rate in error_rates.items()]
        self.candidates = Candidates(self.members, self.members, self.changes)
        self.clock = FakeClock()
        self.use(FewestErrors())

    def use(self, strategy: Any) -> None:
        """Choose by this strategy."""
        self.strategy = strategy
        self.strategy.bind(context(clock=self.clock))
        self.strategy.pool_changed([each.model_id for each in self.members])

    def fail(self, name: str, rate: float, *, told: bool = True) -> None:
        """Give a member another error rate."""
        next(each for each in self.members if each.model_id == name).error_rate = rate
        if told:
            self.changes.note_model(name)

    def order(self) -> str:
        """Choose and rank, as letters."""
        chosen = self.strategy.select(self.candidates, REQUEST)
        return "".join([chosen.model_id, *(each.model_id for each in self._ranked(chosen))])

    def _ranked(self, chosen: SelectionResult) -> list[Candidate]:
        return list(self.strategy.rank(self.candidates, REQUEST, chosen))


def test_the_smallest_figure_comes_first_and_equals_in_pool_order() -> None:
    """The order is that of choosing and of ranking."""
    assert Pool(a=0.3, b=0.1, c=0.3, d=0.0).order() == "dbac"


def test_nothing_is_read_again_while_nothing_moves() -> None:
    """A choice in a large pool is a look-up."""
    pool = Pool(a=0.3, b=0.1)

    orders = {pool.order() for _ in range(5)}

    assert (orders, pool.strategy.reads, pool.strategy.sorts) == ({"ba"}, Counter(a=1, b=1), 1)


def test_only_who_moved_is_read_again() -> None:
    """And a move that changes no figure sorts nothing."""
    pool = Pool(a=0.3, b=0.1, c=0.2)
    pool.order()
    pool.fail("b", 0.5)
    moved = pool.order()
    pool.fail("a", 0.3)
    pool.order()

    assert (moved, pool.strategy.reads, pool.strategy.sorts) == ("cab", Counter(a=2, b=2, c=1), 2)


def test_everybody_is_read_again_after_too_many_moves() -> None:
    """More than the engine remembers by name."""
    pool = Pool(a=0.3, b=0.1)
    pool.order()
    pool.fail("a", 0.0)
    for _ in range(1_000):
        pool.changes.note_model("elsewhere")

    assert pool.order() == "ab"


def test_everybody_is_read_again_when_time_has_made_figures_stale() -> None:
    """At the moment the strategy named when it last read."""
    pool = Pool(a=0.3, b=0.1)
    pool.strategy.stale = pool.clock.monotonic() + 5.0
    pool.order()
    pool.fail("a", 0.0, told=False)
    before = pool.order()
    pool.clock.advance(5)

    assert (before, pool.order()) == ("ba", "ab")


def test_several_selections_of_one_pool_are_kept_apart() -> None:
    """Streams and whole answers, say, have other candidates; what left the pool is forgotten."""
    pool = Pool(a=0.3, b=0.1, c=0.2)
    some = Candidates(pool.members, pool.members[::2], pool.changes)
    chosen = [pool.strategy.select(each, REQUEST).model_id for each in (pool.candidates, some) * 3]
    reads = pool.strategy.reads.total()
    pool.strategy.pool_changed("ab")
    pool.strategy.select(some, REQUEST)

    assert (chosen, reads, pool.strategy.reads.total()) == (["b", "c"] * 3, 5, 7)


def test_only_a_few_selections_are_kept() -> None:
    """A pool whose members come and go does not gather old ones."""
    pool = Pool(a=0.3, b=0.1)
    for _ in range(50):
        pool.strategy.select(Candidates(pool.members, pool.members, pool.changes), REQUEST)

    assert len(pool.strategy._boards) < 10


def test_a_ranking_names_its_models_without_looking_them_up() -> None:
    """In order, by index and by slice."""
    members = {name: ModelSnapshot(name, "p") for name in "abc"}
    ranked = Ranked(["c", "a", "b"], members.__getitem__)

    assert (ranked.ids(), len(ranked), ranked[1].model_id) == (["c", "a", "b"], 3, "a")
    assert [each.model_id for each in ranked[1:]] == ["a", "b"]
    assert ranked[0] in ranked


def test_the_selected_need_not_be_among_the_candidates() -> None:
    """A fallback strategy may have chosen somebody else: then all of them are the others."""
    pool = Pool(a=0.3, b=0.1)

    ranked = pool.strategy.rank(pool.candidates, REQUEST, SelectionResult("x", "px", 0.0))

    assert [each.model_id for each in ranked] == ["b", "a"]


RATES = st.sampled_from([0.0, 0.1, 0.2, 0.3])


@pytest.mark.parametrize("kind", [FewestErrors, Quick], ids=["sorted", "moved"])
@given(
    st.lists(RATES, min_size=6, max_size=6),
    st.lists(st.one_of(st.tuples(st.sampled_from("abcdef"), RATES), st.none()), max_size=30),
)
def test_what_is_kept_is_what_would_be_made_anew(
    kind: type[Any], rates: list[float], story: list[tuple[str, float] | None]
) -> None:
    """After any moves, looked at in between (None) or not."""
    pool = Pool(**dict(zip("abcdef", rates, strict=True)))
    pool.use(kind())
    for move in story:
        if move is None:
            pool.order()
        else:
            pool.fail(*move)

    fresh = Pool(**{each.model_id: each.error_rate for each in pool.members})
    assert pool.order() == fresh.order()
