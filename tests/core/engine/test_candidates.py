"""Some members of a pool in pool order, with look-ups that do not scan."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from modelmesh._engine.candidates import Candidates
from modelmesh.interfaces.strategy import ModelSnapshot

ORDER = [ModelSnapshot(name, name.upper()) for name in "abcdef"]


def of(names: str) -> Candidates[ModelSnapshot]:
    """Candidates of these names out of six."""
    return Candidates(ORDER, [member for member in ORDER if member.model_id in names])


def ids(members: object) -> str:
    """IDs of members, joined."""
    return "".join(member.model_id for member in members)  # type: ignore[attr-defined]


subsets = st.text(alphabet="abcdef", min_size=1).map(lambda names: "".join(sorted(set(names))))
members = st.sampled_from("abcdef")


def test_it_is_a_sequence() -> None:
    """Length, position, slice, membership, iteration."""
    some = of("bdf")

    assert (len(some), some[1].model_id, ids(some[1:]), ids(some)) == (3, "d", "df", "bdf")
    assert ORDER[1] in some
    assert ORDER[0] not in some


def test_a_candidate_is_found_by_its_id() -> None:
    """Members that are no candidates are not."""
    some = of("bdf")

    assert some.get("d") is ORDER[3]
    assert some.get("c") is None


@given(subsets, members)
def test_at_or_after_goes_round(names: str, start: str) -> None:
    """The candidate itself, or the next behind its place, circularly."""
    expected = next((name for name in names if name >= start), names[0])

    assert of(names).at_or_after(start).model_id == expected


@given(subsets, members)
def test_following_goes_round_and_comes_to_the_member_last(names: str, start: str) -> None:
    """Strictly behind its place, circularly."""
    expected = next((name for name in names if name > start), names[0])

    assert of(names).following(start).model_id == expected


@given(subsets, members)
def test_after_gives_all_others_from_behind_its_place(names: str, start: str) -> None:
    """Each once, in circular order, with IDs and length to match."""
    after = of(names).after(start)
    expected = "".join(sorted((name for name in names if name != start), key=lambda name: (name < start, name)))

    assert (ids(after), "".join(after.ids()), len(after)) == (expected, expected, len(expected))


@given(subsets, st.sets(members))
def test_without_leaves_the_others_in_pool_order(names: str, gone: set[str]) -> None:
    """IDs that are no candidates do not matter."""
    without = of(names).without(gone)
    expected = "".join(name for name in names if name not in gone)

    assert (ids(without), "".join(without.ids()), len(without)) == (expected, expected, len(expected))


def test_unknown_ids_stand_before_the_first() -> None:
    """A pointer to a model that left the pool starts over."""
    some = of("bdf")

    assert (some.at_or_after("zz").model_id, some.following("zz").model_id, ids(some.after("zz"))) == ("b", "b", "bdf")


def test_a_ranking_may_be_led_by_others() -> None:
    """Preferred ones first, then the order as it was."""
    ranking = of("abcdef").without({"c", "e"}).led_by([ORDER[4], ORDER[2]])

    assert (ids(ranking), "".join(ranking.ids()), len(ranking)) == ("ecabdf", "ecabdf", 6)
    assert (ranking[0].model_id, ids(ranking[2:4])) == ("e", "ab")


def test_candidates_of_one_provider() -> None:
    """In pool order; none for a provider without any."""
    order = [ModelSnapshot("a", "x"), ModelSnapshot("b", "y"), ModelSnapshot("c", "x")]
    some = Candidates(order, order)

    assert (ids(some.of_provider("x")), ids(some.of_provider("nobody"))) == ("ac", "")
