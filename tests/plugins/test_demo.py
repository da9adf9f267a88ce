"""The demo: failing providers are rotated away while every request is answered."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from modelmesh.interfaces.provider import AttemptRecord
from modelmesh_plugins.commands.demo import command
from modelmesh_plugins.demo.providers import FREE_REQUESTS, expected
from modelmesh_plugins.demo.report import failures, verdict
from modelmesh_plugins.demo.run import Outcome


@pytest.fixture(scope="module")
def shown() -> str:
    """What ``modelmesh demo --plain`` prints."""
    result = CliRunner().invoke(command, ["--plain", "--requests", "150"], standalone_mode=False)
    assert result.exception is None
    assert result.return_value == 0
    return result.output


def test_every_answer_is_whole_although_two_providers_fail(shown: str) -> None:
    """The verdict counts whole answers, and the table of failures is not empty."""
    assert "150 of 150 answers whole" in shown
    assert "429 quota used up" in shown
    assert "stream was cut" in shown


def test_the_free_quota_is_used_up_before_others_are_asked(shown: str) -> None:
    """The provider that costs nothing answers as often as its quota allows."""
    (row,) = [line for line in shown.splitlines() if line.strip().startswith("free-small ")]

    assert row.split()[1] == str(FREE_REQUESTS)


def test_the_configuration_is_shown_as_it_is_loaded(shown: str) -> None:
    """Brackets and all: what is printed can be copied into a file."""
    assert "    capabilities: [chat-completion]" in shown
    assert "    strategy: modelmesh.priority-selection.v1" in shown


def test_the_configuration_can_be_kept(tmp_path: Path) -> None:
    """With ``--save`` it stands in a file afterwards."""
    file = tmp_path / "mine.yaml"

    CliRunner().invoke(command, ["--plain", "--requests", "1", "--save", str(file)], standalone_mode=False)

    assert "on_stream_failure: hold" in file.read_text()


@pytest.mark.parametrize(
    ("text", "error", "whole"),
    [
        (expected(7), None, True),
        (expected(7)[:-1], None, False),
        (expected(7) * 2, None, False),
        (expected(7), "broken at the end", False),
    ],
    ids=["every word", "a letter short", "twice", "with an error"],
)
def test_an_answer_counts_only_when_it_is_whole(text: str, error: str | None, whole: bool) -> None:
    """Cut, doubled and failed answers are no answers."""
    assert Outcome(7, streamed=True, text=text, error=error).is_whole is whole


def test_a_failure_that_nobody_absorbed_is_said_to_be_one() -> None:
    """The last attempt of a request that failed reached the caller."""
    lost = AttemptRecord("m", "p", "server_error", "no", 500)
    output = io.StringIO()

    outcome = Outcome(1, streamed=False, attempts=[lost], error="all failed")
    Console(file=output, width=120).print(failures([outcome]), verdict([outcome]))

    assert "nobody: the caller got an error" in output.getvalue()
    assert "0 of 1 answers whole" in output.getvalue()
    assert "request 1: all failed" in output.getvalue()
