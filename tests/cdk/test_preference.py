"""Preferences by lists of models and of providers."""

from __future__ import annotations

import pytest

from modelmesh._engine.candidates import Candidates
from modelmesh.interfaces.strategy import CandidateSequence, ModelSnapshot
from modelmesh_cdk.preference import Preferences
from modelmesh_cdk.strategy import _Placed

MEMBERS = [ModelSnapshot(name, f"p{number % 2}") for number, name in enumerate("abcdef")]
"""Providers p0 (a, c, e) and p1 (b, d, f)."""


def placed(names: str, *, listed: bool) -> CandidateSequence:
    """Return the members of these letters, as the engine does or as a plain list."""
    chosen = [each for each in MEMBERS if each.model_id in names]
    return _Placed(chosen, "abcdef") if listed else Candidates(MEMBERS, chosen)  # type: ignore[return-value]  # alike


@pytest.mark.parametrize("listed", [True, False], ids=["list", "engine"])
@pytest.mark.parametrize(
    ("models", "providers", "names", "first", "ranked"),
    [
        ("da", ("p1",), "abcdef", ("d", "model_priority"), "abfce"),
        ("da", ("p1",), "abc", ("a", "model_priority"), "bc"),
        ("d", ("p1",), "abcf", ("b", "provider_priority"), "fac"),
        ("d", ("p9",), "abc", None, None),
        ("", (), "abc", None, None),
        ("x", ("p1", "p0"), "ace", ("a", "provider_priority"), "ce"),
    ],
)
def test_models_come_before_providers_and_they_before_the_rest(
    listed: bool, models: str, providers: tuple[str, ...], names: str, first: tuple[str, str] | None, ranked: str | None
) -> None:
    """Each candidate once, in the order of the lists and then of the pool."""
    preferences, candidates = Preferences(models, providers), placed(names, listed=listed)
    found = preferences.first(candidates)

    assert (found and (found[0].model_id, found[1])) == first
    if found is not None:
        assert "".join(each.model_id for each in preferences.ranked(candidates, found[0].model_id)) == ranked


def test_scores_tell_the_lists_apart() -> None:
    """1000 and more for models, 500 and more for providers, at most 1 for the rest."""
    preferences = Preferences("da", ("p1",))
    other = ModelSnapshot("x", "p9", error_rate=0.25)

    assert [preferences.score(each) for each in (MEMBERS[3], MEMBERS[0], MEMBERS[1], other)] == [1002, 1001, 501, 0.75]


def test_no_lists_are_no_preference() -> None:
    """Strategies ask before they sort."""
    assert not Preferences((), ())
    assert Preferences(("a",), ())
