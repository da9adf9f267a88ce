"""JSON lines in a file that rotates; older documents call it ``local-file``."""

from __future__ import annotations

from modelmesh_cdk.file import FileConfig, FileObservability


class FileConnector(FileObservability[FileConfig]):
    """Writes events, requests, statistics and traces to a file, one JSON object a line."""
