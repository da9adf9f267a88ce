"""The file store keeps the contract of state stores."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelmesh.interfaces.runtime import ConnectorContext
from modelmesh.interfaces.state_store import StateStore
from modelmesh_cdk.testing import StateStoreContract
from modelmesh_plugins.state_stores.file import FileConfig, FileStateStore


class TestFile(StateStoreContract):
    """``modelmesh.file.v1``, with a backup."""

    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path) -> None:
        """Give each test a folder of its own."""
        self.path = tmp_path / "state.json"

    def make(self, context: ConnectorContext) -> StateStore:
        return FileStateStore(FileConfig(path=str(self.path), backup=True))
