"""MeshConfig: a configuration as written, before anything is resolved or checked."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from modelmesh.config.reader import KeyPath, dotted, read_file, read_text
from modelmesh.errors import ConfigurationError


class MeshConfig:
    """A configuration document. Secret references in it stay references.

    Attributes:
        raw: The document as plain data.
        file: Where it was read from, or None.
    """

    def __init__(self, raw: Mapping[str, Any] | None = None) -> None:
        self.raw: dict[str, Any] = dict(raw or {})
        self.file: str | None = None
        self.lines: dict[KeyPath, int] = {}

    def __repr__(self) -> str:
        return f"MeshConfig({self.file or ', '.join(self.raw)})"

    @classmethod
    def from_file(cls, path: str | Path) -> Self:
        """Read a YAML or JSON file."""
        document = read_file(path)
        config = cls(document.data)
        config.file, config.lines = document.file, document.lines
        return config

    @classmethod
    def from_yaml(cls, text: str, *, file: str | None = None) -> Self:
        """Read YAML text; ``file`` is what errors call it."""
        document = read_text(text, file=file)
        config = cls(document.data)
        config.file, config.lines = document.file, document.lines
        return config

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Take a mapping.

        Raises:
            ConfigurationError: It is none.
        """
        if not isinstance(data, Mapping):
            raise ConfigurationError(
                f"a configuration is a file's path, a mapping or a MeshConfig; this is of type {type(data).__name__}"
            )
        return cls(data)

    @property
    def providers(self) -> dict[str, Any]:
        """The providers section as written."""
        return dict(self.raw.get("providers") or {})

    @property
    def models(self) -> dict[str, Any]:
        """The models section as written."""
        return dict(self.raw.get("models") or {})

    @property
    def pools(self) -> dict[str, Any]:
        """The pools section as written."""
        return dict(self.raw.get("pools") or {})

    @contextmanager
    def located(self) -> Iterator[None]:
        """Give problems that are found while something is built from it the file and line they stand at.

        Raises:
            ConfigurationError: The one that was raised inside, with places.
        """
        try:
            yield
        except ConfigurationError as error:
            if not error.problems:
                raise
            written = {dotted(path): line for path, line in self.lines.items()}
            raise ConfigurationError.from_problems(
                [
                    each if each.file or each.line else replace(each, file=self.file, line=written.get(each.path))
                    for each in error.problems
                ]
            ) from error

    def merge(self, overrides: Mapping[str, Any] | MeshConfig) -> MeshConfig:
        """Return a new configuration with the overrides laid over this one: mappings merge, all else is replaced."""
        other = overrides.raw if isinstance(overrides, MeshConfig) else overrides
        merged = MeshConfig(_merged(self.raw, other))
        merged.file, merged.lines = self.file, dict(self.lines)
        return merged

    def validate(self) -> list[str]:
        """Return what is wrong with it against the installed plugins, a line each; empty when nothing is."""
        from modelmesh.config.load import load_config
        from modelmesh.plugins import PluginHost

        try:
            load_config(self, connectors=PluginHost(), environ=os.environ)
        except ConfigurationError as error:
            return [str(problem) for problem in error.problems] or [error.message]
        return []


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        before = merged.get(key)
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            merged[key] = _merged(before, value)
        else:
            merged[key] = value
    return merged
