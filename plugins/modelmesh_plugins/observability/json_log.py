"""A log of JSON lines for other programs to read."""

from __future__ import annotations

from pathlib import Path

from pydantic import AliasChoices, Field

from modelmesh.interfaces.observability import Severity
from modelmesh_cdk.file import FileConfig, FileObservability


class JsonLogConfig(FileConfig):
    """Settings of the JSON log."""

    file_path: Path = Field(
        default=Path("modelmesh-events.jsonl"),
        validation_alias=AliasChoices("file_path", "path"),
        description="The file; missing folders are made. A relative path begins in the working directory.",
    )
    min_severity: Severity = Field(default=Severity.INFO, description="Traces below it are dropped.")


class JsonLogConnector(FileObservability[JsonLogConfig]):
    """Appends records to ``modelmesh-events.jsonl``, one JSON object a line."""

    config_model = JsonLogConfig
