"""Killed processes leave books that say what they were told (reliability goal R2)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "kill_loop.py"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the workers are forked")
@pytest.mark.parametrize("store", ["sqlite", "file"])
def test_nothing_is_lost_or_given_away_by_killed_processes(store: str) -> None:
    """Twenty rounds; two hundred by ``python tests/benchmarks/kill_loop.py --rounds 200``."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--rounds", "20", "--store", store],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "20 rounds" in done.stdout
