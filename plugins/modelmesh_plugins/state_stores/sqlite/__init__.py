"""State in a SQLite database: many processes on one host, nothing lost when one of them dies."""

from modelmesh_plugins.state_stores.sqlite.config import SQLiteConfig
from modelmesh_plugins.state_stores.sqlite.store import SQLiteStateStore

__all__ = ["SQLiteConfig", "SQLiteStateStore"]
