"""ConsoleObservability: what a person reads."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from modelmesh.interfaces.observability import (
    AggregateStats,
    EventType,
    RequestLogEntry,
    RoutingEvent,
    Severity,
    TraceEntry,
)
from modelmesh.redaction import REDACTED
from modelmesh_cdk.console import ConsoleConfig, ConsoleObservability

NOON = datetime(2026, 11, 21, 12, 0, 0, 250_000, tzinfo=UTC)
KEY = "sk-canary-0123456789abcdefghijklmnop"
STATS = AggregateStats(10, 9, 1, 300, 400, 0.5, 1000.0, 900.0, 2500.0, 3000.0, 0.1, 2, NOON)


class Screen(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def console(output: io.StringIO | None = None, **settings: Any) -> tuple[ConsoleObservability, io.StringIO]:
    """Return a console without times, unless asked for, and what it writes to."""
    output = output or io.StringIO()
    config = ConsoleConfig.model_validate({"show_timestamp": False, **settings})
    return ConsoleObservability(config, output=output), output


def event(**metadata: Any) -> RoutingEvent:
    """Return an event of the chat pool."""
    return RoutingEvent(EventType.MODEL_DEACTIVATED, NOON, "gpt", "openai", "chat", metadata)


def entry(**fields: Any) -> RequestLogEntry:
    """Return the record of one attempt."""
    facts: dict[str, Any] = {"status_code": 200, **fields}
    return RequestLogEntry(NOON, "gpt", "openai", "chat-completion", "sync", 12.34, tokens_in=3, tokens_out=4, **facts)


def trace(message: str = "hello", severity: Severity = Severity.INFO, **fields: Any) -> TraceEntry:
    """Return a trace of the router."""
    return TraceEntry(severity, NOON, "router", message, **fields)


def test_an_event_tells_what_happened_to_whom_and_why() -> None:
    """Of the metadata only the reasons, unless more is asked for."""
    shown, output = console()
    shown.emit(event(reason="rate_limit", cooldown=30.0, cause=None, failure_count=3))

    assert output.getvalue() == (
        "[ModelMesh] model_deactivated model=gpt provider=openai pool=chat reason=rate_limit cooldown=30.0\n"
    )


def test_a_verbose_event_tells_all_it_knows() -> None:
    """Also what is no reason."""
    shown, output = console(verbose=True)
    shown.emit(event(failure_count=3))

    assert output.getvalue().endswith("pool=chat failure_count=3\n")


def test_an_event_without_a_model_names_none() -> None:
    """Only what is known is shown."""
    shown, output = console()
    shown.emit(RoutingEvent(EventType.PROVIDER_RECOVERED, NOON, provider_id="openai"))

    assert output.getvalue() == "[ModelMesh] provider_recovered provider=openai\n"


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({}, "gpt [openai] 200 12.3 ms 3+4 tokens"),
        ({"cost": 0.000125}, "gpt [openai] 200 12.3 ms 3+4 tokens $0.000125"),
        ({"cost": 0.0}, "gpt [openai] 200 12.3 ms 3+4 tokens $0.000000"),
        ({"status_code": 504, "error": "no answer"}, "gpt [openai] 504 12.3 ms 3+4 tokens no answer"),
        ({"request_payload": "my diary", "response_payload": "dear diary"}, "gpt [openai] 200 12.3 ms 3+4 tokens"),
    ],
    ids=["plain", "cost", "free", "error", "payload"],
)
def test_a_request_is_its_figures_in_a_line(fields: dict[str, Any], line: str) -> None:
    """Cost and error where there are any; never what was said."""
    shown, output = console(log_level="full")
    shown.log(entry(**fields))

    assert output.getvalue() == f"[ModelMesh] request {line}\n"


def test_statistics_are_a_line_a_scope() -> None:
    """Rates in percent, latencies in milliseconds."""
    shown, output = console()
    shown.flush({"gpt": STATS, "chat": STATS})

    figures = "10 requests, 10.0% failed, p95 2500.0 ms, 300+400 tokens, $0.5000"
    assert output.getvalue() == f"[ModelMesh] stats gpt: {figures}\n[ModelMesh] stats chat: {figures}\n"


@pytest.mark.parametrize(
    ("severity", "verbose", "line"),
    [
        (Severity.INFO, False, "info router: hello (it broke)"),
        (Severity.INFO, True, "info router: hello (it broke) attempt=2"),
        (Severity.DEBUG, False, "debug router: hello (it broke) attempt=2"),
    ],
    ids=["plain", "verbose", "debug"],
)
def test_a_trace_tells_who_speaks_and_what_broke(severity: Severity, verbose: bool, line: str) -> None:
    """Metadata where somebody looks for trouble."""
    shown, output = console(verbose=verbose)
    shown.trace(trace(severity=severity, error="it broke", metadata={"attempt": 2}))

    assert output.getvalue() == f"[ModelMesh] {line}\n"


def test_the_filters_of_every_connector_hold() -> None:
    """Severity, events and scopes."""
    shown, output = console(min_severity="error", event_filter=["rotation"], scopes=["pool"])
    shown.trace(trace(severity=Severity.WARNING))
    shown.emit(event())
    shown.flush({"model:gpt": STATS})

    assert output.getvalue() == ""


@pytest.mark.parametrize(
    ("pattern", "time"),
    [("ISO8601", "2026-11-21T12:00:00.250+00:00"), ("UNIX", "1795262400.250"), ("%H:%M", "12:00")],
)
def test_the_time_is_written_as_asked(pattern: str, time: str) -> None:
    """It begins the line."""
    shown, output = console(show_timestamp=True, timestamp_format=pattern)
    shown.trace(trace())

    assert output.getvalue() == f"{time} [ModelMesh] info router: hello\n"


def test_the_prefix_may_be_another_or_none() -> None:
    """Without one, no blank stands in its place."""
    for prefix, line in (("mesh>", "mesh> info router: hello\n"), ("", "info router: hello\n")):
        shown, output = console(prefix=prefix)
        shown.trace(trace())
        assert output.getvalue() == line


@pytest.mark.parametrize(
    ("settings", "no_color", "is_terminal", "coloured"),
    [
        ({}, "", True, True),
        ({}, "", False, False),
        ({}, "1", True, False),
        ({"use_color": True}, "1", False, True),
        ({"use_color": False}, "", True, False),
        ({"colorize": True}, "", False, True),
    ],
    ids=["terminal", "file", "NO_COLOR", "asked for", "refused", "other spelling"],
)
def test_colour_is_for_terminals_unless_somebody_says_otherwise(
    settings: dict[str, Any], no_color: str, is_terminal: bool, coloured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The settings come first, then NO_COLOR (https://no-color.org), then the stream."""
    monkeypatch.setenv("NO_COLOR", no_color)
    shown, output = console(Screen() if is_terminal else None, **settings)

    shown.trace(trace(severity=Severity.ERROR))

    label = "\x1b[31merror\x1b[0m" if coloured else "error"
    assert output.getvalue() == f"[ModelMesh] {label} router: hello\n"


@pytest.mark.parametrize(("error", "colour"), [(None, "32"), ("it broke", "31")], ids=["success", "failure"])
def test_failed_requests_stand_out(error: str | None, colour: str) -> None:
    """In the colour of errors."""
    shown, output = console(use_color=True)
    shown.log(entry(error=error))

    assert f"\x1b[{colour}mrequest\x1b[0m" in output.getvalue()


def test_every_severity_has_a_colour() -> None:
    """None of them may fail for want of one."""
    shown, output = console(use_color=True)
    for severity in Severity:
        shown.trace(trace(severity=severity))

    assert output.getvalue().count("\n") == len(Severity)


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_lines_go_to_the_stream_of_the_settings(stream: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The one that is there when the connector is made."""
    shown = ConsoleObservability(ConsoleConfig.model_validate({"stream": stream, "show_timestamp": False}))

    shown.trace(trace())

    assert getattr(capsys.readouterr(), stream.removeprefix("std")) == "[ModelMesh] info router: hello\n"


def test_lines_are_written_at_once() -> None:
    """The last ones before a crash are those that matter."""
    file = io.BytesIO()
    shown = ConsoleObservability(ConsoleConfig(show_timestamp=False), output=io.TextIOWrapper(file, "utf-8"))

    shown.trace(trace())

    assert file.getvalue().rstrip() == b"[ModelMesh] info router: hello"


def test_lines_go_to_stderr_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    """Standard output is the application's."""
    ConsoleObservability().trace(trace())

    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.endswith("info router: hello\n")


@pytest.mark.parametrize(
    "foreign", ["a\nb", "a\r\nb", "a\x1b[2Jb", "a\x9b2Jb", "a\x08b", "a\x85b", "a\u2028b"], ids=ascii
)
def test_what_a_provider_says_moves_nothing_on_the_screen(foreign: str) -> None:
    """A record is one line, and its text is only text."""
    shown, output = console(verbose=True)
    shown.trace(trace(foreign, error=foreign, metadata={foreign: foreign}))
    shown.emit(event(reason=foreign))

    lines = output.getvalue().splitlines()
    assert len(lines) == 2
    assert all(line.isprintable() for line in lines)


FOREIGN = {"token": "canary-token", "headers": {"cookie": "a=canary b"}, "password": "canary with blanks"}


@pytest.mark.parametrize("colour", [False, True], ids=["plain", "coloured"])
def test_no_secret_is_shown(colour: bool) -> None:
    """Wherever it stands, by its shape or by its name."""
    shown, output = console(verbose=True, use_color=colour)
    shown.emit(event(reason=f"Bearer {KEY}", **FOREIGN))
    shown.log(entry(error=f"GET https://x/?key={KEY}", request_payload=json.dumps({"api_key": KEY})))
    shown.flush({KEY: STATS})
    shown.trace(trace(f"api_key={KEY}", error=KEY, metadata=FOREIGN))

    assert "canary" not in output.getvalue()
    assert output.getvalue().count(REDACTED) >= 8


def test_redaction_can_be_switched_off() -> None:
    """By whoever looks for a wrong key on their own machine."""
    shown, output = console(verbose=True, redact_secrets=False)
    shown.trace(trace(KEY, metadata={"token": "canary-token"}))

    assert output.getvalue() == f"[ModelMesh] info router: {KEY} token=canary-token\n"


@pytest.mark.parametrize(
    "settings", [{"stream": "file"}, {"colour": True}, {"use_color": "sometimes"}], ids=["stream", "unknown", "type"]
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any]) -> None:
    """With the name of the key."""
    with pytest.raises(ValidationError, match=next(iter(settings))):
        ConsoleConfig.model_validate(settings)
