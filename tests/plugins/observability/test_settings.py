"""Every key of ``observability`` works end to end: from YAML, through a mesh, into a real file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from modelmesh import ModelMesh
from modelmesh.errors import ConfigurationError
from modelmesh.interfaces.observability import EventType, LogLevel, Severity
from modelmesh.plugins import PluginHost
from modelmesh.router import CompletionRequest
from modelmesh.statistics import StatsScope
from modelmesh_cdk.testing import FakeClock, wait_until

SECRET = "sk-canary-0123456789abcdefghijklmnop"
PROMPT = f"my key is {SECRET} " + "x" * 5_000
HAPPENS = {
    EventType.MODEL_ROTATED,
    EventType.MODEL_DEACTIVATED,
    EventType.PROVIDER_DEACTIVATED,
    EventType.PROVIDER_HEALTH_CHANGED,
}
GROUPS = {
    "rotation": {EventType.MODEL_ROTATED},
    "deactivation": {EventType.MODEL_DEACTIVATED, EventType.PROVIDER_DEACTIVATED},
    "recovery": set[EventType](),
    "health": {EventType.PROVIDER_HEALTH_CHANGED},
}

MESH = """\
providers:
  bad: {connector: simulator, failures: [{every: 1, error: auth}]}
  good: {connector: simulator}
models:
  first: {provider: bad, capabilities: [chat-completion]}
  second: {provider: good, capabilities: [chat-completion]}
pools:
  chat-completion: {}
"""

FILE = "connector: file, path: log.jsonl"


class Place:
    """A folder in which meshes run from YAML, and what they leave there."""

    def __init__(self, folder: Path, plugins: PluginHost) -> None:
        self.folder = folder
        self.plugins = plugins
        self.meshes: list[ModelMesh] = []

    def build(self, observability: str, clock: FakeClock | None = None) -> ModelMesh:
        """Start a mesh whose first model's provider refuses the key."""
        file = self.folder / "modelmesh.yaml"
        file.write_text(f"{MESH}observability: {observability}\n", encoding="utf-8")
        mesh = ModelMesh(clock=clock, plugins=self.plugins)
        self.meshes.append(mesh)
        mesh.initialize(file)
        return mesh

    def ask(self, mesh: ModelMesh) -> None:
        """Make one request, which rotates the first time."""
        mesh.get_router().complete("chat-completion", CompletionRequest([{"role": "user", "content": PROMPT}]))

    def run(self, observability: str) -> list[dict[str, Any]]:
        """Make a request, shut down, and return what stands in ``log.jsonl``."""
        mesh = self.build(observability)
        self.ask(mesh)
        mesh.shutdown()
        return self.read()

    def read(self, name: str = "log.jsonl", kind: str | None = None) -> list[dict[str, Any]]:
        """Return a file's records, of one kind if that is given."""
        text = (self.folder / name).read_text(encoding="utf-8")
        records = [json.loads(line) for line in text.splitlines()]
        return [record for record in records if kind in (None, record["type"])]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plugins: PluginHost) -> Iterator[Place]:
    """An empty folder, which is the working directory."""
    monkeypatch.chdir(tmp_path)
    place = Place(tmp_path, plugins)
    yield place
    for mesh in place.meshes:
        mesh.shutdown()


def kinds(records: list[dict[str, Any]]) -> set[str]:
    """The types of some records."""
    return {record["type"] for record in records}


def events(records: list[dict[str, Any]]) -> set[str]:
    """The event types of some records."""
    return {record["event_type"] for record in records if record["type"] == "event"}


def payloads(records: list[dict[str, Any]]) -> list[str | None]:
    """The request payloads of the logs of some records."""
    return [record.get("request_payload") for record in records if record["type"] == "log"]


def severities(records: list[dict[str, Any]]) -> set[str]:
    """The severities of the traces of some records."""
    return {record["severity"] for record in records if record["type"] == "trace"}


def scopes(records: list[dict[str, Any]]) -> set[str]:
    """The IDs that statistics are about."""
    return {record["scope_id"] for record in records if record["type"] == "stats"}


ALL_SCOPES = {"first", "second", "bad", "good", "chat-completion"}

CASES: list[tuple[str, Callable[[list[dict[str, Any]]], bool]]] = [
    # --- all of it
    (f"{{{FILE}}}", lambda records: kinds(records) == {"event", "log", "stats", "trace"}),
    (f"{{{FILE}}}", lambda records: {each.value for each in HAPPENS} <= events(records)),
    (f"{{{FILE}}}", lambda records: scopes(records) == ALL_SCOPES),
    (f"{{{FILE}}}", lambda records: SECRET not in str(records)),
    # --- events
    *(
        (
            f"{{{FILE}, events: {{filter: [{each.value}]}}}}",
            lambda records, each=each: (
                events(records) & {kind.value for kind in HAPPENS} == ({each.value} & {kind.value for kind in HAPPENS})
                and events(records) <= {each.value}
            ),
        )
        for each in EventType
    ),
    *(
        (
            f"{{{FILE}, {spelling.format(name)}}}",
            lambda records, found=found: events(records) == {each.value for each in found},
        )
        for name, found in GROUPS.items()
        for spelling in (
            "events: {{filter: [{}]}}",
            "routing: {{events: [{}]}}",
            "routing: {{config: {{events: [{}]}}}}",
        )
    ),
    (
        f"{{{FILE}, events: {{filter: [rotation, model_deactivated]}}}}",
        lambda records: events(records) == {"model_rotated", "model_deactivated"},
    ),
    (f"{{{FILE}, events: {{filter: []}}}}", lambda records: {each.value for each in HAPPENS} <= events(records)),
    (
        f"{{{FILE}, events: {{include_metadata: false}}}}",
        lambda records: not any(record["metadata"] for record in records if record["type"] == "event"),
    ),
    (
        f"{{{FILE}, events: {{include_metadata: true}}}}",
        lambda records: all(record["metadata"] for record in records if record["type"] == "event"),
    ),
    # --- logging
    (f"{{{FILE}, logging: {{level: metadata}}}}", lambda records: payloads(records) == [None, None]),
    (
        f"{{{FILE}, logging: {{level: summary}}}}",
        lambda records: all(1_000 < len(payload or "") <= 1_025 for payload in payloads(records)),
    ),
    (
        f"{{{FILE}, logging: {{level: full}}}}",
        lambda records: all(len(payload or "") > 5_000 for payload in payloads(records)),
    ),
    *(
        (
            f"{{{FILE}, logging: {{level: {level}, max_payload_size: 50}}}}",
            lambda records: all(len(payload or "") == 51 for payload in payloads(records)),
        )
        for level in ("summary", "full")
    ),
    (
        f"{{{FILE}, logging: {{level: full, max_payload_size: 1KB}}}}",
        lambda records: all(len(payload or "") == 1_025 for payload in payloads(records)),
    ),
    (
        f"{{{FILE}, logging: {{level: full, redact_secrets: true}}}}",
        lambda records: SECRET not in str(records) and "REDACTED" in str(payloads(records)),
    ),
    (
        f"{{{FILE}, logging: {{level: full, redact_secrets: false}}}}",
        lambda records: all(SECRET in (payload or "") for payload in payloads(records)),
    ),
    (
        f"{{{FILE}, logging: {{level: full, redact: false}}}}",
        lambda records: all(SECRET in (payload or "") for payload in payloads(records)),
    ),
    # --- tracing
    *(
        (
            f"{{{FILE}, tracing: {{min_severity: {lowest.value}}}}}",
            lambda records, lowest=lowest: (
                severities(records)
                == {each.value for each in list(Severity)[list(Severity).index(lowest) :]} - {"critical"}
            ),
        )
        for lowest in Severity
    ),
    (f"{{{FILE}}}", lambda records: "debug" not in severities(records) and "info" in severities(records)),
    # --- statistics
    (f"{{{FILE}, statistics: {{scopes: [model]}}}}", lambda records: scopes(records) == {"first", "second"}),
    (f"{{{FILE}, statistics: {{scopes: [provider]}}}}", lambda records: scopes(records) == {"bad", "good"}),
    (
        f"{{{FILE}, statistics: {{scopes: [pool, model]}}}}",
        lambda records: scopes(records) == {"chat-completion", "first", "second"},
    ),
    # --- settings of the connector, in each place they may stand
    ("{connector: local-file, config: {path: log.jsonl}}", lambda records: len(kinds(records)) == 4),
    ("{connector: modelmesh.local-file.v1, local-file: {path: log.jsonl}}", lambda records: len(kinds(records)) == 4),
    ("{connector: file, local-file: {path: log.jsonl}}", lambda records: len(kinds(records)) == 4),
    ("{connector: local-file, modelmesh.file.v1: {file_path: log.jsonl}}", lambda records: len(kinds(records)) == 4),
    ("{connector: json-log, path: log.jsonl}", lambda records: len(kinds(records)) == 4),
    (f"{{{FILE}, min_severity: error}}", lambda records: severities(records) == {"error"}),
    (f"{{{FILE}, event_filter: [rotation]}}", lambda records: events(records) == {"model_rotated"}),
    (f"{{{FILE}, log_level: metadata, logging: {{level: full}}}}", lambda records: payloads(records) == [None, None]),
]


@pytest.mark.parametrize(("observability", "holds"), CASES, ids=[f"{n}-{text}" for n, (text, _) in enumerate(CASES)])
def test_a_key_does_what_it_says(
    place: Place, observability: str, holds: Callable[[list[dict[str, Any]]], bool]
) -> None:
    """What reaches the file is what was asked for."""
    records = place.run(observability)

    assert holds(records), records


def test_each_part_may_go_to_a_file_of_its_own(place: Place) -> None:
    """Four connectors at once, of one kind with different settings."""
    mesh = place.build(
        "{connector: file, path: log.jsonl, routing: {connector: file, path: events.jsonl},"
        " logging: {connector: local-file, path: requests.jsonl}, statistics: {connector: json-log, path: stats.jsonl},"
        " tracing: {connector: file, path: traces.jsonl}}"
    )
    place.ask(mesh)
    mesh.shutdown()

    files = {name: kinds(place.read(f"{name}.jsonl")) for name in ("events", "requests", "stats", "traces")}
    assert files == {"events": {"event"}, "requests": {"log"}, "stats": {"stats"}, "traces": {"trace"}}
    assert not (place.folder / "log.jsonl").exists()


def test_a_part_without_a_connector_goes_where_the_others_go(place: Place) -> None:
    """And traces go to every connector that is named."""
    place.run("{connector: file, path: log.jsonl, logging: {connector: json-log, path: requests.jsonl}}")

    assert kinds(place.read()) == {"event", "stats", "trace"}
    assert kinds(place.read("requests.jsonl")) == {"log", "trace"}


def test_several_connectors_may_be_named_at_once(place: Place, capfd: pytest.CaptureFixture[str]) -> None:
    """Each takes those of the settings that it knows."""
    place.run(
        "{connector: [file, console], path: log.jsonl, prefix: '[here]',"
        " logging: {connector: [json-log, file], path: requests.jsonl}}"
    )

    assert kinds(place.read()) == {"event", "stats", "trace"}
    assert "[here]" in capfd.readouterr().err
    assert len(place.read("requests.jsonl", "log")) == 4


def test_connectors_named_several_times_with_equal_settings_are_one(place: Place) -> None:
    """A file is opened once, however many parts go to it."""
    mesh = place.build("{local-file: {path: log.jsonl}, connector: file, logging: {connector: file}}")

    assert len(mesh.observers()) == 1


@pytest.mark.parametrize(
    ("observability", "path", "words"),
    [
        ("{connector: []}", "observability.connector", "names no connector"),
        ("{connector: [file, fille]}", "observability.connector[1]", "did you mean"),
        ("{connector: [file, console], pth: x}", "observability.pth", "did you mean 'path'"),
        ("{logging: {path: x}}", "observability.logging.path", "none is named here"),
        ("{connector: file, rotation: weekly}", "observability.rotation", "daily"),
        ("{connector: file, max_size: big}", "observability.max_size", "is no size"),
        ("{connector: webhook}", "observability.url", "missing"),
        ("{connector: webhook, url: example.com}", "observability.url", "no web address"),
        ("{webhook: {url: 'http://x/'}}", "observability.webhook", "nothing reads this"),
        ("{tracing: {min_severity: loud}}", "observability.tracing.min_severity", "critical"),
        ("{events: {filter: [rotations]}}", "observability.events.filter[0]", "did you mean 'rotation'"),
        ("{logging: {level: fully}}", "observability.logging.level", "full"),
        ("{statistics: {flush_interval: 0}}", "observability.statistics.flush_interval", "greater than 0"),
        ("{statistics: {scopes: [models]}}", "observability.statistics.scopes[0]", "model"),
    ],
)
def test_a_mistake_is_named_before_anything_starts(place: Place, observability: str, path: str, words: str) -> None:
    """With its place and what would be right."""
    with pytest.raises(ConfigurationError) as caught:
        place.build(observability)

    problem = caught.value.problems[0]
    assert problem.path == path
    assert words in problem.message


def test_the_console_reads_its_section(place: Place, capfd: pytest.CaptureFixture[str]) -> None:
    """Its settings, in both spellings, shape the lines."""
    mesh = place.build(
        "{connector: console, console: {colorize: true, timestamp_format: UNIX, prefix: '<mesh>', stream: stdout}}"
    )
    place.ask(mesh)
    mesh.shutdown()

    lines = capfd.readouterr().out.splitlines()
    assert lines
    assert all("<mesh>" in line and "\x1b[" in line and line.split(".")[0].isdigit() for line in lines)


def test_statistics_come_at_their_interval(place: Place) -> None:
    """Without waiting for the end."""
    mesh = place.build("{connector: file, path: log.jsonl, statistics: {flush_interval: 20ms}}")
    place.ask(mesh)

    wait_until(lambda: bool(place.read(kind="stats")))

    assert scopes(place.read()) == ALL_SCOPES


def test_statistics_reach_back_as_far_as_they_are_kept(place: Place) -> None:
    """``retention`` is how far queries look back."""
    clock = FakeClock(auto_advance=True)
    mesh = place.build("{connector: 'null', statistics: {retention: 2h}}", clock)
    place.ask(mesh)
    clock.advance(3_600)
    recent = mesh.get_statistics().query(StatsScope.MODEL, "second").total_requests
    clock.advance(3 * 3_600)

    assert recent == 1
    with pytest.raises(KeyError):
        mesh.get_statistics().query(StatsScope.MODEL, "second")


@pytest.mark.parametrize("level", ["full", LogLevel.FULL], ids=["text", "enum"])
def test_the_level_can_be_changed_at_run_time(place: Place, level: LogLevel | str) -> None:
    """From the next record on."""
    mesh = place.build(f"{{{FILE}}}")
    place.ask(mesh)
    wait_until(lambda: len(place.read(kind="log")) == 2)
    mesh.set_log_level(level)
    place.ask(mesh)
    mesh.shutdown()

    assert [payload is not None for payload in payloads(place.read())] == [False, False, True]


def test_a_level_that_does_not_exist_is_refused(place: Place) -> None:
    """With those there are."""
    mesh = place.build(f"{{{FILE}}}")

    with pytest.raises(ValueError, match="did you mean 'full'"):
        mesh.set_log_level("ful")
