"""What the simulation has found: the least that each fault took, run again."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelmesh_cdk.testing.simulation import World, run_world

FOUND = sorted((Path(__file__).parent / "found").glob("*.json"))


@pytest.mark.parametrize("script", FOUND, ids=lambda script: script.stem)
def test_what_was_found_is_mended(script: Path) -> None:
    """The world that broke a promise, named by what went wrong in it, breaks none any more."""
    outcome = run_world(World.read(script.read_text(encoding="utf-8")))

    assert outcome.broken is None
