"""The Redis store keeps the contract of state stores, over a real server."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from pydantic import SecretStr

from modelmesh.interfaces.runtime import ConnectorContext
from modelmesh.interfaces.state_store import StateStore
from modelmesh_cdk.testing import StateStoreContract

redis = pytest.importorskip("modelmesh_plugins.state_stores.redis")


class TestRedis(StateStoreContract):
    """``modelmesh.redis.v1``."""

    own_clock: ClassVar[bool] = True
    tick: ClassVar[float] = 0.4

    @pytest.fixture(autouse=True)
    def _server(self, redis_server: Any, own_name: str) -> None:
        self.config = redis.RedisConfig(url=SecretStr(redis_server.url), key_prefix=own_name, timeout=5.0)

    def make(self, context: ConnectorContext) -> StateStore:
        store: StateStore = redis.RedisStateStore(self.config)
        return store
