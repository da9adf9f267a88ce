"""The tables: how they are opened, and the statements that are made to them."""

from __future__ import annotations

from collections.abc import Mapping

from modelmesh.errors import StateStoreError
from modelmesh_plugins.state_stores.sqlite.config import SQLiteConfig
from modelmesh_plugins.state_stores.sqlite.forks import Connection, connect

SCHEMA = 1
"""The version of the tables."""

# The tables' name is the only thing put into the text, and the settings allow it nothing but letters, digits and
# underscores: SQL cannot bind an identifier. Everything else is bound.
#
# Accounts and open reservations share a table: a claim changes some of each, and where they lie in one page, or in few,
# a commit has less to log. ``until`` is the microsecond at which a lease ends, or from which nobody needs an account.
_TABLES = """
CREATE TABLE IF NOT EXISTS {t} (key TEXT PRIMARY KEY, data BLOB, version INTEGER, modified_at REAL);
CREATE TABLE IF NOT EXISTS {t}_books (kind TEXT, name TEXT, until INTEGER, state TEXT, PRIMARY KEY (kind, name))
    WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS {t}_locks (name TEXT PRIMARY KEY, fence INTEGER, until REAL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS {t}_messages (id INTEGER PRIMARY KEY AUTOINCREMENT, channel TEXT, body BLOB, at REAL);
INSERT OR IGNORE INTO {t}_meta VALUES ('fence', 0);
INSERT OR IGNORE INTO {t}_meta VALUES ('due', 0);
"""
_STATEMENTS = {
    "create_meta": "CREATE TABLE IF NOT EXISTS {t}_meta (name TEXT PRIMARY KEY, value INTEGER) WITHOUT ROWID",
    "schema": "SELECT value FROM {t}_meta WHERE name = 'schema'",
    "put_schema": "INSERT INTO {t}_meta VALUES ('schema', ?)",
    "data_version": "PRAGMA data_version",
    "load": "SELECT data, version, modified_at FROM {t} WHERE key = ?",
    "stat": "SELECT x'', version, modified_at FROM {t} WHERE key = ?",
    "save": "INSERT OR REPLACE INTO {t} VALUES (?, ?, ?, ?)",
    "delete": "DELETE FROM {t} WHERE key = ?",
    "list": "SELECT key FROM {t} WHERE substr(key, 1, ?) = ?",
    "account": "SELECT state FROM {t}_books WHERE kind = ? AND name = ?",
    "reservation": "SELECT until, state FROM {t}_books WHERE kind = 'reservation' AND name = ?",
    "put": "INSERT OR REPLACE INTO {t}_books VALUES (?, ?, ?, ?)",
    "drop_reservation": "DELETE FROM {t}_books WHERE kind = 'reservation' AND name = ?",
    "due": "SELECT name, until, state FROM {t}_books WHERE kind = 'reservation' AND until <= ?",
    "first_end": "SELECT MIN(until) FROM {t}_books WHERE kind = 'reservation' AND until > ?",
    "due_from": "SELECT value FROM {t}_meta WHERE name = 'due'",
    "put_due": "UPDATE {t}_meta SET value = ? WHERE name = 'due'",
    "locked": "SELECT 1 FROM {t}_locks WHERE name = ? AND until > ?",
    "next_fence": "UPDATE {t}_meta SET value = value + 1 WHERE name = 'fence'",
    "fence": "SELECT value FROM {t}_meta WHERE name = 'fence'",
    "put_lock": "INSERT OR REPLACE INTO {t}_locks VALUES (?, ?, ?)",
    "held": "SELECT until FROM {t}_locks WHERE name = ? AND fence = ?",
    "drop_lock": "DELETE FROM {t}_locks WHERE name = ?",
    "publish": "INSERT INTO {t}_messages (channel, body, at) VALUES (?, ?, ?)",
    "last_message": "SELECT COALESCE(MAX(id), 0) FROM {t}_messages",
    "messages": "SELECT id, channel, body FROM {t}_messages WHERE id > ? ORDER BY id",
    "forget_accounts": "DELETE FROM {t}_books WHERE kind IN ('rate', 'window') AND until <= ?",
    "forget_locks": "DELETE FROM {t}_locks WHERE until <= ?",
    "forget_messages": "DELETE FROM {t}_messages WHERE at <= ? OR at > ?",
}


def statements(table: str) -> Mapping[str, str]:
    """Return every statement by its name, for tables whose names begin so."""
    return {name: text.replace("{t}", table) for name, text in _STATEMENTS.items()}


def open_tables(config: SQLiteConfig) -> Connection:
    """Open the database and see to its tables.

    Raises:
        StateStoreError: A newer version made them, or the disk cannot be shared.
        sqlite3.Error: It cannot be opened, or is busy.
    """
    sql = statements(config.table)
    database = connect(config.path)
    try:
        (mode,) = database.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise StateStoreError(
                f"{config.path}: this disk does not carry a shared SQLite database (journal mode {mode!r});"
                " put storage.path on a local disk, or use modelmesh.file.v1"
            )
        database.execute(f"PRAGMA synchronous = {config.synchronous}")
        # 32 MB. A checkpoint waits for the disk inside a commit; a rarer one writes the same pages, once.
        database.execute("PRAGMA wal_autocheckpoint = 8000")
        database.execute("BEGIN IMMEDIATE")
        database.execute(sql["create_meta"])
        row = database.execute(sql["schema"]).fetchone()
        if row is not None and row[0] > SCHEMA:
            raise StateStoreError(
                f"{config.path}: its tables {config.table!r} are of version {row[0]}, made by a newer"
                f" ModelMesh; this one knows up to {SCHEMA}. Upgrade modelmesh-router, or name another path"
            )
        for statement in _TABLES.replace("{t}", config.table).split(";"):
            database.execute(statement)
        if row is None:
            database.execute(sql["put_schema"], (SCHEMA,))
        database.execute("COMMIT")
    except BaseException:
        database.close()
        raise
    return database
