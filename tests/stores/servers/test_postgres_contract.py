"""The PostgreSQL store keeps the contract of state stores, over a real server."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

import pytest
from pydantic import SecretStr

from modelmesh.interfaces.runtime import ConnectorContext
from modelmesh.interfaces.state_store import StateStore
from modelmesh_cdk.testing import StateStoreContract

postgres = pytest.importorskip("modelmesh_plugins.state_stores.postgres")


class TestPostgres(StateStoreContract):
    """``modelmesh.postgres.v1``."""

    own_clock: ClassVar[bool] = True
    tick: ClassVar[float] = 0.5

    @pytest.fixture(autouse=True)
    def _server(self, postgres_server: Any, own_name: str) -> None:
        self.config = postgres.PostgresConfig(url=SecretStr(postgres_server.url), schema=own_name, timeout=5.0)
        asyncio.run(self._make_schema())

    async def _make_schema(self) -> None:
        store = postgres.PostgresStateStore(self.config)
        await store.list()
        await store.close()

    def make(self, context: ConnectorContext) -> StateStore:
        store: StateStore = postgres.PostgresStateStore(self.config)
        return store
