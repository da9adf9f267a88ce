"""The page on simulating an outage is true: its files run, and print its table."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from modelmesh_plugins.commands.simulate import command

PAGE = Path(__file__).parent.parent.parent / "docs" / "how-to" / "simulate-an-outage.md"


def block(start: str) -> str:
    """Return the block of the page that begins so."""
    found = re.search(rf"^```(?:yaml|text)\n({re.escape(start)}.*?)^```$", PAGE.read_text("utf-8"), re.M | re.S)
    assert found is not None
    return found[1]


def test_the_page_shows_what_the_command_prints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the page's configuration and scenario, word for word."""
    monkeypatch.chdir(tmp_path)
    Path("modelmesh.yaml").write_text(block("# modelmesh.yaml"), encoding="utf-8")
    Path("scenario.yaml").write_text(block("# scenario.yaml"), encoding="utf-8")

    result = CliRunner().invoke(command, ["modelmesh.yaml", "--scenario", "scenario.yaml", "--svg", "outage.svg"])

    printed = [line.rstrip() for line in result.output.splitlines() if line.strip()]
    assert printed == [line.rstrip() for line in block("pool chat").splitlines() if line.strip()]
    assert Path("outage.svg").stat().st_size > 1_000
