"""Settings of the SQLite store."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from modelmesh.config.durations import PositiveDuration


class SQLiteConfig(BaseModel):
    """Settings of one ``modelmesh.sqlite.v1`` state store."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    path: str = Field(
        default="./mesh-state.sqlite",
        min_length=1,
        pattern=r"^[^\x00]*$",
        description="The database file, on a disk of this host, no network folder; made if missing.",
    )
    table: str = Field(
        default="modelmesh_state",
        pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,40}$",
        description="What the tables' names begin with.",
    )
    synchronous: Literal["normal", "full"] = Field(
        default="normal",
        description="normal: the end of a process loses nothing, a power failure the last moments;"
        " full: neither does, and each commit waits for the disk.",
    )
    busy_timeout: PositiveDuration = Field(
        default=5.0, description="How long to wait while other processes write (duration)."
    )

    @field_validator("table")
    @classmethod
    def _may_be_a_table(cls, value: str) -> str:
        try:
            with closing(sqlite3.connect(":memory:")) as database:
                database.execute(f"CREATE TABLE {value} (x)")
        except sqlite3.Error:
            raise ValueError("SQLite keeps this name for itself; choose another") from None
        return value
