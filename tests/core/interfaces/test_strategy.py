"""What strategies are handed: the engine's candidates, and snapshots in their place."""

from __future__ import annotations

from dataclasses import fields

import pytest

from modelmesh._engine.candidates import Candidates
from modelmesh._engine.member import Member
from modelmesh.interfaces.strategy import (
    Candidate,
    CandidateSequence,
    DeactivationReason,
    ModelSnapshot,
    ModelStatus,
    RecoveryTrigger,
    SelectionRequest,
    SelectionResult,
    TrackedCandidates,
)

FIGURES = sorted(name for name in vars(Candidate) if not name.startswith("_"))


def test_a_snapshot_has_every_figure_of_a_candidate_and_no_more() -> None:
    """Tests and records stand in for the live view."""
    assert sorted(each.name for each in fields(ModelSnapshot)) == FIGURES


@pytest.mark.parametrize("figure", FIGURES)
def test_a_pools_member_has_every_figure(figure: str) -> None:
    """The live view keeps the contract."""
    assert hasattr(Member, figure)


def test_two_facts_make_a_snapshot() -> None:
    """The rest is that of a model nobody has asked yet."""
    snapshot = ModelSnapshot("m", "p")

    assert (snapshot.status, snapshot.error_rate, snapshot.latency_avg, snapshot.pricing) == ("active", 0.0, None, None)


def test_the_engines_candidates_keep_the_contract() -> None:
    """Look-ups by ID and place, and what moved."""
    candidates = Candidates([ModelSnapshot("a", "p")], [ModelSnapshot("a", "p")])

    assert isinstance(candidates, CandidateSequence)
    assert all(hasattr(candidates, name) for name in vars(TrackedCandidates) if not name.startswith("_"))


def test_a_choice_asks_for_no_wait_unless_it_says_so() -> None:
    """Strategies written before there were waits build results as they always did."""
    assert SelectionResult("m", "p", 1.0, "first") == SelectionResult("m", "p", 1.0, "first", wait_seconds=0.0)


def test_a_request_is_by_default_a_plain_one() -> None:
    """Without session and metadata, answered whole."""
    request = SelectionRequest()

    assert (request.delivery_mode, request.session_id, request.metadata) == ("sync", None, {})


@pytest.mark.parametrize("kind", [ModelStatus, DeactivationReason, RecoveryTrigger])
def test_statuses_and_reasons_are_text(kind: type[ModelStatus | DeactivationReason | RecoveryTrigger]) -> None:
    """They go into logs and events as they are."""
    assert all(str(each) == each.value and each == each.value for each in kind)
