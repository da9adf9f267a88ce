"""State in Redis or Valkey, shared by processes on many hosts."""

from modelmesh_plugins.state_stores.redis.config import RedisConfig
from modelmesh_plugins.state_stores.redis.store import RedisStateStore

__all__ = ["RedisConfig", "RedisStateStore"]
