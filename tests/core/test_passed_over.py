"""Who of a saved state is told not to be in a mesh."""

from __future__ import annotations

import pytest

from modelmesh.passed_over import PassedOver
from modelmesh.state import ModelState, ProviderState
from modelmesh.state_manager import PersistedPoolState, SystemState


def state(models: str, providers: str = "", pools: str = "") -> SystemState:
    """A state with these names, a letter each."""
    return SystemState(
        {name: ModelState() for name in models},
        {name: ProviderState() for name in providers},
        {name: PersistedPoolState() for name in pools},
    )


def test_each_kind_is_compared_with_its_own() -> None:
    """A model is not there because a pool has its name."""
    passed = PassedOver.of(state("ab", "pq", "x"), models=["a", "x"], providers=["p"], pools=["b"])

    assert (passed.models, passed.providers, passed.pools) == (("b",), ("q",), ("x",))
    assert str(passed) == "model 'b'; provider 'q'; pool 'x'"


def test_a_state_of_this_mesh_passes_nobody_over() -> None:
    """However much more the mesh has."""
    assert not PassedOver.of(state("a", "p", "x"), models="ab", providers="pq", pools="xy")


@pytest.mark.parametrize(
    ("models", "providers", "is_all"),
    [("z", "z", True), ("a", "z", False), ("z", "p", False)],
    ids=["none", "a model", "a provider"],
)
def test_a_pool_of_the_same_name_alone_makes_no_state_of_this_mesh(models: str, providers: str, is_all: bool) -> None:
    """What is kept of a pool are its models; and many a mesh has a pool of that name."""
    assert PassedOver.of(state("a", "p", "x"), models, providers, "x").is_all is is_all


def test_names_are_told_in_a_line_of_bounded_length() -> None:
    """Whoever wrote the file chose them, and how many there are."""
    names = ["a\nb", "c" * 1_000, *(f"model-{number}" for number in range(1_000))]
    said = str(PassedOver.of(SystemState({name: ModelState() for name in names}), [], [], []))

    assert said.startswith(r"models 'a\nb', 'cccc")
    assert said.endswith("…', 'model-0', 'model-1', 'model-2' and 997 more")
    assert len(said) < 200
