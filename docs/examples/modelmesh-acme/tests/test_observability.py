"""The observability connector: records as lines of a file."""

from __future__ import annotations

import json
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from modelmesh_acme.observability import AcmeJsonLines, AcmeJsonLinesConfig

from modelmesh.interfaces.observability import EventType, RoutingEvent, Severity, TraceEntry

NOON = datetime(2025, 1, 2, 12, tzinfo=UTC)


def connector(path: Path) -> AcmeJsonLines:
    """Return a connector that writes to a file."""
    return AcmeJsonLines(AcmeJsonLinesConfig(path=path))


def test_each_record_is_one_line_of_json(tmp_path: Path) -> None:
    """Lines can be read while the connector is still open, and say what they are."""
    file = tmp_path / "logs" / "events.jsonl"

    with closing(connector(file)) as acme:
        acme.emit(RoutingEvent(EventType.MODEL_ROTATED, NOON, model_id="a", metadata={"text": "two\nlines"}))
        acme.trace(TraceEntry(Severity.INFO, NOON, "router", "ready"))
        first, second = map(json.loads, file.read_text().splitlines())

    assert (first["type"], first["event_type"], first["model_id"]) == ("event", "model_rotated", "a")
    assert (second["type"], second["message"]) == ("trace", "ready")


def test_lines_are_added_to_what_is_there(tmp_path: Path) -> None:
    """A second run goes on where the first ended."""
    for _ in range(2):
        with closing(connector(tmp_path / "events.jsonl")) as acme:
            acme.trace(TraceEntry(Severity.INFO, NOON, "router", "ready"))

    assert len((tmp_path / "events.jsonl").read_text().splitlines()) == 2


def test_without_a_record_there_is_no_file(tmp_path: Path) -> None:
    """Building and closing the connector leaves nothing behind."""
    connector(tmp_path / "events.jsonl").close()

    assert list(tmp_path.iterdir()) == []


def test_a_credential_is_not_written(tmp_path: Path) -> None:
    """Redaction is the base class's, and on by default."""
    with closing(connector(tmp_path / "events.jsonl")) as acme:
        acme.trace(TraceEntry(Severity.INFO, NOON, "router", "Bearer canary-4711-abcdef"))

    assert "canary-4711" not in (tmp_path / "events.jsonl").read_text()
