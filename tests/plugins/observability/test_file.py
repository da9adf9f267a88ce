"""The file and JSON log connectors: one JSON object a line, and clear words when that cannot be."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from modelmesh import ModelMesh
from modelmesh.errors import ConfigurationError
from modelmesh.interfaces.observability import ObservabilityConnector, Severity, TraceEntry
from modelmesh.interfaces.runtime import ConnectorContext
from modelmesh.plugins import PluginHost
from modelmesh_cdk.file import FileConfig
from modelmesh_cdk.testing import ObservabilityContract
from modelmesh_plugins.observability.file import FileConnector
from modelmesh_plugins.observability.json_log import JsonLogConfig, JsonLogConnector

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def trace(message: str, severity: Severity = Severity.INFO) -> TraceEntry:
    """A trace line."""
    return TraceEntry(severity, NOW, "router", message)


def messages(path: Path) -> list[str]:
    """The messages of a file's traces."""
    return [json.loads(line)["message"] for line in path.read_text(encoding="utf-8").splitlines()]


class TestFile(ObservabilityContract):
    """``modelmesh.file.v1``."""

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.path = tmp_path / "log.jsonl"

    def make(self, context: ConnectorContext) -> ObservabilityConnector:
        return FileConnector(FileConfig(file_path=self.path))

    def output(self) -> str:
        return self.path.read_text(encoding="utf-8")


class TestJsonLog(TestFile):
    """``modelmesh.json-log.v1``."""

    def make(self, context: ConnectorContext) -> ObservabilityConnector:
        return JsonLogConnector(JsonLogConfig(file_path=self.path))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ("modelmesh.log", True, True, "size", 10 * 1024**2, 5)),
        ({"path": "a", "max_size": "1KB", "rotation": "daily"}, ("a", True, True, "daily", 1024, 5)),
        ({"file_path": "a", "max_file_size_bytes": 7, "max_files": 1}, ("a", True, True, "size", 7, 1)),
        ({"append": False, "flush_each_line": False}, ("modelmesh.log", False, False, "size", 10 * 1024**2, 5)),
    ],
    ids=["defaults", "short names", "long names", "switches"],
)
def test_settings_have_the_documented_names_and_defaults(settings: dict[str, Any], expected: tuple[Any, ...]) -> None:
    """In both spellings."""
    config = FileConfig.model_validate(settings)

    shown = (str(config.file_path), config.append, config.flush_each_line)
    assert (*shown, config.rotation, config.max_size, config.max_files) == expected


def test_the_json_log_has_its_own_name_and_severity() -> None:
    """Else it is the same."""
    config = JsonLogConfig()

    assert (str(config.file_path), config.min_severity, config.append) == (
        "modelmesh-events.jsonl",
        Severity.INFO,
        True,
    )


@pytest.mark.parametrize("name", ["file", "local-file", "modelmesh.local-file.v1", "observability.modelmesh.file.v1"])
def test_it_is_known_under_its_older_name(name: str) -> None:
    """``local-file`` means the same connector, among observability connectors alone."""
    assert PluginHost().resolve_id("observability", name) == "modelmesh.file.v1"


def test_each_line_is_written_at_once(tmp_path: Path) -> None:
    """Without a core around it, too."""
    connector = FileConnector(FileConfig(file_path=tmp_path / "log"))

    connector.trace(trace("one"))

    assert messages(tmp_path / "log") == ["one"]
    connector.close()


def test_lines_of_a_batch_are_written_together(tmp_path: Path) -> None:
    """One write for what gathered."""
    connector = FileConnector(FileConfig(file_path=tmp_path / "log"))
    connector.begin_batch()
    connector.trace(trace("one"))
    connector.trace(trace("two"))

    before = messages(tmp_path / "log")
    connector.end_batch()

    assert (before, messages(tmp_path / "log")) == ([], ["one", "two"])
    connector.close()


def test_lines_may_wait_for_a_full_buffer(tmp_path: Path) -> None:
    """``flush_each_line: false`` trades safety for fewer writes; nothing is lost at the end."""
    connector = FileConnector(FileConfig(file_path=tmp_path / "log", flush_each_line=False))
    connector.trace(trace("one"))
    before = messages(tmp_path / "log")
    connector.trace(trace("x" * 70_000))
    full = len(messages(tmp_path / "log"))
    connector.trace(trace("three"))

    connector.close()

    assert (before, full, len(messages(tmp_path / "log"))) == ([], 2, 3)


def test_old_lines_go_when_asked(tmp_path: Path) -> None:
    """``append: false`` begins the file anew."""
    (tmp_path / "log").write_text("old\n")

    FileConnector(FileConfig(file_path=tmp_path / "log", append=False)).close()

    assert (tmp_path / "log").read_text() == ""


@pytest.mark.parametrize(
    ("path", "reason", "remedy"),
    [
        (".", "Is a directory", "add the name of a file"),
        ("taken/log", "File exists", "choose another path"),
        ("taken/deeper/log", "Not a directory", "choose another path"),
        ("x" * 300, "File name too long", "shorter"),
    ],
    ids=["folder", "in a file", "below a file", "long"],
)
def test_a_path_that_cannot_be_written_is_an_error_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, reason: str, remedy: str
) -> None:
    """It names the path, says why, and what to do; nothing is left running."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").write_text("")
    config = {
        "providers": {"modelmesh.simulator.v1": {}},
        "models": {"m": {"provider": "modelmesh.simulator.v1", "capabilities": ["chat-completion"]}},
        "pools": {"chat-completion": {}},
        "observability": {"connector": "file", "path": path},
    }

    with pytest.raises(ConfigurationError) as caught:
        ModelMesh().initialize(config)

    for words in (path, reason, remedy):
        assert words in str(caught.value)


def test_a_mesh_that_cannot_start_leaves_no_file_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those opened before the one that failed are closed again."""
    monkeypatch.chdir(tmp_path)
    config = {
        "providers": {"modelmesh.simulator.v1": {}},
        "models": {"m": {"provider": "modelmesh.simulator.v1", "capabilities": ["chat-completion"]}},
        "pools": {"chat-completion": {}},
        "observability": {"connector": "file", "path": "fine.jsonl", "tracing": {"connector": "file", "path": "."}},
    }
    before = set(Path("/proc/self/fd").iterdir())

    with pytest.raises(ConfigurationError):
        ModelMesh().initialize(config)

    opened = [each for each in set(Path("/proc/self/fd").iterdir()) - before if each.exists()]
    assert not [each for each in opened if each.resolve().name == "fine.jsonl"]


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_folder_of_others_is_an_error_at_the_start(tmp_path: Path) -> None:
    """With the remedy that fits."""
    tmp_path.chmod(0o500)

    with pytest.raises(ConfigurationError, match="let this user write there"):
        FileConnector(FileConfig(file_path=tmp_path / "log"))
