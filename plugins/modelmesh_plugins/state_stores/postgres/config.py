"""Settings of the PostgreSQL state store."""

from __future__ import annotations

from typing import Any

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict
from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from modelmesh.config.durations import PositiveDuration

_MISTAKES = (
    "a PostgreSQL URL is postgresql://user@host:port/database, and after a question mark parameters of libpq, such as"
    " sslmode; a password may stand in it, with %40 for @, or in the setting password"
)
_PORTS = range(1, 65_536)


class PostgresConfig(BaseModel):
    """Settings of the state store ``modelmesh.postgres.v1``, in the section ``storage``."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, populate_by_name=True)

    url: SecretStr = Field(
        description="Where the database is: postgresql://user@host:port/database, with any parameter of libpq, such as"
        " sslmode. It may hold the password."
    )
    password: SecretStr | None = Field(
        default=None, description="Password, where the URL has none; write it as ${secrets:NAME}."
    )
    schema_name: str = Field(
        default="modelmesh",
        pattern=r"^[a-z_][a-z0-9_]{0,62}$",
        alias="schema",
        description="Schema of the store's own tables, which it makes and keeps up to date. Processes that share"
        " limits have the same.",
    )
    timeout: PositiveDuration = Field(
        default=0.25,
        le=60.0,
        description="How long any one call may take in all (duration); the first also waits for a connection.",
    )
    connect_timeout: PositiveDuration = Field(
        default=2.5,
        le=60.0,
        description="How long opening a connection may take (duration); later calls wait for timeout only.",
    )
    connections: int = Field(
        default=2, ge=1, le=64, description="Connections for records of each event loop; limits have one more."
    )
    synchronous_commit: bool = Field(
        default=True,
        description="Whether a change counts as made only when it is on the server's disk. Without it calls are"
        " faster, and a crash of the server can lose the last 0.6 seconds of changes.",
    )

    @field_validator("url")
    @classmethod
    def _is_url(cls, value: SecretStr) -> SecretStr:
        text = value.get_secret_value()
        try:
            known = conninfo_to_dict(text)
        except ProgrammingError:
            # What the library says quotes the URL, and with it the password.
            known = None
        if not known or not text.startswith(("postgresql://", "postgres://")):
            raise ValueError(_MISTAKES)
        if "@" in text.partition("?")[0] and text.count("@") > 1:
            # The library ends the password at the first: the rest of it would be the host, and stand in messages.
            raise ValueError("a URL has one @, which ends user and password; in a password write @ as %40")
        # Several hosts have several ports; an empty one is the default.
        ports = str(known.get("port", "")).split(",")
        if not all(port == "" or (port.isascii() and port.isdigit() and int(port) in _PORTS) for port in ports):
            raise ValueError(f"a port is a whole number from 1 to 65535; {_MISTAKES}")
        if "connect_timeout" in known:
            raise ValueError("connect_timeout cannot stand in the URL: set storage.connect_timeout instead")
        return value

    def options(self) -> dict[str, Any]:
        """What connections are made of, the password included."""
        options = dict(conninfo_to_dict(self.url.get_secret_value()))
        if self.password is not None:
            options.setdefault("password", self.password.get_secret_value())
        return options

    def place(self) -> str:
        """Where the database is, for messages; never holds a user or a password."""
        options = self.options()
        host, port = options.get("host", "localhost"), options.get("port", 5432)
        return f"{host}:{port}/{options.get('dbname', '')}"
