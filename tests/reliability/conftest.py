"""Scale and figures of the reliability goals: what continuous integration runs, and what is run before a release.

``--reliability long`` runs everything at the scale of a release; ``--reliability-figures FILE`` keeps what was measured
as JSON. ``tests/benchmarks/reliability.py`` does both and writes ``docs/results/sockets.md``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options; pytest knows them when it is given this folder."""
    group = parser.getgroup("reliability")
    group.addoption("--reliability", choices=["ci", "long"], default="ci", help="Scale of the reliability goals.")
    group.addoption("--reliability-figures", type=Path, metavar="FILE", help="Write what was measured there, as JSON.")


@dataclass
class Figures:
    """What the tests measured.

    Attributes:
        is_long: Whether to run at the scale of a release.
        rows: Goal, what was measured, figure; in the order of the tests.
    """

    is_long: bool
    rows: list[tuple[str, str, str]] = field(default_factory=list)

    def scale(self, ci: int, long: int) -> int:
        """Return how much of something to do."""
        return long if self.is_long else ci

    def add(self, goal: str, what: str, figure: str) -> None:
        """Keep a figure."""
        self.rows.append((goal, what, figure))


@pytest.fixture(scope="session")
def figures(request: pytest.FixtureRequest) -> Iterator[Figures]:
    """Scale and figures of this run."""
    kept = Figures(request.config.getoption("--reliability", "ci") == "long")
    yield kept
    file: Path | None = request.config.getoption("--reliability-figures", None)
    if file is not None:
        file.write_text(json.dumps(kept.rows, indent=1), encoding="utf-8")
