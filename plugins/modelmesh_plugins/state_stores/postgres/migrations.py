"""The store's own schema, made and brought up to date in numbered steps."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

from psycopg import AsyncConnection
from psycopg.sql import SQL, Identifier

from modelmesh.errors import StateStoreError


@cache
def steps() -> tuple[str, ...]:
    """The steps' SQL, in order; a step that was released is never changed."""
    folder = files(__package__).joinpath("steps")
    names = sorted(each.name for each in folder.iterdir() if each.name.endswith(".sql"))
    return tuple(folder.joinpath(name).read_text(encoding="utf-8") for name in names)


async def migrate(connection: AsyncConnection[Any], schema: str) -> None:
    """Bring the schema to this version's state; processes that do so at once take turns.

    Raises:
        StateStoreError: A later version made the schema, or somebody else.
    """
    if await _version(connection, schema) == len(steps()):
        return
    async with connection.transaction():
        await connection.execute("SELECT set_config('lock_timeout', '0', true)")  # others take their turns
        await connection.execute(
            "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"modelmesh migrates {schema}",)
        )
        version = await _version(connection, schema)
        if version > len(steps()):
            raise StateStoreError(
                f"the schema {schema!r} was made by a later version of ModelMesh (its version is {version}, this one"
                f" knows {len(steps())}); upgrade modelmesh-router, or name another schema in storage.schema"
            )
        name = Identifier(schema)
        if version == 0:
            exists = await connection.execute("SELECT FROM pg_namespace WHERE nspname = %s", (schema,))
            if not exists.rowcount:
                await connection.execute(SQL("CREATE SCHEMA {s}").format(s=name))
            await connection.execute(SQL("CREATE TABLE {s}.version (version int NOT NULL)").format(s=name))
            await connection.execute(SQL("INSERT INTO {s}.version VALUES (0)").format(s=name))
        for step in steps()[version:]:
            # The text is this package's own; all that is put into it is the schema's name.
            await connection.execute(SQL(step).format(s=name))
        await connection.execute(SQL("UPDATE {s}.version SET version = %s").format(s=name), (len(steps()),))


async def _version(connection: AsyncConnection[Any], schema: str) -> int:
    # Read from the catalogue itself: to_regclass may answer from what this session knew before it got the lock.
    found = await connection.execute(
        "SELECT FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace"
        " WHERE n.nspname = %s AND c.relname = 'version'",
        (schema,),
    )
    if not found.rowcount:
        return 0
    row = await (
        await connection.execute(SQL("SELECT version FROM {s}.version").format(s=Identifier(schema)))
    ).fetchone()
    if row is not None and not isinstance(row[0], int):
        raise StateStoreError(f"the schema {schema!r} is somebody else's; name another schema in storage.schema")
    return row[0] if row is not None else 0
