"""Throw-away distributions on ``sys.path``, as pip would leave them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest


class Site:
    """A folder like ``site-packages``; what is published there can be found and imported for one test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.modules: set[str] = set()

    def publish(
        self,
        distribution: str,
        entry_points: Mapping[str, Mapping[str, str]],
        *,
        version: str = "1.0",
        requires: Sequence[str] = (),
        **modules: str,
    ) -> None:
        """Write a distribution's metadata, and its modules (name=source)."""
        lines = [
            line
            for group, names in entry_points.items()
            for line in (f"[modelmesh.{group}]", *(f"{name} = {value}" for name, value in names.items()))
        ]
        metadata = ["Metadata-Version: 2.1", f"Name: {distribution}", f"Version: {version}"]
        self.publish_raw(
            distribution,
            version,
            METADATA="\n".join([*metadata, *(f"Requires-Dist: {each}" for each in requires)]) + "\n",
            **{"entry_points.txt": "\n".join(lines) + "\n"},
        )
        for name, source in modules.items():
            (self.folder / f"{name}.py").write_text(source, encoding="utf-8")
            self.modules.add(name)

    def publish_raw(self, distribution: str, version: str = "1.0", **files: str) -> None:
        """Write the files of a ``dist-info`` folder as they are given."""
        info = self.folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        for name, text in files.items():
            (info / name).write_text(text, encoding="utf-8")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """An empty folder on ``sys.path``."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    site = Site(folder)
    yield site
    for name in site.modules:
        sys.modules.pop(name, None)
