"""FileObservability: JSON lines in a file."""

from __future__ import annotations

import errno
import time
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import AliasChoices, ConfigDict, Field

from modelmesh.config.durations import Size
from modelmesh.errors import ConfigurationError
from modelmesh_cdk.log_file import LogFile
from modelmesh_cdk.observability import BaseObservability, BaseObservabilityConfig

_BUFFER_BYTES = 64 * 1024
_REMEDIES = {
    errno.EACCES: "let this user write there, or choose another path",
    errno.EPERM: "let this user write there, or choose another path",
    errno.EROFS: "choose a path on a file system that can be written to",
    errno.EISDIR: "it is a folder; add the name of a file",
    errno.ENOTDIR: "a part of it is a file and no folder; choose another path",
    errno.EEXIST: "a part of it is a file and no folder; choose another path",
    errno.ENOSPC: "make room on the disk, or choose another path",
    errno.ENAMETOOLONG: "choose a shorter path",
}


class FileConfig(BaseObservabilityConfig):
    """Settings of a connector that writes to a file."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, populate_by_name=True)

    file_path: Path = Field(
        default=Path("modelmesh.log"),
        validation_alias=AliasChoices("file_path", "path"),
        description="The file; missing folders are made. A relative path begins in the working directory.",
    )
    append: bool = Field(default=True, description="Whether what is in the file at the start stays.")
    flush_each_line: bool = Field(
        default=True, description="Write lines out at once; otherwise when 64 KB are full, and at the end."
    )
    rotation: Literal["size", "daily", "never"] = Field(
        default="size", description="When a new file begins: at max_size, each day (UTC), or never."
    )
    max_size: Size = Field(
        default=10 * 1024**2,
        validation_alias=AliasChoices("max_size", "max_file_size_bytes"),
        description="Largest file (size) under rotation size; 0 for no limit.",
    )
    max_files: int = Field(default=5, ge=1, description="Files kept, the current one included.")


FileConfigT = TypeVar("FileConfigT", bound=FileConfig)


class FileObservability(BaseObservability[FileConfigT]):
    """Writes one JSON object a line.

    The file may be moved away at any time (logrotate); within a second a new one is opened. Lines that cannot be
    written, as on a full disk, are counted as failed by the core; the next one that can starts on a line of its own.

    Raises:
        ConfigurationError: The file cannot be opened; says why and what to do.
    """

    config_model = FileConfig

    def __init__(self, config: FileConfigT | None = None) -> None:
        super().__init__(config)
        settings = self.config
        try:
            self._file = LogFile(
                settings.file_path,
                append=settings.append,
                rotation=settings.rotation if settings.rotation == "daily" or settings.max_size else "never",
                max_size=settings.max_size,
                max_files=settings.max_files,
                now=self._now,
            )
        except OSError as error:
            remedy = _REMEDIES.get(error.errno or 0, "choose another path")
            raise ConfigurationError(
                f"cannot write to {str(settings.file_path)!r}, the path (or file_path) of observability"
                f"\n  reason: {error.strerror or type(error).__name__}\n  try: {remedy}"
            ) from error
        self._in_batch = False

    def _now(self) -> float:
        return time.time() if self.context is None else self.context.clock.time()

    def begin_batch(self) -> None:
        """Collect lines from now on: the core hands over what gathered meanwhile."""
        self._in_batch = True

    def end_batch(self) -> None:
        """Write the lines out."""
        self._in_batch = False
        self._settle()

    def _write(self, line: str) -> None:
        self._file.add(line)
        if not self._in_batch:
            self._settle()

    def _settle(self) -> None:
        if self.config.flush_each_line or self._file.pending_bytes >= _BUFFER_BYTES:
            self._file.flush()

    def close(self) -> None:
        """Write what is left and close the file."""
        self._file.close()
