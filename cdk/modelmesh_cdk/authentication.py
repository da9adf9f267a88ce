"""How a key is sent: as a bearer token, in a header of the API's own, in the URL, or as a password."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Literal

import httpx
from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from modelmesh.config.not_yet import REFUSAL

HEADER_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_HEADER_VALUE = re.compile(r"(?:[!-~](?:[ -~]*[!-~])?)?")
_PREFIX = re.compile(r"(?:[!-~][ -~]*)?")
_TO_COME = ("oauth", "service_account")


class AuthConfig(BaseModel):
    """How ``api_key`` is sent."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    method: Literal["bearer", "header", "query", "basic", "none", "api_key"] = Field(
        default="bearer",
        description="bearer: Authorization: Bearer KEY (api_key means the same); header: in the header that name says;"
        " query: in the URL, as the parameter that name says; basic: as the password of username; none: not at all.",
    )
    name: str | None = Field(
        default=None, min_length=1, description="header and query: what the header or parameter is called."
    )
    prefix: str = Field(default="", description="header: put before the key, such as 'Token ' with its space.")
    username: SecretStr = Field(default=SecretStr(""), description="basic: the name that goes with the key.")
    key_rotation: bool = Field(default=False, description="Several keys in turn; not supported yet, so only false.")

    @field_validator("method", mode="before")
    @classmethod
    def _is_built(cls, value: object) -> object:
        if value in _TO_COME:
            raise ValueError(f"{value!r} {REFUSAL}, or write bearer, header, query, basic or none")
        return value

    @field_validator("key_rotation")
    @classmethod
    def _is_off(cls, value: bool) -> bool:
        if value:
            raise ValueError(f"{REFUSAL}, or declare a provider for each key")
        return value

    @field_validator("prefix")
    @classmethod
    def _can_begin_a_header(cls, value: str) -> str:
        if not _PREFIX.fullmatch(value):
            raise ValueError("holds a line end, a space at its start, or a character that no header can")
        return value

    @field_validator("username")
    @classmethod
    def _has_no_colon(cls, value: SecretStr) -> SecretStr:
        if ":" in value.get_secret_value():
            raise ValueError("holds a colon, which ends a user's name; the key goes into api_key")
        return value

    @model_validator(mode="after")
    def _makes_sense(self) -> AuthConfig:
        if self.method in ("header", "query") and self.name is None:
            raise ValueError(
                f"method {self.method} needs name, such as {'api-key' if self.method == 'header' else 'key'}"
            )
        if self.method == "header" and not HEADER_NAME.fullmatch(self.name or ""):
            raise ValueError("name holds a character that no header's name can; use letters, digits and hyphens")
        reads = {"header": {"name", "prefix"}, "query": {"name"}, "basic": {"username"}}.get(self.method, set())
        for unread in ("name", "prefix", "username"):
            if unread in self.model_fields_set and unread not in reads:
                raise ValueError(f"method {self.method} does not read {unread}; remove it or change the method")
        return self

    def needs_key(self) -> bool:
        """Whether there is nothing to send without a key."""
        return self.method != "none" and not self.username.get_secret_value()

    def headers(self, key: SecretStr) -> dict[str, str]:
        """Return the headers that carry a key, names in lower case; none where there is nothing to send."""
        revealed = key.get_secret_value()
        if self.method in ("bearer", "api_key"):
            return {"authorization": f"Bearer {revealed}"} if revealed else {}
        if self.method == "header":
            return {(self.name or "").lower(): f"{self.prefix}{revealed}"} if revealed else {}
        if self.method == "basic" and (revealed or self.username.get_secret_value()):
            pair = f"{self.username.get_secret_value()}:{revealed}"
            return {"authorization": f"Basic {base64.b64encode(pair.encode()).decode('ascii')}"}
        return {}

    def query(self, key: SecretStr) -> Mapping[str, str]:
        """Return the parameters of the URL that carry a key."""
        if self.method != "query" or not key.get_secret_value():
            return {}
        return {self.name or "": key.get_secret_value()}


class KeyedURL(httpx.URL):
    """A URL that holds a key, which its repr leaves out: it stands in tracebacks."""

    def __repr__(self) -> str:
        return f"KeyedURL({str(self.copy_with(query=None))!r})"


def sendable(value: SecretStr) -> SecretStr:
    """Return a secret that a header can hold.

    Raises:
        ValueError: None can; the message does not show it.
    """
    if not _HEADER_VALUE.fullmatch(value.get_secret_value()):
        raise ValueError("holds a line end, a space at an end, or a character that no header can; check the secret")
    return value
