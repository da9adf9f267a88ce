"""State in PostgreSQL, shared by processes on many hosts."""

from modelmesh_plugins.state_stores.postgres.config import PostgresConfig
from modelmesh_plugins.state_stores.postgres.store import PostgresStateStore

__all__ = ["PostgresConfig", "PostgresStateStore"]
