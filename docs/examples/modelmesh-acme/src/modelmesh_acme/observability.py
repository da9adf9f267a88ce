"""``acme.jsonl.v1``: events, request records, statistics and traces as JSON lines in a file."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, TextIO

from pydantic import Field

from modelmesh_cdk import BaseObservability, BaseObservabilityConfig


class AcmeJsonLinesConfig(BaseObservabilityConfig):
    """Settings of one file."""

    path: Path = Field(description="The file; folders above it are made, and lines are added at its end.")


class AcmeJsonLines(BaseObservability[AcmeJsonLinesConfig]):
    """Writes each record as one line of a file."""

    config_model: ClassVar[type[BaseObservabilityConfig]] = AcmeJsonLinesConfig

    def __init__(self, config: AcmeJsonLinesConfig | None = None) -> None:
        super().__init__(config)
        self._file: TextIO | None = None

    def _write(self, line: str) -> None:
        if self._file is None:
            # Not before the first record: a configuration that is only checked leaves no file behind.
            self.config.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.config.path.open("a", encoding="utf-8", buffering=1)
        self._file.write(f"{line}\n")

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None
