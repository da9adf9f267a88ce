"""Settings of the Redis state store."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator
from redis.asyncio.connection import Connection, SSLConnection, parse_url
from redis.exceptions import RedisError

from modelmesh.config.durations import PositiveDuration
from modelmesh_plugins.state_stores.redis.url_options import wrong_options

_URL = "redis://localhost:6379/0"
_MISTAKES = (
    "a Redis URL is redis://host:port/database, rediss:// for TLS, or unix:///path/of/socket;"
    " a password may stand in it (redis://:password@host) or in the setting password"
)
_REFUSED = "redis-py refuses the value of an option in the URL; look the options up in redis-py's documentation"


class RedisConfig(BaseModel):
    """Settings of the state store ``modelmesh.redis.v1``, in the section ``storage``."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    url: SecretStr = Field(
        default=SecretStr(_URL),
        description="Where the server is: redis://, rediss:// (TLS) or unix://. It may hold the password.",
        json_schema_extra={"default": _URL},  # which is no secret
    )
    username: str | None = Field(default=None, description="User, where the URL names none.")
    password: SecretStr | None = Field(
        default=None, description="Password, where the URL has none; write it as ${secrets:NAME}."
    )
    key_prefix: str = Field(
        default="modelmesh",
        min_length=1,
        max_length=100,
        pattern=r"^[^{}\s]+$",
        description="Every key begins with it in braces, so that all lie in one slot of a cluster. Processes that"
        " share limits have the same; installations that share a server have different ones.",
    )
    timeout: PositiveDuration = Field(
        default=0.25,
        le=60.0,
        description="How long any one call may take in all (duration); the first also waits for a connection.",
    )
    connect_timeout: PositiveDuration = Field(
        default=2.0,
        le=60.0,
        description="How long opening a connection may take (duration); later calls wait for timeout only.",
    )
    tls_ca_file: str | None = Field(
        default=None, description="File of the certificate authority that signed the server's certificate."
    )

    @field_validator("url")
    @classmethod
    def _is_url(cls, value: SecretStr) -> SecretStr:
        url = value.get_secret_value()
        try:
            options: dict[str, Any] = dict(parse_url(url))
        except (ValueError, TypeError):
            # What the library says may quote the URL, and with it the password.
            raise ValueError(_MISTAKES) from None
        if wrong := wrong_options(url):
            raise ValueError(wrong)
        try:
            options.pop("connection_class", Connection)(**options)
        except (RedisError, ValueError, TypeError):
            raise ValueError(_REFUSED) from None
        return value

    @model_validator(mode="after")
    def _has_tls_for_its_file(self) -> Self:
        if self.tls_ca_file is not None and self.options().get("connection_class") is not SSLConnection:
            raise ValueError("tls_ca_file is for TLS: begin url with rediss://, or leave tls_ca_file out")
        return self

    def options(self) -> dict[str, Any]:
        """What redis-py makes connections of: their class under ``connection_class``, and its arguments."""
        options: dict[str, Any] = dict(parse_url(self.url.get_secret_value()))
        if self.username is not None:
            options.setdefault("username", self.username)
        if self.password is not None:
            options.setdefault("password", self.password.get_secret_value())
        if self.tls_ca_file is not None:
            options["ssl_ca_certs"] = self.tls_ca_file
        return options

    def place(self) -> str:
        """Where the server is, for messages; never holds a user or a password."""
        options = self.options()
        if "path" in options:
            return f"unix://{options['path']}"
        return f"{options.get('host', 'localhost')}:{options.get('port', 6379)}/{options.get('db', 0)}"
